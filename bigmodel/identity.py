"""What a run is about, as fingerprints; and where it ran."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from typing import Any

import keras
import numpy as np

import bigmodel
from bigmodel.data import Data, Split
from bigmodel.journal import digest

_PACKAGES = ("tensorflow", "keras", "ai-edge-litert", "ai-edge-quantizer", "numpy")
_STREAM_SAMPLES = 256


def identity_of(model: keras.Model, data: Data, plan: dict[str, Any], seed: int) -> dict[str, Any]:
    """Returns the identity of a run, JSON-ready. Nothing is changed.

    Arrays count with every byte, a stream with its size and its first samples.

    Args:
        model: The caller's model, compiled.
        data: Its splits.
        plan: The orders.
        seed: The seed.
    """
    splits = {name: _split_digest(getattr(data, name)) for name in ("train", "validation", "test", "calibration")}
    return {"bigmodel": bigmodel.__version__, "model": _model_digest(model), "data": splits, **plan, "seed": seed}


def environment() -> dict[str, Any]:
    """Returns versions and devices, for the report."""
    found = {package: importlib.metadata.version(package) for package in _PACKAGES}
    return {
        **found,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "devices": keras.distribution.list_devices(),
        "delegate": "xnnpack",
        "threads": 1,
    }


def _model_digest(model: keras.Model) -> str:
    text = json.dumps([_config(model), _name(model.optimizer), model.optimizer.get_config()], default=_name)
    return digest(text.encode(), *(np.ascontiguousarray(variable).tobytes() for variable in model.variables))


def _config(model: keras.Model) -> Any:
    try:
        return model.get_config()
    except NotImplementedError:  # a subclassed model without a config is known by its weights
        return type(model).__qualname__


def _name(value: Any) -> str:
    kind = value if isinstance(value, type) or callable(value) and hasattr(value, "__qualname__") else type(value)
    return f"{kind.__module__}.{kind.__qualname__}"


def _split_digest(split: Split | None) -> str | None:
    if split is None:
        return None
    held = split if split.in_memory else split.sample(_STREAM_SAMPLES)
    arrays = [np.ascontiguousarray(leaf) for part in held.arrays() for leaf in keras.tree.flatten(part) if part is not None]
    return digest(str(split.size).encode(), *(a.dtype.str.encode() + str(a.shape).encode() + a.tobytes() for a in arrays))
