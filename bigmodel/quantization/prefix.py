"""Goes through a simulation layer by layer, beside the float network that it stands for, and lets each layer be set.

What a layer is set by are the inputs that the layers before it give once they are set: the error that they left is part
of the problem that the next one solves.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from bigmodel.graph import Call, Graph, substitute, trace
from bigmodel.quantization.kernels import has_matrix, to_matrix, to_rows
from bigmodel.quantization.layers import Quantized

# A Gram matrix of more inputs would take gigabytes, and minutes to invert.
MAX_INPUTS = 4096
# Clustered weights are known by having at most this share of distinct values, of at least so many.
_SHARED = 0.25
_SHARING_WEIGHTS = 64
# Bytes of the largest tensor of one of the two networks: fewer samples are taken where it would grow beyond.
_MAX_TENSOR_BYTES = 128e6
# Samples whose patches are in memory at once.
_BATCH = 32


@dataclasses.dataclass
class Moments:
    """What calibration says of a layer's inputs: sums over the rows that its kernel sees.

    Args:
        gram: `Y'Y` of the quantized prefix's inputs Y, of shape (groups, inputs, inputs).
        cross: `X'Y` with the float network's inputs X, of the same shape.
        mean: The mean of Y's rows, of shape (groups, inputs).
        float_mean: The mean of X's rows.
    """

    gram: np.ndarray
    cross: np.ndarray
    mean: np.ndarray
    float_mean: np.ndarray


def moments(layer: Quantized, float_inputs: np.ndarray, inputs: np.ndarray) -> Moments:
    """Returns the moments of a layer's inputs.

    Args:
        layer: A layer around one that `has_matrix`.
        float_inputs: What the float network gives to it.
        inputs: What the quantized prefix gives to it.
    """
    parts: list[np.ndarray] = []
    rows = 0
    for start in range(0, len(inputs), _BATCH):
        seen = inputs[start : start + _BATCH]
        if layer.inputs is not None:
            seen = np.asarray(layer.inputs.fake_quantize(seen))
        y = to_rows(layer.layer, seen)
        x = to_rows(layer.layer, float_inputs[start : start + _BATCH])
        sums = y.swapaxes(1, 2) @ y, x.swapaxes(1, 2) @ y, y.sum(axis=1), x.sum(axis=1)
        parts = [np.add(a, b, dtype=np.float64) for a, b in zip(parts or [np.zeros(())] * 4, sums, strict=True)]
        rows += y.shape[1]
    gram, cross, total, float_total = parts
    return Moments(gram, cross, total / rows, float_total / rows)


def why_not(layer: Quantized, calls: int = 1) -> str:
    """Returns why a layer can't be set on calibration data, or an empty text."""
    if not has_matrix(layer.layer):
        return f"{type(layer.layer).__name__} is not a single product of a matrix"
    if calls > 1:
        return "it is called more than once"
    matrix = to_matrix(layer.layer, np.asarray(layer.layer.kernel))
    if matrix.shape[-1] > MAX_INPUTS:
        return f"its kernel has more than {MAX_INPUTS} inputs"
    return "its weights share few values, which would part if each were rounded by itself" if _shares(matrix) else ""


def _shares(matrix: np.ndarray) -> bool:
    """Says whether weights other than zero share few values, over the kernel or by channel: they were clustered."""
    channels = matrix.reshape(-1, matrix.shape[-1])
    weights = np.count_nonzero(matrix)
    values = min(len(np.unique(matrix)), sum(len(np.unique(channel[channel != 0])) for channel in channels))
    return bool(weights >= _SHARING_WEIGHTS and values <= _SHARED * weights)


def set_in_order(simulation: keras.Model, samples: Any, adjust: Callable[[Quantized, Moments], None]) -> dict[str, str]:
    """Calls `adjust` for each quantized layer in the order of the network, which may set its weights in place.

    Args:
        simulation: A simulation with a graph. Its layers are those that `adjust` sees.
        samples: Input samples, in the structure that the model takes.
        adjust: `adjust(layer, moments)`.

    Returns:
        Why layers were passed over, by name.
    """
    graph = trace(simulation, flatten=True)
    calls = Counter(id(call.operation) for call in graph)
    passed: dict[str, str] = {}
    leaves = [np.asarray(leaf)[: sample_count(graph)] for leaf in keras.tree.flatten(samples)]
    exact = dict(zip(map(id, keras.tree.flatten(graph.inputs)), leaves, strict=True))
    rounded = dict(exact)
    left = Counter(id(tensor) for call in graph for tensor in call.inputs)
    for call in graph:
        layer = call.operation
        if isinstance(layer, keras.layers.InputLayer):
            continue
        quantized = isinstance(layer, Quantized)
        _run(call, exact, layer.layer if quantized else layer)
        if quantized:
            reason = why_not(layer, calls[id(layer)])
            if reason:
                passed[layer.name] = reason
            else:
                read = id(call.inputs[0])
                adjust(layer, moments(layer, np.asarray(exact[read]), np.asarray(rounded[read])))
        _run(call, rounded, layer)
        _forget(call, left, exact, rounded)
    return passed


def sample_count(graph: Graph) -> int:
    """Returns how many samples may go through a network at once."""
    sizes = [
        int(np.prod([size or 1 for size in tensor.shape[1:]]))
        for call in graph
        for tensor in keras.tree.flatten(call.outputs)
    ]
    return max(1, int(_MAX_TENSOR_BYTES / (4 * max(sizes))))


def _run(call: Call, values: dict[int, Any], operation: Any) -> None:
    args, kwargs = substitute((call.args, dict(call.kwargs)), values)
    outputs = operation(*args, **kwargs)
    values.update(zip(map(id, keras.tree.flatten(call.outputs)), keras.tree.flatten(outputs), strict=True))


def _forget(call: Call, left: Counter[int], *networks: dict[int, Any]) -> None:
    """Lets go of the tensors that no later call reads."""
    for tensor in call.inputs:
        left[id(tensor)] -= 1
        if not left[id(tensor)]:
            for values in networks:
                values.pop(id(tensor), None)
