"""What a run is about, as fingerprints; and where it ran."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

import bigmodel
from bigmodel.data import Data, Split
from bigmodel.legacy.shell import layer_in
from bigmodel.run.journal import digest
from bigmodel.run.plan import name_of

_PACKAGES = ("tensorflow", "keras", "ai-edge-litert", "ai-edge-quantizer", "numpy")
_LEGACY_PACKAGES = ("tf_keras", "tensorflow-model-optimization")
_STREAM_SAMPLES = 256


def identity_of(model: keras.Model, data: Data, plan: dict[str, Any], seed: int) -> dict[str, Any]:
    """Returns the identity of a run, JSON-ready. Nothing is changed.

    Arrays count with every byte; a stream with its size and its first samples, or with their form alone if they are
    others at each reading, as those of a shuffled stream are.

    Args:
        model: The caller's model, compiled.
        data: Its splits.
        plan: The orders.
        seed: The seed.
    """
    names = ["train", "validation", "test"]
    if data.train.in_memory:  # of a stream the calibration samples are the first ones, which count already
        names.append("calibration")
    splits = {name: _split_digest(getattr(data, name)) for name in names}
    return {"bigmodel": bigmodel.__version__, "model": _model_digest(model), "data": splits, **plan, "seed": seed}


def environment(model: keras.Model | None = None) -> dict[str, Any]:
    """Returns versions and devices, for the report; those of Keras 2 where the model is of it."""
    is_legacy = model is not None and layer_in(model) is not None
    packages = _PACKAGES + (_LEGACY_PACKAGES if is_legacy else ())
    return {
        **{package: _version(package) for package in packages},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "devices": keras.distribution.list_devices(),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # there is no ai-edge-quantizer for Windows
        return None


def _model_digest(model: keras.Model) -> str:
    compilation = _told(model.get_compile_config) or {}
    # Keras numbers optimizers as they are made: the name says nothing of the model.
    optimizer = {key: value for key, value in model.optimizer.get_config().items() if key != "name"}
    facts = [type(model).__qualname__, _told(model.get_config), {**compilation, "optimizer": optimizer}]
    # The state of random layers is drawn anew whenever a model is loaded, and set by the run's seed when it trains.
    variables = (np.asarray(v) for v in model.variables if v.name != "seed_generator_state")
    return digest(json.dumps(facts, default=name_of).encode(), *map(_bytes, variables))


def _told(get_config: Callable[[], Any]) -> Any:
    try:
        return get_config()
    except (NotImplementedError, TypeError, ValueError):  # a class of the caller's own, known by its weights then
        return None


def _split_digest(split: Split | None) -> str | None:
    if split is None:
        return None
    arrays = _leaves(split if split.in_memory else split.sample(_STREAM_SAMPLES))
    form = [str(split.size), *(f"{array.dtype.str} {array.shape[1:]}" for array in arrays)]
    values = [_bytes(array) for array in arrays]
    if not split.in_memory:
        again = [_bytes(array) for array in _leaves(split.sample(_STREAM_SAMPLES))]
        values = values if digest(*values) == digest(*again) else []
    return digest(" ".join(form).encode(), *values)


def _leaves(split: Split) -> list[np.ndarray]:
    return [np.asarray(leaf) for part in split.arrays() if part is not None for leaf in keras.tree.flatten(part)]


def _bytes(array: np.ndarray) -> Any:
    """The array's bytes, without a copy where it has numbers in a row."""
    return array.tobytes() if array.dtype.hasobject else np.ascontiguousarray(array).reshape(-1).view(np.uint8)
