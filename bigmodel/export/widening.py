"""Stores weights as integers that are widened to float when the file is loaded: for ops that compute in float only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils
from ai_edge_quantizer.utils import tfl_flatbuffer_utils

_TYPES = {8: schema.TensorType.INT8, 4: schema.TensorType.INT4}


def widened(content: bytes | bytearray, places: Sequence[Mapping[str, Any]]) -> bytes:
    """Returns a file in which float weights are integers, each with a DEQUANTIZE op in front of the ops that read it.

    The runtime dequantizes a constant once. The given file is not changed.

    Args:
        content: A .tflite file.
        places: Of each weight `tensor`, its name; `axis` of its channels, or `None`; `bits`; and `scale`, which
            broadcasts against it.
    """
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
    by_name = {place["tensor"]: place for place in places}
    opcode = _dequantize(model)
    for graph in model.subgraphs:
        for index, tensor in enumerate(list(graph.tensors)):
            place = by_name.get(tfl_flatbuffer_utils.get_tensor_name(tensor))
            if place is not None and tensor.type == schema.TensorType.FLOAT32:
                _widen(model, graph, index, place, opcode)
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def _widen(model: Any, graph: Any, index: int, place: Mapping[str, Any], opcode: int) -> None:
    """Puts the integers in the tensor's place and a float one behind it, which all its readers take instead."""
    tensor = graph.tensors[index]
    values = tfl_flatbuffer_utils.get_tensor_data(tensor, model.buffers)
    # An op that was cut from a larger one may have a buffer in common with others: the integers get their own.
    bits = max(place["bits"], 4)
    codes = np.rint(values / place["scale"]).astype(np.int8)
    integers, floats = schema.TensorT(), schema.TensorT()
    integers.name, floats.name = tensor.name, tensor.name + b"_widened"
    integers.shape = floats.shape = list(tensor.shape)
    integers.type, floats.type = _TYPES[bits], schema.TensorType.FLOAT32
    integers.buffer, floats.buffer = _add_buffer(model, _packed(codes, bits)), 0
    integers.quantization = schema.QuantizationParametersT()
    integers.quantization.scale = [float(scale) for scale in place["scale"].ravel()]
    integers.quantization.zeroPoint = [0] * place["scale"].size
    integers.quantization.quantizedDimension = place["axis"] or 0
    graph.tensors[index] = integers
    graph.tensors.append(floats)
    for op in graph.operators:
        op.inputs = [len(graph.tensors) - 1 if i == index else i for i in op.inputs]
    operator = schema.OperatorT()
    operator.opcodeIndex, operator.inputs, operator.outputs = opcode, [index], [len(graph.tensors) - 1]
    graph.operators.insert(0, operator)


def _dequantize(model: Any) -> int:
    """The index of the op's code, which is added where the file has none."""
    for i, code in enumerate(model.operatorCodes):
        if code.builtinCode == schema.BuiltinOperator.DEQUANTIZE:
            code.version = max(code.version, _VERSION)
            return i
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.DEQUANTIZE
    code.version = _VERSION
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1


# The version of the op that knows scales for each channel and 4 bits.
_VERSION = 6


def _add_buffer(model: Any, data: np.ndarray) -> int:
    buffer = schema.BufferT()
    buffer.data = data
    model.buffers.append(buffer)
    return len(model.buffers) - 1


def _packed(codes: np.ndarray, bits: int) -> np.ndarray:
    flat = codes.ravel().astype(np.int8).view(np.uint8)
    if bits == 8:
        return flat
    flat = np.append(flat, np.zeros(flat.size % 2, np.uint8))
    packed: np.ndarray = (flat[::2] & 15) | (flat[1::2] << 4)
    return packed
