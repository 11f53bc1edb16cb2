"""A run's models as .keras files, with the caller's own classes and functions at hand when they are read."""

from __future__ import annotations

import tempfile
from pathlib import Path

import keras

from bigmodel.errors import summary
from bigmodel.own_parts import custom_objects_of, has_lambda
from bigmodel.run.journal import write_whole
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
