"""SavedModel -> float .tflite: the child's part of an export."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import tensorflow as tf
from ai_edge_litert.tools import flatbuffer_utils

from bigmodel.errors import ConversionError
from bigmodel.export.child import PART
from bigmodel.export.lean import lean
from bigmodel.export.shapes import infer_shapes


def convert_float(job: dict[str, Any]) -> dict[str, Any]:
    """Converts a SavedModel that `bigmodel.export.saved_model` wrote, with the runtime's builtin operations.

    Args:
        job: "saved_model", its folder; "path", the file to write; "inputs" and "outputs", the names for the tensors
            that the SavedModel calls input_0, input_1, ... and output_0, output_1, ...

    Returns:
        "size_bytes" of the file.

    Raises:
        ConversionError: An operation has no builtin kernel (the message names it).
    """
    converter = tf.lite.TFLiteConverter.from_saved_model(job["saved_model"], signature_keys=["serving_default"])
    try:
        content = converter.convert()
    except Exception as error:  # the converter raises several types, all with the reason in the text
        raise _explain(str(error)) from error
    content = finished(content, job["inputs"], job["outputs"])
    path = Path(job["path"])
    part = path.with_name(path.name + PART)
    part.write_bytes(content)
    os.replace(part, path)
    return {"size_bytes": len(content)}


def finished(content: bytes, inputs: list[str], outputs: list[str]) -> bytes:
    """Makes what the converter wrote a file of ours: inputs and outputs have their names and order, and it is lean.

    TensorFlow allows fewer characters in a name than Keras does and sorts by name, so the SavedModel numbers its
    tensors and the names are put in here.

    Args:
        content: A .tflite file whose signature calls its tensors input_0, ... and output_0, ...
        inputs: Name of each input.
        outputs: Name of each output.

    Returns:
        The file with the names in its signature, and its tensors in the order of the names. It computes the same.
    """
    model = flatbuffer_utils.convert_bytearray_to_object(bytearray(content))
    (signature,) = model.signatureDefs
    graph = model.subgraphs[signature.subgraphIndex]
    signature.inputs, graph.inputs = _ordered(signature.inputs, inputs)
    signature.outputs, graph.outputs = _ordered(signature.outputs, outputs)
    infer_shapes(model)
    return lean(bytes(flatbuffer_utils.convert_object_to_bytearray(model)))


def _ordered(tensors: list[Any], names: list[str]) -> tuple[list[Any], list[int]]:
    def number(tensor: Any) -> int:
        return int(tensor.name.rpartition(b"_")[2])

    tensors = sorted(tensors, key=number)
    for tensor in tensors:
        tensor.name = names[number(tensor)]
    return tensors, [tensor.tensorIndex for tensor in tensors]


def _explain(message: str) -> ConversionError:
    found = ", ".join(re.findall(r"(?:TF Select|Flex|Custom) ops: ([^\n]+)", message))
    if not found:
        lines = [line.strip() for line in message.splitlines() if line.strip()]
        return ConversionError("The converter refused the model.", received=(lines or ["no reason given"])[0][:500])
    places = re.findall(r'fused\["(\w+):", "([^"@]+)@', message)
    layers = dict.fromkeys(place for operation, place in places if operation in found.split(", "))
    return ConversionError(
        f"The model uses operations without a LiteRT kernel: {found}.",
        received=", ".join(layers),
        expected="builtin operations of the runtime",
        fix="Give the inputs fixed sizes, or replace the layer by one that computes the same from basic operations.",
    )
