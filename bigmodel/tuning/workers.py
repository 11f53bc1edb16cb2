"""Trials in processes of their own, several at a time: on files, so that one that is lost takes no other with it."""

from __future__ import annotations

import importlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from bigmodel.config import QuantizeConfig, Target, TrainConfig
from bigmodel.data import Data, as_data
from bigmodel.errors import ArgumentError, DataError, describe
from bigmodel.export import run_child
from bigmodel.own_parts import custom_objects_of, has_lambda
from bigmodel.pruning import KeepClusters, KeepZeros
from bigmodel.tuning.objective import Objective
from bigmodel.tuning.settings import seeded
from bigmodel.tuning.trial import Bench

_TASK = "bigmodel.tuning.workers:run_job"
_SPLITS = ("train", "validation", "calibration")
_KEEPING = (KeepZeros, KeepClusters)
# A trial that has no time limit of its own is given up after a day; one that has, after this much more than it.
_LONGEST_S, _GRACE_S = 86_400.0, 600.0


class Workers:
    """Runs trials of a bench in child processes.

    Args:
        bench: What the trials share; it is written into files.
        build: The caller's `build`, or `None`.
        directory: Where the files go.

    Raises:
        ArgumentError: Something can't be reached from another process: a function that is not in a module of its own,
            callbacks, a `tf.distribute` strategy.
        DataError: The data is a stream.
    """

    def __init__(self, bench: Bench, build: Any, directory: Path) -> None:
        _check_callbacks(bench)
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        own = {name: _address(part) for name, part in custom_objects_of(bench.model).items()}
        bench.model.save(directory / "model.keras")
        self.job: dict[str, Any] = {
            "directory": str(directory),
            "forms": _save(bench.data, directory),
            "own": own,
            "safe_mode": not has_lambda(bench.model),
            "build": None if build is None else _address(build),
            "objective": {"name": bench.objective.name, "direction": bench.objective.direction},
            "target": bench.objective.target.to_dict(),
            "train": bench.train.to_dict(),
            "quantize": None if bench.quantize is None else bench.quantize.to_dict(),
            "keeps": [type(callback).__name__ for callback in bench.callbacks],
            "seed": bench.seed,
            "baseline": dict(bench.baseline),
        }

    def run(self, hyperparameters: Any, values: Mapping[str, Any], folder: Path, deadline: float | None) -> Any:
        """Runs one trial and returns its figures.

        Args:
            hyperparameters: KerasTuner's, for `build`.
            values: The trial's values.
            folder: The trial's.
            deadline: When its training has to end, on the clock of `time.monotonic`.

        Raises:
            ConversionError: The process was lost.
        """
        left = None if deadline is None else max(deadline - time.monotonic(), 0.0)
        job = {
            **self.job,
            "hyperparameters": hyperparameters.get_config(),
            "values": dict(values),
            "folder": str(folder),
            "ends": None if left is None else time.time() + left,  # the only clock that two processes share
        }
        return run_child(_TASK, job, timeout_s=_LONGEST_S if left is None else left + _GRACE_S, reuse=False)


def run_job(job: Mapping[str, Any]) -> dict[str, Any]:
    """What the child does: reads the files, runs the trial, and returns its figures."""
    directory = Path(job["directory"])
    own = {name: _at(address) for name, address in job["own"].items()}
    model = keras.models.load_model(directory / "model.keras", own, safe_mode=job["safe_mode"])
    bench = Bench(
        model=model,
        data=_load(directory, job["forms"], model, job["seed"]),
        objective=Objective(**job["objective"], target=Target.from_dict(job["target"])),
        train=TrainConfig.from_dict(job["train"]),
        seed=job["seed"],
        baseline=job["baseline"],
        quantize=None if job["quantize"] is None else QuantizeConfig.from_dict(job["quantize"]),
        callbacks=[kind() for kind in _KEEPING if kind.__name__ in job["keeps"]],
    )
    network = None
    if job["build"] is not None:
        import keras_tuner

        build = _at(job["build"])
        with seeded(job["seed"]):
            network = build(keras_tuner.HyperParameters.from_config(job["hyperparameters"]))
    deadline = None if job["ends"] is None else time.monotonic() + job["ends"] - time.time()
    return bench.run(network, job["values"], Path(job["folder"]), deadline=deadline)


def _check_callbacks(bench: Bench) -> None:
    strange: list[Any] = [callback for callback in bench.callbacks if not isinstance(callback, _KEEPING)]
    if bench.train.strategy is not None:
        strange.append(bench.train.strategy)
    if strange:
        raise ArgumentError(
            "This can't be carried into the processes of parallel trials.",
            received=describe(strange[0]),
            expected="no callbacks and no strategy",
            fix="Leave it out, or pass parallel_trials=1.",
        )


def _address(value: Any) -> str:
    """Where a child finds a function or class: "module:name"."""
    module, name = getattr(value, "__module__", ""), getattr(value, "__qualname__", "")
    try:
        if module != "__main__" and _at(f"{module}:{name}") is value:
            return f"{module}:{name}"
    except (ImportError, AttributeError, ValueError):
        pass
    raise ArgumentError(
        "This can't be reached from another process.",
        received=describe(value),
        expected="a function or class at the top of a module that can be imported",
        fix="Move it into a module of its own, or pass parallel_trials=1.",
    )


def _at(address: str) -> Any:
    module, _, name = address.partition(":")
    return getattr(importlib.import_module(module), name)


def _save(data: Data, directory: Path) -> dict[str, Any]:
    """Writes the splits; returns for each the structure of its parts, with numbers in the place of arrays."""
    forms = {}
    for name in _SPLITS:
        split = getattr(data, name)
        if split is None:
            continue
        if not split.in_memory:
            raise DataError(
                "A stream can't be carried into other processes.",
                received=f"the {name} split as a stream",
                expected="arrays",
                fix="Pass arrays, or parallel_trials=1.",
            )
        parts = tuple(part for part in split.arrays() if part is not None)
        arrays = [np.asarray(leaf) for leaf in keras.tree.flatten(parts)]
        np.savez(directory / f"{name}.npz", *arrays)
        forms[name] = keras.tree.pack_sequence_as(parts, list(range(len(arrays))))
    kept: dict[str, Any] = json.loads(json.dumps(forms))  # tuples become lists, as in the job
    return kept


def _load(directory: Path, forms: Mapping[str, Any], model: keras.Model, seed: int) -> Data:
    splits = {}
    for name, form in forms.items():
        with np.load(directory / f"{name}.npz") as file:
            arrays = [file[f"arr_{number}"] for number in range(len(file.files))]
        splits[name] = _filled(form, arrays)
    return as_data(Data(**splits), model=model, seed=seed, validation_fraction=0, test_fraction=0)


def _filled(form: Any, arrays: list[np.ndarray]) -> Any:
    if isinstance(form, dict):
        return {name: _filled(part, arrays) for name, part in form.items()}
    return tuple(_filled(part, arrays) for part in form) if isinstance(form, list) else arrays[form]
