"""Which weight of a float file is which trained grid: found by content, for converters rename, fuse, fold and cut."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_quantizer import qtyping
from ai_edge_quantizer.utils import tfl_flatbuffer_utils

_Op = qtyping.TFLOperationName
# Ops whose weight the quantizer takes with explicit scales: the weight's place among the inputs and the axis of its
# channels (`None`: one scale).
_WEIGHTED: dict[Any, tuple[int, int | None]] = {
    _Op.FULLY_CONNECTED: (1, 0),
    _Op.CONV_2D: (1, 0),
    _Op.DEPTHWISE_CONV_2D: (1, 3),
    _Op.CONV_2D_TRANSPOSE: (1, 0),
    _Op.BATCH_MATMUL: (1, None),
    _Op.GATHER: (0, None),
}
# A weight of the file is a trained one if it lies this close to its grid, in parts of a step. Folding a normalisation
# into a kernel rounds each weight to float32 twice, which moves it by about 1e-5 steps of an 8-bit grid.
_TOLERANCE = 1e-2
# A part of a grid is looked for only where this many values have to fit: fewer could by chance.
_FEWEST_TO_FIT = 8
_STORED_BITS = {schema.TensorType.INT8: 8, schema.TensorType.INT4: 4, schema.TensorType.INT2: 2}


def weighted_ops(model: Any) -> Iterator[tuple[Any, Any, Any, int | None, Any, np.ndarray]]:
    """Yields subgraph, op, its name, its channel axis, its weight tensor and the values, for constant float weights."""
    for graph in model.subgraphs:
        for op in graph.operators:
            name = tfl_flatbuffer_utils.TFL_OP_CODE_TO_NAME.get(model.operatorCodes[op.opcodeIndex].builtinCode)
            if name in _WEIGHTED:
                place, axis = _WEIGHTED[name]
                tensor = graph.tensors[op.inputs[place]]
                values = _float_constant(model, tensor)
                if values is not None:
                    yield graph, op, name, axis, tensor, values


def place_grids(model: Any, grids: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Finds the weights of a float file that lie on trained grids.

    Args:
        model: The file.
        grids: Dicts of name, bits, codes of shape (channels, values per channel), `weights_only` and `one_scale`.

    Returns:
        For each weight found: `grid`, its name; `start`, the grid's first channel that is in this weight; `op`, or
        `None` for one whose weights the quantizer does not take; `scope`, `output`; `tensor`, `axis`, `scale` and
        `count` (of channels) of the weight; `bits` and `weights_only` of the grid; `one_scale`, whether all channels
        have it still: a normalisation that was folded in has given each its own.
    """
    placed: list[dict[str, Any]] = []
    for graph, op, name, axis, tensor, values in weighted_ops(model):
        found = _grid_of(values, axis, grids, placed)
        if found is not None:
            placed.append({**found, **_where(graph, op, tensor), "op": name})
    left = [grid for grid in grids if grid["name"] not in {place["grid"] for place in placed}]
    return placed + _placed_elsewhere(model, left, {place["tensor"] for place in placed})


def _placed_elsewhere(model: Any, grids: Sequence[Mapping[str, Any]], known: set[str]) -> list[dict[str, Any]]:
    """Finds grids among the constants of all other ops, whatever the axis of their channels is there."""
    placed: list[dict[str, Any]] = []
    for graph in model.subgraphs if grids else ():
        for op in graph.operators:
            for index in op.inputs:
                tensor = graph.tensors[index]
                name = tfl_flatbuffer_utils.get_tensor_name(tensor)
                values = None if index < 0 or name in known else _float_constant(model, tensor)
                if values is None or values.ndim < 2:
                    continue
                found = (_grid_of(values, axis, grids, placed) for axis in range(values.ndim))
                first = next((place for place in found if place is not None), None)
                if first is not None:
                    placed.append({**first, **_where(graph, op, tensor), "op": None})
                    known = known | {name}
    return placed


def _float_constant(model: Any, tensor: Any) -> np.ndarray | None:
    if tensor.type != schema.TensorType.FLOAT32:
        return None
    values: np.ndarray | None = tfl_flatbuffer_utils.get_tensor_data(tensor, model.buffers)
    return values


def _where(graph: Any, op: Any, tensor: Any) -> dict[str, str]:
    return {
        "scope": tfl_flatbuffer_utils.get_op_scope(op, graph.tensors),
        "tensor": tfl_flatbuffer_utils.get_tensor_name(tensor),
        "output": tfl_flatbuffer_utils.get_tensor_name(graph.tensors[op.outputs[0]]),
    }


def _grid_of(
    values: np.ndarray, axis: int | None, grids: Sequence[Mapping[str, Any]], placed: Sequence[Mapping[str, Any]]
) -> dict[str, Any] | None:
    by_channel, taken = channels(values, axis), {place["grid"] for place in placed}
    # Layers of equal weights: each gets an op before one gets a second. Whole grids before parts of larger ones.
    for grid in sorted(grids, key=lambda grid: (grid["codes"].shape != by_channel.shape, grid["name"] in taken)):
        for start in _starts(by_channel, grid["codes"]):
            codes = grid["codes"][start : start + len(by_channel)]
            scale = channel_scale(by_channel, codes)
            if scale is not None:
                common = channel_scale(channels(by_channel, None), channels(codes, None)) if grid["one_scale"] else None
                shape = [-1 if i == axis else 1 for i in range(values.ndim)]
                return {
                    "grid": grid["name"],
                    "bits": grid["bits"],
                    "weights_only": grid["weights_only"],
                    "one_scale": common is not None,
                    "scale": (scale if common is None else common).reshape(shape),
                    "axis": axis,
                    "start": start,
                    "count": len(by_channel),
                }
    return None


def _starts(by_channel: np.ndarray, codes: np.ndarray) -> Iterator[int]:
    """Yields where a weight may begin in a grid: at its first channel, or as a slice anywhere."""
    if by_channel.shape == codes.shape:
        yield 0
    count, size = by_channel.shape
    if len(codes) > count and codes.shape[1] == size and count * (size - 1) >= _FEWEST_TO_FIT:
        for start in range(len(codes) - count + 1):
            if channel_scale(by_channel[:1], codes[start : start + 1]) is not None:
                yield start


def channel_scale(by_channel: np.ndarray, codes: np.ndarray) -> np.ndarray | None:
    """Returns the scale of each channel on which values are `codes`, up to a sign, or `None` if they are not.

    A folded normalisation multiplies a channel by a factor of either sign; the grid is symmetric, so that the codes
    change at most their sign.

    Args:
        by_channel: Values of shape (channels, values per channel).
        codes: Codes of the same shape.
    """
    if by_channel.shape != codes.shape:
        return None
    wide = codes.astype(np.float64)
    norm = (wide**2).sum(axis=1)
    factor = (by_channel * wide).sum(axis=1) / np.where(norm > 0, norm, 1.0)
    off_grid = np.abs(by_channel - factor[:, None] * wide).max(axis=1)
    if np.any(off_grid > _TOLERANCE * np.abs(factor)):
        return None
    # A channel of zeros lies on any grid.
    return np.where(factor != 0, np.abs(factor), 1.0).astype(np.float32)


def channels(values: np.ndarray, axis: int | None) -> np.ndarray:
    """Returns the values as (channels, values per channel)."""
    if axis is None:
        return values.reshape(1, -1)
    return np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)


def account(
    written: Any, placed: Sequence[Mapping[str, Any]], codes: Mapping[str, np.ndarray]
) -> tuple[dict[str, bool], list[str]]:
    """Reads a file back.

    Args:
        written: The quantized file.
        placed: Where the grids are.
        codes: The codes of each grid.

    Returns:
        For each grid that is in the file whole, whether the buffers hold exactly its codes, up to the sign of a
        channel; and the names of the grids that are not.
    """
    tensors = {
        tfl_flatbuffer_utils.get_tensor_name(tensor): tensor for graph in written.subgraphs for tensor in graph.tensors
    }
    exact: dict[str, bool] = {}
    covered = {name: np.zeros(len(values), bool) for name, values in codes.items()}
    for place in placed:
        name, count = place["grid"], place["count"]
        part = codes[name][place["start"] : place["start"] + count]
        covered[name][place["start"] : place["start"] + count] = True
        exact[name] = exact.get(name, True) and _holds(written, tensors.get(place["tensor"]), place["axis"], part)
    missing = [name for name in codes if not covered[name].all()]
    return {name: holds for name, holds in exact.items() if name not in missing}, missing


def _holds(written: Any, tensor: Any, axis: int | None, codes: np.ndarray) -> bool:
    return tensor is not None and signs(written, tensor, axis, codes) is not None


def signs(written: Any, tensor: Any, axis: int | None, codes: np.ndarray) -> np.ndarray | None:
    """Returns for each channel the sign with which a tensor's buffer holds its codes, or `None` if it holds others."""
    if tensor.quantization is None or tensor.type not in _STORED_BITS:
        return None
    by_channel = channels(stored_codes(written, tensor, _STORED_BITS[tensor.type]), axis)
    sign = np.where((by_channel.astype(int) * codes).sum(axis=1) < 0, -1, 1)
    return sign if np.array_equal(by_channel * sign[:, None], codes) else None


def stored_codes(model: Any, tensor: Any, bits: int) -> np.ndarray:
    """Returns the integer codes in a tensor's buffer; several small codes lie in a byte, the lowest bits first."""
    raw = np.frombuffer(bytes(model.buffers[tensor.buffer].data), np.int8)
    shape = tuple(tensor.shape)
    parts = [(raw << (8 - bits - start)).astype(np.int8) >> (8 - bits) for start in range(0, 8, bits)]
    return np.stack(parts, axis=1).reshape(-1)[: int(np.prod(shape))].reshape(shape)
