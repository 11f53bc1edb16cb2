"""Interrupted training goes on from the last finished epoch and ends as if nothing had happened."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from bigmodel.errors import DirectoryError
from bigmodel.training.selection import BestWeights

_VERSION = 1


def path_of(prefix: str | os.PathLike[str]) -> Path:
    """Returns the file of a checkpoint, from its path without the ending."""
    return Path(f"{os.fspath(prefix)}.npz")


def run_of(prefix: str | os.PathLike[str]) -> dict[str, Any]:
    """Returns what the run was told to be that wrote a checkpoint; an empty dict where there is none."""
    path = path_of(prefix)
    return _read(path)[0].get("run", {}) if path.exists() else {}


class Checkpoint(keras.callbacks.Callback):
    """Writes all that training depends on at the end of each epoch, into one file that is replaced as a whole.

    The file holds the model's variables (the seeds of random layers included), the optimizer's, the best weights so
    far, the history, and the state of callbacks that have `get_state()` and `set_state()`. The order of the data is a
    function of the seed and the epoch, and needs no state.

    Args:
        prefix: Path of the file without its ending; missing folders are made.
        run: What has to be equal for a run to go on, as a JSON-ready dict.
        best: The callback whose weights and state are carried, or `None`.
        callbacks: Other callbacks of the fit.
    """

    def __init__(
        self,
        prefix: str | os.PathLike[str],
        run: dict[str, Any],
        *,
        best: BestWeights | None,
        callbacks: Iterable[keras.callbacks.Callback],
    ) -> None:
        super().__init__()
        self.path = path_of(prefix)
        self.run = json.loads(json.dumps(run))
        self.best = best
        self.stateful = [c for c in callbacks if hasattr(c, "get_state") and hasattr(c, "set_state")]
        self.history: dict[str, list[float]] = {}

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        for name, value in (logs or {}).items():
            self.history.setdefault(name, []).append(float(value))
        groups = {
            "model": _arrays(self.model.variables),
            "optimizer": _arrays(self.model.optimizer.variables),
            "best": list((self.best and self.best.weights) or []),
        }
        facts = {
            "version": _VERSION,
            "run": self.run,
            "epochs": epoch + 1,
            "stopped": bool(self.model.stop_training),
            "history": self.history,
            "best": self.best.get_state() if self.best is not None else None,
            "callbacks": [callback.get_state() for callback in self.stateful],
        }
        _write(self.path, facts, groups)

    def resume(self, model: keras.Model) -> tuple[int, bool]:
        """Brings the model and the callbacks to where the file was written, if there is one.

        Args:
            model: The compiled model; its variables and its optimizer's are overwritten.

        Returns:
            The number of finished epochs, and whether early stopping had ended the run.

        Raises:
            DirectoryError: The file was written by another run.
        """
        if not self.path.exists():
            return 0, False
        facts, groups = _read(self.path)
        if facts.get("version") != _VERSION or facts["run"] != self.run:
            raise DirectoryError(
                f"The checkpoint {self.path} belongs to another run.",
                received=json.dumps({name: facts.get("run", {}).get(name) for name in self.run}),
                expected=json.dumps(self.run),
                fix="Use another directory, or delete the checkpoint to start again.",
            )
        model.optimizer.build(model.trainable_variables)
        _assign(model.variables, groups["model"])
        _assign(model.optimizer.variables, groups["optimizer"])
        if self.best is not None:
            self.best.set_state(facts["best"], groups["best"] or None)
        for callback, state in zip(self.stateful, facts["callbacks"], strict=True):
            callback.set_state(state)
        self.history = facts["history"]
        return facts["epochs"], facts["stopped"]


def _write(path: Path, facts: dict[str, Any], groups: dict[str, list[np.ndarray]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, Any] = {
        f"{group}/{i}": array for group, values in groups.items() for i, array in enumerate(values)
    }
    temporary = path.with_name(f"{path.name}.{os.getpid()}.partial")
    with temporary.open("wb") as file:
        np.savez(file, facts=np.frombuffer(json.dumps(facts).encode(), dtype=np.uint8), **arrays)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _read(path: Path) -> tuple[dict[str, Any], dict[str, list[np.ndarray]]]:
    with np.load(path) as file:
        facts = json.loads(file["facts"].tobytes())
        groups: dict[str, list[np.ndarray]] = {"model": [], "optimizer": [], "best": []}
        for name in file.files:
            if name != "facts":
                groups[name.split("/")[0]].append(file[name])  # Files keep the order they were written in.
    return facts, groups


def _arrays(variables: Iterable[keras.Variable]) -> list[np.ndarray]:
    arrays = [np.asarray(variable) for variable in variables]
    # NumPy files know no bfloat16, which float32 holds exactly.
    return [a if a.dtype.kind in "biufc" else a.astype(np.float32) for a in arrays]


def _assign(variables: Sequence[keras.Variable], arrays: Sequence[np.ndarray]) -> None:
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)
