"""Tuning: a search that ends, bounded by the target.

`tune_model` is the step. `VALUES` names what a trial understands, `training_space`, `compression_space` and
`joint_space` are ready-made spaces of it, and `Objective` turns a trial's figures into one number.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_HOMES = {
    "Bounds": "space",
    "Objective": "objective",
    "Options": "search",
    "Tuned": "search",
    "VALUES": "space",
    "compression_space": "space",
    "joint_space": "space",
    "training_space": "space",
    "tune_model": "search",
}

__all__ = [
    "VALUES",
    "Bounds",
    "Objective",
    "Options",
    "Tuned",
    "compression_space",
    "joint_space",
    "training_space",
    "tune_model",
]

if TYPE_CHECKING:
    from bigmodel.tuning.objective import Objective
    from bigmodel.tuning.search import Options, Tuned, tune_model
    from bigmodel.tuning.space import VALUES, Bounds, compression_space, joint_space, training_space


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'bigmodel.tuning' has no attribute {name!r}")
    return getattr(importlib.import_module(f"bigmodel.tuning.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
