"""SavedModel -> quantized .tflite: the child's part. TensorFlow's converter quantizes while it converts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from bigmodel.errors import ConversionError
from bigmodel.export.child import PART
from bigmodel.export.conversion import finished


def convert(job: dict[str, Any]) -> dict[str, Any]:
    """Converts a SavedModel that `bigmodel.export.saved_model` wrote to 8 bits.

    Args:
        job: "saved_model", its folder; "path", the file to write; "inputs" and "outputs", their names; "format",
            "dynamic_int8" or "static_int8"; "io", "float" or "int8"; "samples", an .npz of calibration samples, which
            a network with ranges of its own does not have.

    Returns:
        "size_bytes" of the file.

    Raises:
        ConversionError: The converter refused the model.
    """
    converter = tf.lite.TFLiteConverter.from_saved_model(job["saved_model"], signature_keys=["serving_default"])
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if job["format"] == "static_int8":
        if "samples" in job:
            converter.representative_dataset = lambda: _samples(job["samples"])
        if job["io"] == "int8":
            converter.inference_input_type = converter.inference_output_type = tf.int8
    try:
        content = converter.convert()
    except Exception as error:  # the converter raises several types, all with the reason in the text
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise ConversionError(
            "The converter refused the model.", received=(lines or [type(error).__name__])[0][:500]
        ) from error
    content = finished(content, job["inputs"], job["outputs"])
    path = Path(job["path"])
    part = path.with_name(path.name + PART)
    part.write_bytes(content)
    os.replace(part, path)
    return {"size_bytes": len(content)}


def _samples(path: str) -> Iterator[dict[str, np.ndarray]]:
    with np.load(path) as file:
        arrays = dict(file)
    for i in range(len(next(iter(arrays.values())))):
        yield {name: values[i : i + 1] for name, values in arrays.items()}
