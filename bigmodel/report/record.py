"""The record of a run: a stable, versioned format that other programs read."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import bigmodel
from bigmodel.errors import ArgumentError, describe

RECORD_VERSION = 1
_REQUIRED = ("target_met", "metric", "max_drop", "baseline", "final")


@dataclasses.dataclass(frozen=True)
class Record:
    """Everything a run measured and decided. Prints itself, and shows itself in a notebook.

    Args:
        target_met: Whether the final file keeps every bound of the target.
        metric: Name of the metric that decides.
        max_drop: How far it may fall: absolute where higher is better, else relative.
        baseline: Figures of the float file of the caller's model.
        final: Figures of the chosen file, measured on the split named by `split`.
        candidates: Figures of every file that was made: name, format, metric, metric_drop, drop_interval, agreement,
            size_bytes, gzip_bytes, latency_ms, latency_p95_ms, parameters, macs, sparsity, arena_bytes, samples, status
            ("chosen", "lost" or "failed"), reason, steps (names) and path (relative, may be `None`).
        steps: What was done: name, seconds, metric_before, metric_after and more.
        skipped: What was left out: layer, step, reason.
        environment: Versions and devices.
        seed: The run's seed.
        seconds: Its duration.
        higher_is_better: Whether the metric is to be maximised.
        target: The other bounds: size (bytes), latency_ms, optimize.
        split: The split that baseline and final were measured on.
        ops: The chosen file's operations, as `bigmodel.evaluation.OpFacts` has them.
        notes: What a reader should know: how splits came to be, what was guessed.
        trials: What a search tried: trial, values (by hyperparameter), status ("done", "stopped" or "failed"), reason,
            score, metric, metric_drop, size_bytes, latency_ms, seconds; of those that were verified on data the search
            did not see, holdout_metric, holdout_drop and verified.
        bigmodel: The version that wrote the record.
        extra: Keys that a newer version wrote; they are kept.

    Example:
        >>> record = Record(target_met=True, metric="accuracy", max_drop=0.01,
        ...                 baseline={"metric": 0.9, "size_bytes": 4000}, final={"metric": 0.9, "size_bytes": 1000})
        >>> Record.from_json(record.to_json()) == record
        True
    """

    target_met: bool
    metric: str
    max_drop: float
    baseline: Mapping[str, Any]
    final: Mapping[str, Any]
    candidates: Sequence[Mapping[str, Any]] = ()
    steps: Sequence[Mapping[str, Any]] = ()
    skipped: Sequence[Mapping[str, Any]] = ()
    environment: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    seed: int = 0
    seconds: float = 0.0
    higher_is_better: bool = True
    target: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    split: str = "test"
    ops: Sequence[Mapping[str, Any]] = ()
    notes: Sequence[str] = ()
    trials: Sequence[Mapping[str, Any]] = ()
    bigmodel: str = bigmodel.__version__
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):  # a record holds its own plain copy: what it was made from may change
            object.__setattr__(self, field.name, _plain(getattr(self, field.name)))

    def to_dict(self) -> dict[str, Any]:
        """Returns the record as a new dict that JSON can carry, with its version; what is no finite number is null."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "extra"}
        return copy.deepcopy({"version": RECORD_VERSION, **fields, **self.extra})

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Record:
        """Makes the record from `to_dict`'s result. The mapping is not changed; keys it does not know are kept.

        Raises:
            ArgumentError: The record's version is newer than this library's, or a key that every record has is missing.
        """
        version = values.get("version")
        if not isinstance(version, int) or version > RECORD_VERSION:
            raise ArgumentError(
                "This record can't be read.",
                received=f"version {describe(version)}",
                expected=f"a record of version 1 to {RECORD_VERSION}",
                fix="Read it with the version of bigmodel that wrote it, or a newer one.",
            )
        missing = [key for key in _REQUIRED if key not in values]
        if missing:
            raise ArgumentError(
                "This record is incomplete.",
                received=f"keys {sorted(values)}",
                expected=f"also {missing}",
                fix="Read a report.json that compress_and_tune wrote.",
            )
        known = {field.name for field in dataclasses.fields(cls)} - {"extra"}
        extra = {key: value for key, value in values.items() if key not in known and key != "version"}
        return cls(**{key: value for key, value in values.items() if key in known}, extra=extra)

    def to_json(self) -> str:
        """Returns `to_dict()` as JSON text."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Record:
        """Makes the record from `to_json`'s result."""
        return cls.from_dict(json.loads(text))

    def to_html(self) -> str:
        """Returns the record as one HTML page that loads nothing from elsewhere."""
        from bigmodel.report.html import page

        return page(self)

    def to_text(self, *, width: int = 100, color: bool = False) -> str:
        """Returns the record as text for a terminal of `width` characters."""
        from bigmodel.report.text import render

        return render(self, width=width, color=color)

    def __str__(self) -> str:
        from bigmodel.report.text import terminal_width

        return self.to_text(width=terminal_width())

    def __rich__(self) -> Any:
        """What `rich.print(record)` shows: the same text, in colour where the terminal has it."""
        from bigmodel.report.text import renderable

        return renderable(self)

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        from bigmodel.report.html import fragment

        return fragment(self)


def _plain(value: Any) -> Any:
    """Returns a deep copy of builtin types only: tuples and arrays become lists, what is no number becomes `None`."""
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(part) for part in value]
    if hasattr(value, "tolist"):  # NumPy arrays and scalars
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (str, int, bool)) else str(value)
