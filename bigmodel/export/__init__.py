"""Keras model -> .tflite, with every conversion and first run in a child process.

The names load on first use: a child that only runs a file must not wait for Keras and TensorFlow.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_HOMES = {
    "check_path": "bigmodel.export.float",
    "export_float": "bigmodel.export.float",
    "export_floats": "bigmodel.export.float",
    "first_run": "bigmodel.export.trial",
    "run_batch": "bigmodel.export.child",
    "run_child": "bigmodel.export.child",
}

__all__ = ["check_path", "export_float", "export_floats", "first_run", "run_batch", "run_child"]

if TYPE_CHECKING:
    from bigmodel.export.child import run_batch, run_child
    from bigmodel.export.float import check_path, export_float, export_floats
    from bigmodel.export.trial import first_run


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'bigmodel.export' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
