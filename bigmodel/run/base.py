"""What the runs of both kinds of models have in common: steps that are done once, files that compete, and the end."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras

from bigmodel.config import PruneConfig
from bigmodel.data import Data
from bigmodel.errors import ConversionError
from bigmodel.evaluation import evaluate_model, primary_metric
from bigmodel.export import export_float
from bigmodel.export.formats import Written
from bigmodel.export.quantized import write_files
from bigmodel.quantization import Deployed
from bigmodel.run.candidates import Choice, Figures
from bigmodel.run.competition import Competition, Order
from bigmodel.run.conclusion import Conclusion
from bigmodel.run.journal import Journal
from bigmodel.run.model_files import ModelFiles
from bigmodel.run.plan import Plan
from bigmodel.run.progress import Stages
from bigmodel.tuning.trial import judged

Train = Callable[[list[Any], Path], tuple[keras.Model, Figures]]
"""Trains with callbacks, from a checkpoint's path prefix where it can go on from one: the model, and what to tell."""


@dataclasses.dataclass
class BaseRun:
    """One run: what it works on, and what it has to tell.

    Args:
        model: The caller's model, compiled; of a tf_keras one its shell.
        data: The splits.
        plan: The orders.
        journal: The run's journal: a run that was cut off goes on from it.
        models: Writes and reads models.
        stages: Shows what goes on.
        seed: The run's seed.
        callbacks: Callbacks for every training.
        notes: What a reader should know.
        keeps_files: Whether the directory stays.
    """

    model: keras.Model
    data: Data
    plan: Plan
    journal: Journal
    models: ModelFiles
    stages: Stages
    seed: int
    callbacks: tuple[Any, ...]
    notes: Sequence[str]
    keeps_files: bool

    def __post_init__(self) -> None:
        self.metric = primary_metric(self.model)
        self.judged = judged(self.data, self.seed)
        self.competition = Competition(
            self.journal, self.judged, self.models, self.metric, self.stages, self.plan.target.runtime
        )
        self.steps: list[Figures] = []
        self.trials: Sequence[Mapping[str, Any]] = ()
        self.skipped: dict[tuple[str, str, str], Figures] = {}

    def _step(
        self,
        name: str,
        title: str,
        model: keras.Model,
        train: Train,
        epochs: int,
    ) -> keras.Model:
        """Runs a step, or reads what it made from the run's directory, and tells of it in the report."""
        path = self.journal.path("checkpoints", f"{name}.keras")
        with self.stages.stage(title, epochs=epochs) as stage:
            told = self.journal.recall(f"step {name}")
            if told is None:
                started = time.perf_counter()
                made, details = train([*self.callbacks, *stage.callbacks], path.with_suffix(""))
                self.models.save(made, path)
                figures = {
                    "name": name,
                    "seconds": time.perf_counter() - started,
                    "metric_before": evaluate_model(model, self.judged, like=self.model).metric,
                    "metric_after": evaluate_model(made, self.judged, like=self.model).metric,
                    **details,
                }
                told = self.journal.write(f"step {name}", figures)
                for state in path.parent.glob(f"{name}.npz*"):  # what an interrupted training would have gone on from
                    state.unlink()
            else:
                made = self.models.load(path)
            stage.outcome = f"{self.metric.name} {told['metric_before']:.4f} -> {told['metric_after']:.4f}"
        self.steps.append(told)
        self._skip(told.get("skipped", ()))
        return made

    def _pruned(
        self, model: keras.Model, prune: Callable[[keras.Model, PruneConfig, str], keras.Model]
    ) -> tuple[keras.Model, tuple[str, ...]]:
        """Prunes in the ordered order, and names what was done."""
        done: tuple[str, ...] = ()
        for number, config in enumerate(self.plan.prunes, start=1):
            name = "prune" if len(self.plan.prunes) == 1 else f"prune{number}"
            model = prune(model, config, name)
            done = (*done, name)
        return model, done

    def _float_files(
        self, network: keras.Model, orders: Sequence[Order], done: tuple[str, ...] = ()
    ) -> list[Deployed | ConversionError]:
        """Writes float files; the network that nothing was done to is the baseline's, and so is its file."""
        baseline = self.competition.baseline
        with tempfile.TemporaryDirectory(prefix="bigmodel-float-") as folder:
            if baseline and not done:
                source = self.journal.path(baseline["path"])
            else:
                source = export_float(network, Path(folder, "float.tflite"))
            written = write_files(source, orders)
        return simulated_by(network, written)

    def _conclude(self, choice: Choice, steps: Sequence[Figures], notes: Sequence[str]) -> None:
        """Writes the report, and leaves of a temporary directory what the result needs."""
        conclusion = Conclusion(
            self.model, self.data, self.plan, self.journal, self.models, self.competition, self.stages, self.seed,
            self.keeps_files, self.trials,
        )  # fmt: skip
        conclusion.write(choice, steps, list(self.skipped.values()), notes)
        if not self.keeps_files:
            for name in ("candidates", "checkpoints", "tuning"):
                shutil.rmtree(self.journal.path(name), ignore_errors=True)

    def _within(self, row: Figures) -> bool:
        return row["status"] != "failed" and row["metric_drop"] <= self.plan.target.max_drop

    def _skip(self, skipped: Sequence[Any]) -> None:
        for one in skipped:
            row = one if isinstance(one, dict) else dataclasses.asdict(one)
            self.skipped[(row["layer"], row["step"], row["reason"])] = row


def simulated_by(model: keras.Model, files: Sequence[Written | ConversionError]) -> list[Deployed | ConversionError]:
    """Returns files with the model that computes as they do; what could not be written stays as it is."""
    return [Deployed(file, model) if isinstance(file, Written) else file for file in files]
