"""A run's models as .keras files, with the caller's own classes and functions at hand when they are read."""

from __future__ import annotations

import contextlib
import inspect
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
from keras.src.saving.serialization_lib import SafeModeScope  # in public, safe mode can only be left for good

from bigmodel.errors import ModelError, summary
from bigmodel.journal import write_whole
from bigmodel.training import compile_like


class ModelFiles:
    """Writes and reads models that were made from the caller's.

    Args:
        model: The caller's model, compiled. It is not changed.

    Attributes:
        problem: Why such a model can't be read back; `None` where it can. Then nothing is written, and the caller's
            model itself is read.
    """

    def __init__(self, model: keras.Model) -> None:
        self.model = model
        self.problem = self._find_problem() if custom_objects_of(model) else None

    def save(self, model: keras.Model, path: Path) -> None:
        """Writes a model whole or not at all."""
        if self.problem is None:
            write_whole(path, model.save)

    def load(self, path: Path) -> keras.Model:
        """Reads a model, compiled like the caller's."""
        if self.problem is not None:
            return self.model
        made = self._read(path)
        compile_like(made, self.model)
        return made

    def _read(self, path: Path) -> keras.Model:
        # Keras refuses functions without a name, which may hold any code; but these are the caller's own.
        custom_objects, safe_mode = custom_objects_of(self.model), not has_lambda(self.model)
        return keras.models.load_model(path, custom_objects, compile=False, safe_mode=safe_mode)

    def _find_problem(self) -> str | None:
        with tempfile.TemporaryDirectory(prefix="bigmodel-model-") as folder:
            path = Path(folder, "model.keras")
            try:
                self.model.save(path)
                self._read(path)
            except Exception as error:  # Keras and the caller's own classes raise what they like
                return summary(error)
        return None


@contextlib.contextmanager
def own_parts_of(model: keras.Model) -> Iterator[None]:
    """Lets Keras make the model's parts again from their configs, also what is the caller's own and not registered."""
    with keras.saving.custom_object_scope(custom_objects_of(model)):
        if has_lambda(model):
            with SafeModeScope(False):
                yield
        else:
            yield


def custom_objects_of(model: keras.Model) -> dict[str, Any]:
    """Returns the classes and functions in a model that are not Keras' own, by name. The model is not changed.

    Args:
        model: Any model; layers are searched with their activations, initializers, regularizers and constraints.

    Raises:
        ModelError: Two different ones have the same name.

    Example:
        >>> def half(x):
        ...     return x / 2
        >>> sorted(custom_objects_of(keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, activation=half)])))
        ['half']
    """
    found: dict[str, Any] = {}
    for layer in model._flatten_layers():
        # What shadows a method is that method, wrapped by Keras.
        parts = [value for name, value in vars(layer).items() if not hasattr(type(layer), name)]
        for value in (layer, *parts):
            named = value if inspect.isfunction(value) else type(value) if isinstance(value, _KERAS_OBJECTS) else None
            if named is None or named.__module__.split(".")[0] == "keras" or named.__name__ == "<lambda>":
                continue
            if found.setdefault(named.__name__, named) is not named:
                raise ModelError(
                    "Two things of the model have the same name.",
                    received=f"{found[named.__name__]} and {named}",
                    expected="one class or function for a name: Keras knows them by it",
                    fix=f"Rename one {named.__name__}.",
                )
    return found


def has_lambda(model: keras.Model) -> bool:
    """Says whether a model has `Lambda` layers, whose functions Keras keeps as code."""
    return any(isinstance(layer, keras.layers.Lambda) for layer in model._flatten_layers())


_KERAS_OBJECTS = (
    keras.layers.Layer,
    keras.initializers.Initializer,
    keras.regularizers.Regularizer,
    keras.constraints.Constraint,
)
