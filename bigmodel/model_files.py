"""A run's models as .keras files, with the caller's own classes and functions at hand when they are read."""

from __future__ import annotations

import inspect
import tempfile
from pathlib import Path
from typing import Any

import keras

from bigmodel.journal import write_whole
from bigmodel.training import compile_like


class ModelFiles:
    """Writes and reads models that were made from the caller's.

    Args:
        model: The caller's model, compiled. It is not changed.

    Attributes:
        custom_objects: The caller's own classes and functions in the model: they need no registration.
        safe_mode: Whether the model has no function without a name, so that none has to be read.
        problem: Why such a model can't be read back; `None` where it can. Then nothing is written, and the caller's
            model itself is read.
    """

    def __init__(self, model: keras.Model) -> None:
        self.model = model
        self.custom_objects = custom_objects_of(model)
        # Keras refuses functions without a name, which may hold any code; but these are the caller's own.
        self.safe_mode = not any(isinstance(layer, keras.layers.Lambda) for layer in model._flatten_layers())
        self.problem = self._find_problem() if self.custom_objects else None

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
        return keras.models.load_model(path, self.custom_objects, compile=False, safe_mode=self.safe_mode)

    def _find_problem(self) -> str | None:
        with tempfile.TemporaryDirectory(prefix="bigmodel-model-") as folder:
            path = Path(folder, "model.keras")
            try:
                self.model.save(path)
                self._read(path)
            except Exception as error:  # Keras and the caller's own classes raise what they like
                lines = [line.strip() for line in str(error).splitlines() if line.strip()]
                return f"{type(error).__name__}: {' '.join(lines)[:200]}"
        return None


def custom_objects_of(model: keras.Model) -> dict[str, Any]:
    """Returns the classes and functions in a model that are not Keras' own, by name. The model is not changed.

    Args:
        model: Any model; layers are searched with their activations, initializers, regularizers and constraints.

    Example:
        >>> def half(x):
        ...     return x / 2
        >>> sorted(custom_objects_of(keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, activation=half)])))
        ['half']
    """
    found: dict[str, Any] = {}
    for layer in model._flatten_layers():
        for value in (layer, *vars(layer).values()):
            if inspect.isfunction(value):
                found[value.__name__] = value
            elif isinstance(value, _KERAS_OBJECTS):
                found[type(value).__name__] = type(value)
    return {name: value for name, value in found.items() if value.__module__.split(".")[0] not in ("keras", "bigmodel")}


_KERAS_OBJECTS = (
    keras.layers.Layer,
    keras.initializers.Initializer,
    keras.regularizers.Regularizer,
    keras.constraints.Constraint,
)
