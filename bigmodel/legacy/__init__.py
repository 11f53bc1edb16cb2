"""The verbs for tf_keras (Keras 2) models, through the TensorFlow Model Optimization Toolkit; and the way out of it.

A tf_keras model travels through the library in a shell: a Keras 3 model whose only layer calls it. So the data, the
metrics, the files and the report are those of every other model, and only what trains is the toolkit's.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_HOMES = {
    "cluster": "bigmodel.legacy.steps",
    "from_legacy": "bigmodel.legacy.migration",
    "is_tf_keras": "bigmodel.legacy.loading",
    "network_in": "bigmodel.legacy.shell",
}

__all__ = ["cluster", "from_legacy", "is_tf_keras", "network_in"]

if TYPE_CHECKING:
    from bigmodel.legacy.loading import is_tf_keras
    from bigmodel.legacy.migration import from_legacy
    from bigmodel.legacy.shell import network_in
    from bigmodel.legacy.steps import cluster


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'bigmodel.legacy' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
