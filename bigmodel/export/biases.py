"""The biases of a static file: integers, whose step is the input's times the weight's, so that each is rounded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_quantizer.utils import tfl_flatbuffer_utils

from bigmodel.export.placement import channels


def bias_errors(
    source: Any, written: Any, placed: Sequence[Mapping[str, Any]], codes: Mapping[str, np.ndarray]
) -> dict[str, list[float]]:
    """Returns by how much the file's biases differ from the float ones, for each channel of a grid.

    Args:
        source: The float file.
        written: The quantized file.
        placed: Where the grids are.
        codes: The codes of each grid.

    Returns:
        By grid the differences in steps of its weights: a normalisation that the converter folded into a kernel, of
        either sign, is taken out again. Of a weight that several ops share those of the first.
    """
    before, after = ops_by_output(source), ops_by_output(written)
    errors: dict[str, list[float]] = {}
    for place in placed:
        name, old, new = place["grid"], before.get(place["output"]), after.get(place["output"])
        if name in errors or old is None or new is None or place["count"] != len(codes[name]):
            continue
        wanted, held = bias_of(source, *old), bias_of(written, *new)
        if wanted is None or held is None or wanted.size != held.size or place["axis"] is None:
            continue
        values = next(v for v in _floats(source, *old) if v.ndim > 1)
        sign = np.where((channels(values, place["axis"]) * codes[name]).sum(axis=1) < 0, -1.0, 1.0)
        errors[name] = ((held - wanted) / (sign * place["scale"].reshape(-1))).tolist()
    return errors


def ops_by_output(model: Any) -> dict[str, tuple[Any, Any]]:
    """Returns the main graph and the op of it that computes a tensor, by the tensor's name."""
    graph = model.subgraphs[0]
    return {
        tfl_flatbuffer_utils.get_tensor_name(graph.tensors[op.outputs[0]]): (graph, op)
        for op in graph.operators
        if len(op.outputs)
    }


def _floats(model: Any, graph: Any, op: Any) -> list[np.ndarray]:
    tensors = [graph.tensors[i] for i in op.inputs if i >= 0 and graph.tensors[i].type == schema.TensorType.FLOAT32]
    found = [tfl_flatbuffer_utils.get_tensor_data(tensor, model.buffers) for tensor in tensors]
    return [values for values in found if values is not None]


def bias_of(model: Any, graph: Any, op: Any) -> np.ndarray | None:
    """Returns the op's bias in float64: the last of its constants, if that has one axis."""
    tensor = graph.tensors[op.inputs[-1]]
    values = tfl_flatbuffer_utils.get_tensor_data(tensor, model.buffers) if op.inputs[-1] >= 0 else None
    if values is None or values.ndim != 1:
        return None
    if tensor.type == schema.TensorType.FLOAT32:
        return np.asarray(values, np.float64)
    quantization = tensor.quantization
    if quantization is None or quantization.scale is None or not len(quantization.scale):
        return None
    return np.asarray(values, np.float64) * np.asarray(quantization.scale, np.float64)
