"""Quantization: simulated in Keras as the file computes, trained where needed, and handed to the file by its grids.

`quantize_post_training` and `quantize_aware` are the step's two methods; `deploy` writes files. Names load on first
use: Keras' loading imports the layers of this package, possibly in the middle of one of our own imports.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_HOMES = {
    "Deployed": "files",
    "FakeQuantize": "layers",
    "LayerRule": "table",
    "Quantization": "post_training",
    "Quantized": "layers",
    "RULES": "table",
    "Skipped": "simulation",
    "deploy": "files",
    "is_simulation": "simulation",
    "quantize_aware": "aware",
    "quantize_post_training": "post_training",
    "register_rule": "table",
    "simulated": "simulation",
    "with_activations": "simulation",
}

__all__ = [
    "RULES",
    "Deployed",
    "FakeQuantize",
    "LayerRule",
    "Quantization",
    "Quantized",
    "Skipped",
    "deploy",
    "is_simulation",
    "quantize_aware",
    "quantize_post_training",
    "register_rule",
    "simulated",
    "with_activations",
]

if TYPE_CHECKING:
    from bigmodel.quantization.aware import quantize_aware
    from bigmodel.quantization.files import Deployed, deploy
    from bigmodel.quantization.layers import FakeQuantize, Quantized
    from bigmodel.quantization.post_training import Quantization, quantize_post_training
    from bigmodel.quantization.simulation import Skipped, is_simulation, simulated, with_activations
    from bigmodel.quantization.table import RULES, LayerRule, register_rule


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'bigmodel.quantization' has no attribute {name!r}")
    return getattr(importlib.import_module(f"bigmodel.quantization.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
