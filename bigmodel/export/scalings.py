"""What the integer kernels of a file do to the sums of their codes: the numbers as they stand in the file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_quantizer.utils import tfl_flatbuffer_utils

from bigmodel.export.biases import bias_of, ops_by_output
from bigmodel.export.integer_ops import rounding
from bigmodel.export.placement import signs


def scalings(
    written: Any, placed: Sequence[Mapping[str, Any]], codes: Mapping[str, np.ndarray]
) -> dict[str, dict[str, list[float]]]:
    """Returns by grid the factors and the biases of the op that multiplies with it.

    Args:
        written: The quantized file.
        placed: Where the grids are.
        codes: The codes of each grid.

    Returns:
        The fields of a `Scaling`, of grids that stand whole in one op. A normalisation that the converter folded into
        the kernel is in both.
    """
    twice, ops, uses = rounding(written), ops_by_output(written), Counter(place["grid"] for place in placed)
    found: dict[str, dict[str, list[float]]] = {}
    for place in placed:
        name = place["grid"]
        graph, op = ops.get(place["output"], (None, None))
        if op is None or uses[name] > 1 or place["count"] != len(codes[name]) or place["axis"] is None:
            continue
        weights = next((graph.tensors[i] for i in op.inputs if _name(graph.tensors[i]) == place["tensor"]), None)
        if weights is None or weights.quantization is None or weights.quantization.scale is None:
            continue
        sign = signs(written, weights, place["axis"], codes[name])
        if sign is None:
            continue
        scale = np.broadcast_to(np.asarray(weights.quantization.scale, np.float32), (place["count"],))
        steps = _steps(graph, op, weights)
        bias = bias_of(written, graph, op)
        if steps is None or (steps and _name(graph.tensors[op.outputs[0]]) in twice):
            continue
        found[name] = {
            "factors": (sign * scale).tolist(),
            "biases": [] if bias is None else bias.astype(np.float32).tolist(),
            "steps": steps,
        }
    return found


def _steps(graph: Any, op: Any, weights: Any) -> list[float] | None:
    """The steps of input and output of a static kernel of 8 bits, none of a dynamic one, `None` of any other."""
    ends = [graph.tensors[op.inputs[0]], graph.tensors[op.outputs[0]]]
    types = [tensor.type for tensor in ends]
    if types == [schema.TensorType.FLOAT32] * 2:
        return []
    if types != [schema.TensorType.INT8] * 2 or weights.type != schema.TensorType.INT8:
        return None
    return [float(tensor.quantization.scale[0]) for tensor in ends]


def _name(tensor: Any) -> str:
    name: str = tfl_flatbuffer_utils.get_tensor_name(tensor)
    return name
