"""Which ops of a static file compute in integers: those whose every tensor is one that the simulation knows.

A layer may be several ops in the file. What lies between those has no counterpart in the simulation, which could not
round there; so such ops stay float, and the file quantizes and dequantizes at the layer's boundary.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_quantizer import qtyping
from ai_edge_quantizer.utils import tfl_flatbuffer_utils

_Op = qtyping.TFLOperationName
Bounds = tuple[float, float]

# Ops that hand on values as they are: what comes out is on the grid of what went in.
_MOVES = {
    _Op.RESHAPE, _Op.TRANSPOSE, _Op.PAD, _Op.SLICE, _Op.STRIDED_SLICE, _Op.SPLIT, _Op.UNPACK, _Op.PACK, _Op.GATHER_ND,
    _Op.CONCATENATION, _Op.MAX_POOL_2D, _Op.RESIZE_NEAREST_NEIGHBOR, _Op.BROADCAST_TO, _Op.MIRROR_PAD,
    _Op.SPACE_TO_DEPTH, _Op.REDUCE_MIN, _Op.MAXIMUM, _Op.SELECT, _Op.SELECT_V2,
}  # fmt: skip
# Of those, the ones that hand on every value: what went in is on the grid of what comes out.
_KEEPS_ALL = {_Op.RESHAPE, _Op.TRANSPOSE, _Op.PAD}
COARSE_IN_16_BITS = (_Op.GELU,)
"""Ops whose 16-bit kernels are off by tens of steps: they interpolate in a table of 512 entries."""

_CASTS = {schema.BuiltinOperator.QUANTIZE, schema.BuiltinOperator.DEQUANTIZE}


def spread(model: Any, known: Mapping[str, Bounds]) -> dict[str, Bounds]:
    """Returns the known ranges and those of tensors that hold the same values, moved.

    Args:
        model: The float file.
        known: Least and largest value by tensor name.
    """
    ranges = dict(known)
    ops = [(name, ins, outs) for _, name, ins, outs in _activations(model) if name in _MOVES]
    for _ in ops:
        before = len(ranges)
        for name, ins, outs in ops:
            _carry(ranges, ins, outs)
            if name in _KEEPS_ALL:
                _carry(ranges, outs, ins)
        if len(ranges) == before:
            break
    return ranges


def _carry(ranges: dict[str, Bounds], sources: list[str], targets: list[str]) -> None:
    if sources and all(source in ranges for source in sources):
        lows, highs = zip(*(ranges[source] for source in sources), strict=True)
        for target in targets:
            ranges.setdefault(target, (min(lows), max(highs)))


def not_integer(model: Any, ranges: Mapping[str, Bounds], weights: set[str]) -> set[str]:
    """Returns the scopes of the ops that can't compute in integers as the simulation does.

    Args:
        model: The float file.
        ranges: The known ranges by tensor name.
        weights: Names of the constants with a trained grid.
    """
    scopes = set()
    for (graph, op), _, ins, outs in _activations(model):
        if any(name not in ranges for name in (*ins, *outs)) or _has_own_constant(model, graph, op, weights):
            scopes.add(tfl_flatbuffer_utils.get_op_scope(op, graph.tensors))
    return scopes


def _has_own_constant(model: Any, graph: Any, op: Any, weights: set[str]) -> bool:
    """Says whether an op has a constant that it would round to 8 bits: other than a weight, its bias, or one number."""
    constants = [graph.tensors[i] for i in op.inputs if i >= 0 and _is_float(graph.tensors[i])]
    constants = [tensor for tensor in constants if _data(model, tensor) is not None]
    if any(tfl_flatbuffer_utils.get_tensor_name(tensor) in weights for tensor in constants):
        return False
    return any(np.size(_data(model, tensor)) > 1 for tensor in constants)


def _activations(model: Any) -> Iterator[tuple[tuple[Any, Any], Any, list[str], list[str]]]:
    """Yields graph and op, the op's name and the names of the float tensors that it reads and writes.

    Only ops outside of loops, with at least one such tensor.
    """
    graph = model.subgraphs[0]
    for op in graph.operators:
        code = model.operatorCodes[op.opcodeIndex].builtinCode
        name = tfl_flatbuffer_utils.TFL_OP_CODE_TO_NAME.get(code)
        ins = [graph.tensors[i] for i in op.inputs if i >= 0]
        read = [t for t in ins if _is_float(t) and _data(model, t) is None]
        written = [t for t in (graph.tensors[i] for i in op.outputs) if _is_float(t)]
        if read or written:
            yield (graph, op), name, *([tfl_flatbuffer_utils.get_tensor_name(t) for t in ts] for ts in (read, written))


def _is_float(tensor: Any) -> bool:
    return bool(tensor.type == schema.TensorType.FLOAT32)


def _data(model: Any, tensor: Any) -> Any:
    return tfl_flatbuffer_utils.get_tensor_data(tensor, model.buffers)


def float_ops(model: Any) -> dict[str, int]:
    """Returns how many ops of each kind compute in float, or hand on floats, in a written file."""
    names = {code: name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)}
    found: Counter[str] = Counter()
    for graph in model.subgraphs:
        for op in graph.operators:
            code = model.operatorCodes[op.opcodeIndex].builtinCode
            if code not in _CASTS and any(_is_float(graph.tensors[i]) for i in (*op.inputs, *op.outputs) if i >= 0):
                found[names[code]] += 1
    return dict(found)


def shifts(model: Any) -> dict[str, list[int]]:
    """Returns for each integer convolution of 4-bit weights how its kernel shifts, by the name of its result.

    XNNPACK leaves such convolutions to the runtime's own kernel. That multiplies a sum by `m * 2**-shift` with
    0.5 <= m < 1 in integers: it rounds the product with m, shifts, and rounds again. Others round once.

    Args:
        model: A written file.

    Returns:
        For each channel of the result its shift, in bits.
    """
    graph, found = model.subgraphs[0], {}
    for op in graph.operators:
        if model.operatorCodes[op.opcodeIndex].builtinCode != schema.BuiltinOperator.CONV_2D:
            continue
        read, weight, result = (graph.tensors[i] for i in (op.inputs[0], op.inputs[1], op.outputs[0]))
        if weight.type == schema.TensorType.INT4 and read.type == result.type == schema.TensorType.INT8:
            step = float(read.quantization.scale[0]) / float(result.quantization.scale[0])
            _, exponents = np.frexp(step * np.asarray(weight.quantization.scale, np.float64))
            found[tfl_flatbuffer_utils.get_tensor_name(result)] = np.maximum(-exponents, 0).tolist()
    return found
