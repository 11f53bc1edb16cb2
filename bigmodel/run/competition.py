"""Enters files into the competition: writes, measures and remembers them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bigmodel.config import Target
from bigmodel.data import Split
from bigmodel.errors import ConversionError
from bigmodel.evaluation import Evaluation, Metric, evaluate_file, measure_latency
from bigmodel.export.formats import Format
from bigmodel.quantization import Deployed
from bigmodel.run.candidates import Choice, Figures, choose, file_inputs, measure, try_out
from bigmodel.run.journal import Journal
from bigmodel.run.model_files import ModelFiles
from bigmodel.run.progress import Stages

# Below this share of equal answers a file does not compute what its simulation does.
AGREEMENT_WANTED = 0.999

Order = tuple[Format, Path]
Write = Callable[[Sequence[Order]], "Sequence[Deployed | ConversionError]"]
Make = Callable[[], "Deployed | ConversionError"]


@dataclasses.dataclass
class Competition:
    """The files of a run that compete.

    Args:
        journal: Where each file's figures are kept.
        split: The samples on which files are judged.
        models: Writes the simulations; its model's loss and metrics count.
        metric: The metric that decides.
        stages: Shows what goes on.
        runtime: Threads and delegate of the files, as `Target.runtime` gives them.
    """

    journal: Journal
    split: Split
    models: ModelFiles
    metric: Metric
    stages: Stages
    runtime: Mapping[str, Any]

    def __post_init__(self) -> None:
        self.rows: list[Figures] = []
        self.baseline: Figures = {}
        self._reference: Evaluation | None = None

    def enter_baseline(self, write: Write, format_: Format) -> None:
        """Makes the float file of the caller's model, with which all others are compared.

        Raises:
            ConversionError: It can't be made or does not run; without it there is nothing to compare with.
        """
        with self.stages.stage("float file") as stage:
            names = {format_.name: "baseline"}
            row = self._row("baseline", (), format_, lambda: self._write([format_], names, write)[0])
            stage.outcome = self._outcome(row)
        if row["status"] == "failed":
            raise ConversionError(
                "The model has no float file.",
                received=row["reason"],
                expected="a model that the converter takes and the runtime runs",
                fix="Replace the layer that the message names by one that LiteRT has.",
            )
        self.baseline = row

    def enter(self, steps: tuple[str, ...], formats: Sequence[Format], write: Write) -> list[Figures]:
        """Enters the files of one network, one for each format, and returns their rows.

        Args:
            steps: What the network went through.
            formats: The formats.
            write: Writes the files that are not there yet; gives for each the file and its simulation, or why not.
        """
        title = " + ".join([*steps, f"{len(formats)} file{'s' if len(formats) > 1 else ''}"])
        with self.stages.stage(title) as stage:
            names = {format_.name: "+".join([*steps, format_.name]) for format_ in formats}
            if all(self.journal.recall(f"file {name}") for name in names.values()):
                made: dict[str, Any] = {}
            else:  # all together, those that stand there too: each depends on the others that are written with it
                made = dict(zip(names, self._write(formats, names, write), strict=True))
            rows = [self._row(names[f.name], steps, f, lambda f=f: made[f.name]) for f in formats]  # type: ignore[misc]
            self.rows += rows
            measured = [row for row in rows if row["status"] != "failed"]
            stage.outcome = "; ".join(f"{row['format']} {row['metric']:.4f}" for row in measured)
        return rows

    def _write(self, formats: Sequence[Format], names: dict[str, str], write: Write) -> Sequence[Any]:
        try:
            return write([(format_, self._path(names[format_.name])) for format_ in formats])
        except ConversionError as error:
            return [error for _ in formats]

    def _path(self, name: str, suffix: str = ".tflite") -> Path:
        return self.journal.path("candidates", name + suffix)

    def _row(self, name: str, steps: tuple[str, ...], format_: Format, make: Make) -> Figures:
        """Returns the file's row, from the journal where it stands there."""
        head = {"name": name, "format": format_.name, "steps": list(steps)}
        return self.journal.once(f"file {name}", lambda: {**head, **self._measured(name, make())})

    def _measured(self, name: str, made: Deployed | ConversionError) -> Figures:
        try:
            if isinstance(made, ConversionError):
                raise made
            path = made.written.path
            try_out(path, self.split, self.models.model, self.runtime)
            reference = self.reference
            figures, answers = measure(
                path,
                made.simulation,
                self.split,
                like=self.models.model,
                reference=reference,
                metric=self.metric,
                runtime=self.runtime,
            )
            if reference is None:  # this is the float file: all others are compared with what it answered
                self._reference = answers
        except ConversionError as error:
            return {"status": "failed", "reason": str(error).replace("\n", " "), "path": None}
        self.models.save(made.simulation, self._path(name, ".keras"))
        inexact = sorted(key for key, exact in made.written.exact.items() if not exact)
        return {
            **figures,
            "status": "lost",
            "reason": "",
            "path": str(path.relative_to(self.journal.directory)),
            "not_in_file": [*made.written.missing, *inexact],
            "float_ops": made.written.float_ops,
        }

    @property
    def reference(self) -> Evaluation | None:
        """What the float file answered; `None` while it is being made."""
        if self._reference is None and self.baseline:
            path = self.journal.path(self.baseline["path"])
            self._reference = evaluate_file(path, self.split, like=self.models.model, **self.runtime)
        return self._reference

    def decide(self, target: Target) -> Choice:
        """Measures the latency of all files against each other and chooses one; the rows say why.

        Args:
            target: The bounds and the order.

        Raises:
            ConversionError: No file could be made.
        """
        racing = [row for row in self.rows if row["status"] != "failed"]
        if not racing:
            raise ConversionError(
                "None of the ordered files could be made.",
                received="; ".join(f"{row['name']}: {row['reason']}" for row in self.rows),
                expected="at least one file that runs",
                fix="Order other bits, or replace the layers that the messages name.",
            )
        with self.stages.stage("latency, all files in turns"):
            runners = [self.baseline, *racing]
            entry = "latency of " + ", ".join(row["name"] for row in runners)
            times = self.journal.once(entry, lambda: self._race(runners))
        for row in [self.baseline, *racing]:
            row.update(times[row["name"]])
        choice = choose(racing, target, self.metric, self.baseline["latency_ms"])
        for row in racing:
            row["status"] = "chosen" if row["name"] == choice.name else "lost"
            row["reason"] = choice.reasons[row["name"]]
        return choice

    def _race(self, rows: Sequence[Figures]) -> Figures:
        x, _, _ = self.split.sample(1).arrays()
        sample = file_inputs(self.models.model, x)  # its sizes stand for those that the files leave free
        times = measure_latency([self.journal.path(row["path"]) for row in rows], sample=sample, **self.runtime)
        return {
            row["name"]: {"latency_ms": time.median_ms, "latency_p95_ms": time.p95_ms}
            for row, time in zip(rows, times, strict=True)
        }

    def _outcome(self, row: Figures) -> str:
        return row["reason"] or f"{self.metric.name} {row['metric']:.4f}, {row['size_bytes']:,} bytes"
