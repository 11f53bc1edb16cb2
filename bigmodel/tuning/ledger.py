"""What every finished trial came to, as a file of its own: nothing that is done is ever done again."""

from __future__ import annotations

import dataclasses
import json
import os
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Row = dict[str, Any]

_RESULT, _VERDICT = "result.json", "verdict.json"
AGAIN, BETWEEN = "x2", "half"
"""End the names of trials after the search: one done before, trained twice as long, and one above it in size."""
MODELS_KEPT = 8
"""Models of so many trials are kept, the best ones: one of them wins."""


@dataclasses.dataclass(frozen=True)
class Ledger:
    """The results in a search's directory.

    Several processes may write into it: each trial has a folder of its own, and a result appears whole or not at all.

    Args:
        directory: The search's directory.
        tell: Called with each row when it is new.
    """

    directory: Path
    tell: Callable[[Row], Any] | None = None

    def folder(self, trial: str) -> Path:
        """Returns the directory of a trial; it is made where it is missing."""
        path = self.directory / f"trial_{trial}"
        path.mkdir(parents=True, exist_ok=True)
        return path

    def fact(self, name: str, find: Callable[[], Mapping[str, Any]]) -> Row:
        """Returns what all trials share and is found once; where it is not there yet, finds and writes it."""
        path = self.directory / f"{name}.json"
        found = _read(path)
        return _write(path, find()) if found is None else found

    def once(self, trial: str, values: Mapping[str, Any], run: Callable[[Path], Mapping[str, Any]]) -> Row:
        """Returns a trial's row; where there is none for these values, runs it and writes it.

        Args:
            trial: Its name.
            values: Its hyperparameters.
            run: Gets the trial's folder and returns its figures.
        """
        path = self.folder(trial) / _RESULT
        found = _read(path)
        if found is not None and found["values"] == _as_kept(values):
            return found
        row = _write(path, {"trial": trial, "values": dict(values), **run(path.parent)})
        if self.tell is not None:
            self.tell(row)
        return row

    def verdict(self, trial: str) -> Row:
        """Returns what was found when a trial was verified; empty where it was not."""
        return _read(self.folder(trial) / _VERDICT) or {}

    def verified(self, trial: str, judge: Callable[[Path], Row]) -> Row:
        """Returns the verdict on a trial; where there is none, asks `judge`, who gets its folder, and writes it."""
        path = self.folder(trial) / _VERDICT
        return _read(path) or _write(path, judge(path.parent))

    def rows(self, *, again: bool = True) -> list[Row]:
        """Returns the rows of all finished trials, in the order of their names.

        Args:
            again: Whether those count that were trained after the search.
        """
        found = (_read(path) for path in sorted(self.directory.glob(f"trial_*/{_RESULT}")))
        return [row for row in found if row is not None and (again or not row["trial"].endswith((AGAIN, BETWEEN)))]

    def keep_models(self, trials: list[str]) -> None:
        """Removes the models and files of all trials of the search but these."""
        for row in self.rows(again=False):
            if row["trial"] not in trials:
                for name in ("model.keras", "model.tflite"):
                    (self.folder(row["trial"]) / name).unlink(missing_ok=True)


def _write(path: Path, row: Mapping[str, Any]) -> Row:
    kept: Row = _as_kept(row)
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}")  # what trials share, several workers may write at once
    partial.write_text(json.dumps(kept), encoding="utf-8")
    os.replace(partial, path)
    return kept


def _read(path: Path) -> Row | None:
    try:
        row: Row = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return row


def _as_kept(values: Mapping[str, Any]) -> Any:
    """The values as they come back from the file; NumPy's numbers become Python's."""
    return json.loads(json.dumps(values, default=lambda value: value.tolist()))
