"""Keras model -> float32 .tflite, the one file from which every other format is made."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import keras

from bigmodel.errors import ArgumentError, ConversionError, ModelError
from bigmodel.export import saved_model
from bigmodel.export.child import PART, run_batch


def export_float(model: keras.Model, path: str | os.PathLike[str], *, timeout_s: float = 300) -> Path:
    """Converts a Keras model to a float32 .tflite file. The model is not changed.

    The inputs and outputs of the file's signature have their Keras names (the keys, where a structure has keys) and
    order, its free sizes stay free. A file with an LSTM, GRU or other RNN takes one sample at a time: `LiteModel` runs
    it so. A model trained in mixed precision computes in float32.

    Args:
        model: A built model: functional, Sequential or subclassed.
        path: The file to write, ending in ".tflite". It appears complete or not at all.
        timeout_s: Seconds that the converter may take.

    Returns:
        The path.

    Raises:
        ArgumentError: The path can't be used.
        ModelError: The model is not built, has text inputs, or can't be traced.
        ConversionError: The converter refused the model (the message names the operation), crashed, or took too long.

    Example:
        `export_float(model, "model.tflite")`
    """
    (result,) = export_floats([(model, path)], timeout_s=timeout_s)
    if isinstance(result, Exception):
        raise result
    return result


def export_floats(
    models: Sequence[tuple[keras.Model, str | os.PathLike[str]]], *, timeout_s: float = 300
) -> list[Path | ConversionError | ModelError]:
    """Converts several models in one child process, which saves most of the time of small conversions.

    Args:
        models: Pairs of a model and its path, as for `export_float`.
        timeout_s: Seconds for each conversion.

    Returns:
        For each model its path, or the error that says why there is no file.

    Raises:
        ArgumentError: A path can't be used.
    """
    paths = [check_path(path) for _, path in models]
    results: list[Path | ConversionError | ModelError] = list(paths)
    jobs, places = [], []
    with tempfile.TemporaryDirectory(prefix="bigmodel-export-") as folder:
        for i, (model, path) in enumerate(zip((model for model, _ in models), paths, strict=True)):
            try:
                names = saved_model.save(model, Path(folder, str(i)))
            except ModelError as error:
                results[i] = error
                continue
            job = {"saved_model": Path(folder, str(i)), "path": path, "inputs": names.inputs, "outputs": names.outputs}
            jobs.append(job)
            places.append(i)
        for i, result in zip(places, run_batch("convert_float", jobs, timeout_s=timeout_s), strict=True):
            if isinstance(result, ConversionError):
                results[i] = result
                paths[i].with_name(paths[i].name + PART).unlink(missing_ok=True)
    return results


def check_path(path: str | os.PathLike[str]) -> Path:
    """Returns the path of a .tflite file to write.

    Raises:
        ArgumentError: It has another suffix, or its folder does not exist.
    """
    target = Path(path)
    if target.suffix != ".tflite" or not target.parent.is_dir():
        raise ArgumentError(
            "The file can't be written there.",
            received=str(path),
            expected='a path that ends in ".tflite", in a folder that exists',
            fix="Create the folder, or correct the name.",
        )
    return target
