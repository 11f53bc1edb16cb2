"""What the kernels of a dynamic file do to the sums of their codes: the numbers as they stand in the file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_quantizer.utils import tfl_flatbuffer_utils

from bigmodel.export.biases import ops_by_output
from bigmodel.export.placement import signs

_BIAS = 2  # its place among the inputs of a fully connected layer and of the convolutions


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
    ops, uses = ops_by_output(written), Counter(place["grid"] for place in placed)
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
        bias = _floats(written, graph, op.inputs[_BIAS]) if len(op.inputs) > _BIAS else None
        found[name] = {"factors": (sign * scale).tolist(), "biases": [] if bias is None else bias.tolist()}
    return found


def _name(tensor: Any) -> str:
    name: str = tfl_flatbuffer_utils.get_tensor_name(tensor)
    return name


def _floats(model: Any, graph: Any, index: int) -> np.ndarray | None:
    if index < 0 or graph.tensors[index].type != schema.TensorType.FLOAT32:
        return None
    values: np.ndarray | None = tfl_flatbuffer_utils.get_tensor_data(graph.tensors[index], model.buffers)
    return values
