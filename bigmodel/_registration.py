"""Registers our Keras layers as soon as Keras is there, without loading it.

`keras.models.load_model` finds a class only if it was registered before. So that `import bigmodel` is all a saved
model needs, and costs nothing where Keras is never used, the layers are imported right after Keras has been.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

_MODULES = ("bigmodel.quantization.layers", "bigmodel.legacy.layer", "bigmodel.legacy.activations")


def register_with_keras() -> None:
    """Imports the modules of our layers now if Keras is loaded, else right after Keras will have been."""
    if "keras" in sys.modules:
        _import_modules()
    elif not any(isinstance(finder, _AfterKeras) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterKeras())


def _import_modules() -> None:
    for module in _MODULES:
        importlib.import_module(module)


class _AfterKeras(MetaPathFinder):
    """Finds Keras where all other finders do, and lets its loader import our layers at the end."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "keras":
            return None
        others = (finder for finder in list(sys.meta_path) if finder is not self)
        found = (finder.find_spec(fullname, path, target) for finder in others)
        spec = next((spec for spec in found if spec is not None), None)
        if spec is not None and spec.loader is not None:
            _extend(spec)
        return spec


def _extend(spec: ModuleSpec) -> None:
    # The loader stays itself, with one method more in front of its class's: a wrapping loader would hide what
    # importlib.resources and tracebacks ask the real one for.
    loader = spec.loader
    assert loader is not None
    execute = loader.exec_module

    def exec_module(module: ModuleType) -> None:
        execute(module)
        if module.__name__ == "keras":
            _import_modules()

    loader.exec_module = exec_module  # type: ignore[method-assign]
