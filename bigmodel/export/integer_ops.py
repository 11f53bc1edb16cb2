"""Which ops of a static file compute in integers: those whose every tensor is one that the simulation knows.

A layer may be several ops in the file. What lies between those has no counterpart in the simulation, which could not
round there; so such ops stay float, and the file quantizes and dequantizes at the layer's boundary.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
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
_VECTOR = 8  # channels that the kernel of a transposed convolution rounds at once
_FACTOR_BITS = 8  # of the factor between two grids

_WITH_WEIGHTS: dict[int, Callable[[Any], Sequence[int]]] = {
    schema.BuiltinOperator.FULLY_CONNECTED: lambda op: op.inputs[:2],
    schema.BuiltinOperator.CONV_2D: lambda op: op.inputs[:2],
    schema.BuiltinOperator.DEPTHWISE_CONV_2D: lambda op: op.inputs[:2],
    schema.BuiltinOperator.TRANSPOSE_CONV: lambda op: (op.inputs[2], op.inputs[1]),
}
"""Of each kind of op with weights its tensors: what it reads, and the weights."""


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


def rounding(model: Any) -> dict[str, dict[str, list[Any]]]:
    """Returns how the kernels come from sums to codes that do so in other ways than by one exact rounding.

    XNNPACK leaves some to the runtime's own kernels, which multiply a sum by `m * 2**-shift` with 0.5 <= m < 1. Those
    of 4-bit weights (all convolutions, and fully connected ones whose rows end within a byte) and of transposed
    convolutions do so in 32 bits: they round the product with m, shift, and round again, halves upwards, or away from 0
    what is computed one by one (groups, the last channels of a transposed convolution). Convolutions of 16-bit
    activations sum in 64 bits, which leaves 15 for m. XNNPACK itself has 8 bits for the factor between two grids.

    Args:
        model: A written file.

    Returns:
        By the name of the result, for each of its channels: "shifts" in bits where it is rounded twice, and "away"
        where halves then go away from 0; "factors" by which a multiplier of few bits is off.
    """
    graph, found = model.subgraphs[0], dict[str, dict[str, list[Any]]]()
    made_by = {op.outputs[0]: op for op in graph.operators if len(op.outputs)}
    for op in graph.operators:
        kind = model.operatorCodes[op.opcodeIndex].builtinCode
        how: dict[str, list[Any]] = {}
        if kind in _WITH_WEIGHTS:
            how = _rounding_of_sums(graph, op, kind)
        elif kind == schema.BuiltinOperator.CONCATENATION:
            how = _rounding_of_parts(model, graph, op, made_by)
        if how:
            found[tfl_flatbuffer_utils.get_tensor_name(graph.tensors[op.outputs[0]])] = how
    return found


def _rounding_of_sums(graph: Any, op: Any, kind: int) -> dict[str, list[Any]]:
    result = graph.tensors[op.outputs[0]]
    read, weight = (graph.tensors[i] for i in _WITH_WEIGHTS[kind](op))
    is_full = kind == schema.BuiltinOperator.FULLY_CONNECTED
    is_transposed = kind == schema.BuiltinOperator.TRANSPOSE_CONV
    is_narrow = weight.type == schema.TensorType.INT4 and (
        kind == schema.BuiltinOperator.CONV_2D or (is_full and weight.shape[-1] % 2 == 1)
    )
    if read.type != result.type or result.type not in (schema.TensorType.INT8, schema.TensorType.INT16):
        return {}
    factor = _step(read) * np.asarray(weight.quantization.scale, np.float64) / _step(result)
    parts, exponents = np.frexp(np.broadcast_to(factor, result.shape[-1:]) if factor.size == 1 else factor)
    if result.type == schema.TensorType.INT16:
        return {} if is_full else {"factors": (_in_15_bits(parts) / parts).tolist()}
    if not (is_transposed or is_narrow):
        return {}
    in_vectors, is_grouped = len(exponents), weight.shape[-1] < read.shape[-1]
    if is_transposed:
        in_vectors = in_vectors // _VECTOR * _VECTOR
    elif kind == schema.BuiltinOperator.CONV_2D and is_grouped:
        in_vectors = 0
    away = [channel >= in_vectors for channel in range(len(exponents))]
    return {"shifts": np.maximum(-exponents, 0).tolist(), "away": away}


def _rounding_of_parts(model: Any, graph: Any, op: Any, made_by: Mapping[int, Any]) -> dict[str, list[Any]]:
    """Of tensors that are put on one grid to be joined along their channels."""
    result = graph.tensors[op.outputs[0]]
    if result.type != schema.TensorType.INT8 or op.builtinOptions.axis not in (-1, len(result.shape) - 1):
        return {}
    shifts: list[int] = []
    factors: list[float] = []
    for index in op.inputs:
        maker, channels = made_by.get(index), graph.tensors[index].shape[-1]
        shift, factor = 0, 1.0
        if maker is not None and _is_moved(model, graph, maker):
            exact = _step(graph.tensors[maker.inputs[0]]) / _step(result)
            shift, factor = _FACTOR_BITS, float(np.rint(exact * 2**_FACTOR_BITS) / 2**_FACTOR_BITS / exact)
        shifts += [shift] * channels
        factors += [factor] * channels
    return {"shifts": shifts, "factors": factors} if any(shifts) else {}


def _is_moved(model: Any, graph: Any, op: Any) -> bool:
    """Whether an op moves codes from one grid to another."""
    types = {graph.tensors[i].type for i in (op.inputs[0], op.outputs[0])}
    is_quantize = model.operatorCodes[op.opcodeIndex].builtinCode == schema.BuiltinOperator.QUANTIZE
    return is_quantize and types == {schema.TensorType.INT8}


def _step(tensor: Any) -> float:
    return float(tensor.quantization.scale[0])


def _in_15_bits(parts: np.ndarray) -> np.ndarray:
    """Multipliers of 0.5 to 1 as these kernels have them: rounded to 31 bits, then to 15, and less than 1."""
    whole = np.round(parts * 2.0**31)
    return np.minimum(np.floor((whole + 2.0**15) / 2.0**16), 2.0**15 - 1) / 2.0**15
