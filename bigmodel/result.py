"""What a run gives back, and how it is read from its directory later."""

from __future__ import annotations

import os
import shutil
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bigmodel.errors import DirectoryError, ModelError, summary
from bigmodel.report import Record

if TYPE_CHECKING:
    import keras


class Result:
    """The outcome of `compress_and_tune`.

    Args:
        directory: The run's directory.
        custom_objects: Classes and functions that `.model` needs and that are not registered with Keras, by name.
        safe_mode: Whether Keras refuses functions without a name (`Lambda` layers), which may hold any code.
        is_temporary: Whether the directory ends with the result.

    Attributes:
        report: The record: print it, or call `.to_dict()`, `.to_json()`, `.to_html()`.
        litert_path: The .tflite file to ship.
        directory: Where everything lies.

    Raises:
        DirectoryError: The directory does not hold a finished run.

    Example:
        `result = bm.load_result("runs/shoes"); print(result.report)`
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        custom_objects: Mapping[str, Any] | None = None,
        safe_mode: bool = True,
        is_temporary: bool = False,
    ) -> None:
        self.directory = Path(directory)
        self.litert_path = self.directory / "model.tflite"
        report = self.directory / "report.json"
        # The report is written last: where it stands, the run is whole.
        if not report.is_file() or not self.litert_path.is_file():
            raise DirectoryError(
                "The directory does not hold a finished run.",
                received=f"{self.directory} without report.json or model.tflite",
                expected="the directory of a run of compress_and_tune that ended",
                fix="Pass the directory that was given to compress_and_tune, or call it again to finish the run.",
            )
        self.report = Record.from_json(report.read_text(encoding="utf-8"))
        self._reading = {"custom_objects": dict(custom_objects or {}), "safe_mode": safe_mode}
        self._model: Any = None
        if is_temporary:
            weakref.finalize(self, shutil.rmtree, self.directory, ignore_errors=True)

    @property
    def model(self) -> keras.Model:
        """The Keras model that simulates the file, loaded when first asked for; float32 policy.

        A run of a tf_keras model gives one of tf_keras.

        Raises:
            ModelError: Keras can't write the caller's class of model, or can't read it back.
        """
        if self._model is None:
            self._model = self._load()
        return self._model

    def _load(self) -> keras.Model:
        import keras

        from bigmodel.legacy import network_in

        path = self.directory / "model.keras"
        saved = [row["reason"] for row in self.report.skipped if row["step"] == "save"]
        try:
            if saved:
                raise TypeError(saved[0])
            return network_in(keras.models.load_model(path, compile=False, **self._reading))
        except (TypeError, ValueError) as error:
            raise ModelError(
                "The model can't be read back.",
                received=f"{path}: {summary(error)}",
                expected="classes and functions that Keras finds, each with a get_config()",
                fix="Pass load_result(directory, custom_objects={...}), or register them with Keras.",
            ) from error

    def __repr__(self) -> str:
        name, final = self.report.metric, self.report.final
        figures = f"{name}={final['metric']:.4f}, size_bytes={final['size_bytes']}"
        return f"Result({figures}, directory={str(self.directory)!r})"

    def _repr_html_(self) -> str:
        return self.report._repr_html_()


def load_result(directory: str | os.PathLike[str], *, custom_objects: Mapping[str, Any] | None = None) -> Result:
    """Reads the result of a finished run from its directory, which is not changed. Loads no Keras before `.model`.

    Args:
        directory: What was given to `compress_and_tune(..., directory=...)`.
        custom_objects: Classes and functions of the model that are not registered with Keras, by name.

    Returns:
        The result.

    Raises:
        DirectoryError: The directory does not hold a finished run.

    Example:
        `bm.load_result("runs/shoes").report`
    """
    return Result(directory, custom_objects=custom_objects)
