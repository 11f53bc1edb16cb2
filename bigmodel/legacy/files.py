"""A shell -> quantized .tflite files: by TensorFlow's converter in a child process, or of its weights alone."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from bigmodel.config import Where
from bigmodel.errors import ConversionError
from bigmodel.export import export_float, run_batch, saved_model
from bigmodel.export.child import PART
from bigmodel.export.formats import Format, Written
from bigmodel.export.quantized import write_files
from bigmodel.legacy.grids import grids
from bigmodel.legacy.quantization import is_aware
from bigmodel.legacy.shell import network_in

_CALIBRATION_SAMPLES = 512


def deploy(
    model: keras.Model,
    orders: Sequence[tuple[Format, str | os.PathLike[str]]],
    calibration: Any,
    *,
    io: str = "float",
    timeout_s: float = 300,
) -> list[Written | ConversionError]:
    """Writes the quantized files of a shell, which is not changed.

    Args:
        model: A shell of a float network, or of a quantization-aware one, which has a static file only.
        orders: Format and path of each file.
        calibration: Input samples for static files of a float network; `None` where there are none.
        io: "float" or "int8": how a static file takes its inputs and gives its outputs.
        timeout_s: Seconds for each conversion.

    Returns:
        For each order the file, or the error that says why there is none.

    Raises:
        ModelError: The model can't be traced.
    """
    trained = is_aware(network_in(model))
    refusals = [_refusal(format_, trained) for format_, _ in orders]
    with tempfile.TemporaryDirectory(prefix="bigmodel-legacy-") as folder:
        names = saved_model.save(model, Path(folder, "model"))
        job: dict[str, Any] = {
            "saved_model": Path(folder, "model"),
            "inputs": names.inputs,
            "outputs": names.outputs,
            "io": io,
        }
        if not trained and calibration is not None:
            job["samples"] = _save(calibration, Path(folder, "samples.npz"))
        jobs = [
            {**job, "format": format_.name, "path": path}
            for (format_, path), refusal in zip(orders, refusals, strict=True)
            if refusal is None
        ]
        answers = iter(run_batch("bigmodel.legacy.conversion:convert", jobs, timeout_s=timeout_s) if jobs else [])
    return [
        refusal or _written(next(answers), format_, Path(path))
        for (format_, path), refusal in zip(orders, refusals, strict=True)
    ]


def deploy_weights(
    model: keras.Model,
    orders: Sequence[tuple[Format, str | os.PathLike[str]]],
    where: Where | None = None,
    *,
    timeout_s: float = 300,
) -> list[Written | ConversionError]:
    """Writes files of 8-bit weights that compute in float. The model is not changed.

    Args:
        model: A shell from `round_weights`: its weights are those of the file.
        orders: Format and path of each file.
        where: Which layers, as for `round_weights`.
        timeout_s: Seconds for each conversion.

    Returns:
        For each order the file, or the error that says why there is none.

    Raises:
        ConversionError: The float file that all are made from could not be written.
        ModelError: The model can't be traced.
    """
    with tempfile.TemporaryDirectory(prefix="bigmodel-legacy-") as folder:
        source = export_float(model, Path(folder, "float.tflite"), timeout_s=timeout_s)
        return write_files(source, orders, grids=grids(network_in(model), where), timeout_s=timeout_s)


def _save(calibration: Any, path: Path) -> Path:
    leaves = [np.asarray(leaf)[:_CALIBRATION_SAMPLES] for leaf in keras.tree.flatten(calibration)]
    np.savez(path, **{f"input_{i}": leaf for i, leaf in enumerate(leaves)})  # type: ignore[arg-type]
    return path


def _written(answer: Any, format_: Format, path: Path) -> Written | ConversionError:
    if isinstance(answer, ConversionError):
        path.with_name(path.name + PART).unlink(missing_ok=True)
        return answer
    return Written(format=format_.name, path=path, exact={}, missing=(), ranges={})


def _refusal(format_: Format, trained: bool) -> ConversionError | None:
    possible = ["'static_int8'"] if trained else ["'dynamic_int8'", "'static_int8'"]
    if repr(format_.name) in possible:
        return None
    return ConversionError(
        "This file can't be made of a tf_keras model" + (" trained by the toolkit." if trained else "."),
        received=f"format {format_.name!r}",
        expected=", ".join(possible if trained else ["'float32'", "'float16'", "'weight_only_int8'", *possible]),
        fix="Move the model to Keras 3 first: bm.from_legacy(model).",
    )
