"""The end of a run: the chosen file put in place, measured on what chose nothing, and reported."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras

from bigmodel.data import Data
from bigmodel.evaluation import inspect_file
from bigmodel.report import Record
from bigmodel.run.candidates import Choice, Figures, measure
from bigmodel.run.competition import AGREEMENT_WANTED, Competition
from bigmodel.run.identity import environment
from bigmodel.run.journal import Journal, write_whole
from bigmodel.run.model_files import ModelFiles
from bigmodel.run.plan import Plan
from bigmodel.run.progress import Stages


@dataclasses.dataclass(frozen=True)
class Conclusion:
    """What the end of a run works on.

    Args:
        model: The caller's model, compiled.
        data: Its splits.
        plan: The orders.
        journal: The run's journal.
        models: Reads the run's models.
        competition: The files that competed.
        stages: Shows what goes on.
        seed: The run's seed.
        keeps_files: Whether the candidates' files stay, so that the report may name them.
        trials: Those of a search.
    """

    model: keras.Model
    data: Data
    plan: Plan
    journal: Journal
    models: ModelFiles
    competition: Competition
    stages: Stages
    seed: int
    keeps_files: bool
    trials: Sequence[Mapping[str, Any]] = ()

    def write(self, choice: Choice, steps: Sequence[Figures], skipped: Sequence[Figures], notes: Sequence[str]) -> None:
        """Writes model.tflite, model.keras, report.html and, last of all, report.json, each whole or not at all.

        Args:
            choice: The competition's outcome.
            steps: What was done.
            skipped: What was left out.
            notes: What a reader should know.
        """
        chosen = next(row for row in self.competition.rows if row["name"] == choice.name)
        path = self._take(f"{choice.name}.tflite", "model.tflite")
        if self.models.problem is None:
            self._take(f"{choice.name}.keras", "model.keras")
        with self.stages.stage("final figures of the file") as stage:
            final = self.journal.once(f"final {choice.name}", lambda: self._final(path))
            stage.outcome = f"{self.competition.metric.name} {final['final']['metric']:.4f}"
        record = dataclasses.replace(
            self._record(choice, chosen, final, path),
            steps=steps,
            skipped=[*skipped, *_stayed_float(chosen)],
            notes=[*notes, *self.data.notes, *self._warnings(final)],
        )
        for name, text in (("report.html", record.to_html()), ("report.json", record.to_json())):
            write_whole(self.journal.path(name), lambda to, text=text: to.write_text(text, encoding="utf-8"))  # type: ignore[misc]

    def _take(self, candidate: str, name: str) -> Path:
        source = self.journal.path("candidates", candidate)
        return write_whole(self.journal.path(name), lambda to: shutil.copyfile(source, to))

    def _final(self, path: Path) -> Figures:
        """Baseline and chosen file on the held-out split, where nothing was chosen by it."""
        split = self.data.test or self.data.validation or self.data.train
        baseline, reference = measure(
            self.journal.path(self.competition.baseline["path"]),
            self.models.load(self.journal.path("candidates", "baseline.keras")), split,
            like=self.model, reference=None, metric=self.competition.metric, runtime=self.plan.target.runtime,
        )  # fmt: skip
        simulation = self.models.load(self.journal.path("model.keras"))
        final, answers = measure(
            path,
            simulation,
            split,
            like=self.model,
            reference=reference,
            metric=self.competition.metric,
            runtime=self.plan.target.runtime,
        )
        return {
            "split": split.name,
            "baseline": {**baseline, "per_class": reference.per_class},
            "final": {**final, "per_class": answers.per_class},
        }

    def _record(self, choice: Choice, chosen: Figures, final: Figures, path: Path) -> Record:
        timed = ("latency_ms", "latency_p95_ms")
        baseline = self.competition.baseline
        target = self.plan.target
        return Record(
            target_met=choice.target_met,
            metric=self.competition.metric.name,
            max_drop=target.max_drop,
            baseline={**final["baseline"], "format": baseline["format"], **{key: baseline[key] for key in timed}},
            final={
                **final["final"],
                **{key: chosen[key] for key in ("name", "format", *timed)},
                "quantized_weights_exact": not chosen["not_in_file"],
            },
            candidates=[{**row, "path": row["path"] if self.keeps_files else None} for row in self.competition.rows],
            trials=[dict(row) for row in self.trials],
            environment={**environment(self.model), **target.runtime},
            seed=self.seed,
            seconds=self.journal.seconds,
            higher_is_better=self.competition.metric.higher_is_better,
            target={"size": target.size, "latency_ms": target.latency_ms, "optimize": target.optimize},
            split=final["split"],
            ops=[dataclasses.asdict(op) for op in inspect_file(path).ops],
        )

    def _warnings(self, final: Figures) -> Iterator[str]:
        if final["split"] != "test":
            yield f"there was no test split: the final figures are those of {final['split']}"
        if final["final"]["agreement"] < AGREEMENT_WANTED:
            share = final["final"]["agreement"]
            yield f"file and simulation agree on {share:.2%} of the samples only; see what was skipped"
        if final["final"]["metric_drop"] > self.plan.target.max_drop:
            drop = final["final"]["metric_drop"]
            yield f"chosen within the bound on the judged samples, the file is {drop:.4f} worse on {final['split']}"


def _stayed_float(chosen: Figures) -> Iterator[Figures]:
    for name in chosen["not_in_file"]:
        reason = "the converter changed this weight: it stayed float in the file"
        yield {"layer": name, "step": "export", "reason": reason}
