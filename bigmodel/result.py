"""What a run gives back, and how it is read from its directory later."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bigmodel.errors import DirectoryError
from bigmodel.report import Record

if TYPE_CHECKING:
    import keras


class Result:
    """The outcome of `compress_and_tune`.

    Args:
        directory: The run's directory.
        keep: What keeps a temporary directory alive as long as the result.

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
        self, directory: str | os.PathLike[str], *, keep: tempfile.TemporaryDirectory[str] | None = None
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
        self._keep = keep
        self._model: Any = None

    @property
    def model(self) -> keras.Model:
        """The Keras model that simulates the file, loaded when first asked for; float32 policy."""
        if self._model is None:
            import keras

            self._model = keras.models.load_model(self.directory / "model.keras", compile=False)
        return self._model

    @model.setter
    def model(self, model: keras.Model) -> None:
        self._model = model

    def __repr__(self) -> str:
        final = self.report.final
        name = self.report.metric
        return f"Result({name}={final['metric']:.4f}, size_bytes={final['size_bytes']}, directory={str(self.directory)!r})"

    def _repr_html_(self) -> str:
        return self.report._repr_html_()


def load_result(directory: str | os.PathLike[str]) -> Result:
    """Reads the result of a finished run from its directory, which is not changed. Loads no Keras before `.model`.

    Args:
        directory: What was given to `compress_and_tune(..., directory=...)`.

    Returns:
        The result.

    Raises:
        DirectoryError: The directory does not hold a finished run.

    Example:
        `bm.load_result("runs/shoes").report`
    """
    return Result(directory)
