"""Small changes to a .tflite's graph: what the quantizer lacks is put in place before it, or after it."""

from __future__ import annotations

from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

_Builtin = schema.BuiltinOperator


def expand_by_reshaping(model: Any) -> None:
    """Turns every EXPAND_DIMS and SQUEEZE into the RESHAPE that does the same: the quantizer knows only that one.

    In place. One whose result has a free size besides the first stays.
    """
    for graph in model.subgraphs:
        for op in graph.operators:
            result = graph.tensors[op.outputs[0]] if op.outputs else None
            if code_of(model, op) not in (_Builtin.EXPAND_DIMS, _Builtin.SQUEEZE) or result is None:
                continue
            free = result.shapeSignature if result.shapeSignature is not None else result.shape
            shape = np.array(free, np.int32)
            if (shape < 0).sum() > 1:
                continue
            op.opcodeIndex = _opcode(model, _Builtin.RESHAPE)
            op.inputs = [op.inputs[0], add_constant(model, graph, shape, result.name + b"_shape")]
            op.builtinOptionsType = schema.BuiltinOptions.ReshapeOptions
            op.builtinOptions = schema.ReshapeOptionsT()
            op.builtinOptions.newShape = shape.tolist()


def add_constant(model: Any, graph: Any, values: np.ndarray, name: bytes) -> int:
    """Adds a constant tensor of INT32 to a graph; returns its index."""
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(values.tobytes(), np.uint8)
    model.buffers.append(buffer)
    tensor = schema.TensorT()
    tensor.shape, tensor.type, tensor.name = list(values.shape), schema.TensorType.INT32, name
    tensor.buffer = len(model.buffers) - 1
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1


def settled(content: bytes | bytearray) -> bytes:
    """Returns a static file in which every tensor has one value for all its readers, on its grid if some take it so.

    The quantizer lets an op that computes in float read what a float op wrote as it is, though an integer op reads
    the same tensor rounded. The simulation rounds a tensor once.

    Args:
        content: The quantizer's file.
    """
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
    graph = model.subgraphs[0]
    _read_shapes_of_integers(model, graph)
    quantized: dict[int, Any] = {}
    for op in graph.operators:
        if _quantizes_float(model, graph, op):
            quantized.setdefault(op.inputs[0], op)
    for source, quantize in quantized.items():
        grid = _grid(graph, quantize)
        readers = [
            op
            for op in graph.operators
            if source in op.inputs
            and code_of(model, op) != _Builtin.SHAPE
            and not (code_of(model, op) == _Builtin.QUANTIZE and _grid(graph, op) == grid)
        ]
        if readers or source in graph.outputs:
            _read_back(model, graph, source, quantize, readers)
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def _quantizes_float(model: Any, graph: Any, op: Any) -> bool:
    return code_of(model, op) == _Builtin.QUANTIZE and graph.tensors[op.inputs[0]].type == schema.TensorType.FLOAT32


def _grid(graph: Any, op: Any) -> tuple[float, int]:
    quantization = graph.tensors[op.outputs[0]].quantization
    return float(quantization.scale[0]), int(quantization.zeroPoint[0])


def _read_shapes_of_integers(model: Any, graph: Any) -> None:
    """Lets SHAPE ops read integer tensors, whose shape is the same, and drops the casts that only they needed."""
    casts = {op.outputs[0]: op for op in graph.operators if code_of(model, op) == _Builtin.DEQUANTIZE}
    for op in graph.operators:
        if code_of(model, op) == _Builtin.SHAPE and op.inputs[0] in casts:
            op.inputs = [casts[op.inputs[0]].inputs[0]]
    read = {i for op in graph.operators for i in op.inputs} | set(graph.outputs)
    graph.operators = [op for op in graph.operators if not (op.outputs[0] in casts and op.outputs[0] not in read)]


def _read_back(model: Any, graph: Any, source: int, quantize: Any, readers: list[Any]) -> None:
    """Turns the integers of a float tensor into floats again, for these readers and the file's outputs."""
    tensor = schema.TensorT()
    for field in ("shape", "shapeSignature", "type", "hasRank"):
        setattr(tensor, field, getattr(graph.tensors[source], field))
    tensor.name = graph.tensors[source].name + b"_settled"
    graph.tensors.append(tensor)
    new = len(graph.tensors) - 1
    op = schema.OperatorT()
    op.opcodeIndex = _opcode(model, _Builtin.DEQUANTIZE)
    op.inputs, op.outputs = [quantize.outputs[0]], [new]
    for reader in readers:
        reader.inputs = [new if i == source else i for i in reader.inputs]
    graph.outputs = [new if i == source else i for i in graph.outputs]
    for signature in model.signatureDefs or ():
        for entry in signature.outputs:
            if entry.tensorIndex == source:
                entry.tensorIndex = new
    # The QUANTIZE op may stand after a reader: it moves up to the first.
    place = next(i for i, other in enumerate(graph.operators) if other is quantize)
    first = min([place, *(i for i, other in enumerate(graph.operators) if any(other is r for r in readers))])
    graph.operators.pop(place)
    graph.operators[first:first] = [quantize, op]


def _opcode(model: Any, builtin: int) -> int:
    for i, code in enumerate(model.operatorCodes):
        if code.builtinCode == builtin:
            return i
    code = schema.OperatorCodeT()
    code.builtinCode = builtin
    code.deprecatedBuiltinCode = min(builtin, 127)
    code.version = 2 if builtin == _Builtin.DEQUANTIZE else 1
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1


def code_of(model: Any, op: Any) -> int:
    """Returns which builtin operation an op is."""
    return int(model.operatorCodes[op.opcodeIndex].builtinCode)
