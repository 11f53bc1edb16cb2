"""Cross-layer equalization: evens out the ranges of channels across layers, without changing what the network computes.

Between two layers joined by an activation with `f(s x) = s f(x)` for s > 0, the first may give each channel divided by
a factor that the second multiplies by (Nagel et al., 2019, section 4.1). Factors that give a channel the same range on
both sides leave the fewest codes unused where several channels share a scale.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

import keras
import numpy as np

from bigmodel.graph import Call, trace
from bigmodel.quantization.kernels import DEPTHWISE, has_matrix
from bigmodel.quantization.rebuild import copy_layer, rebuild

_HOMOGENEOUS = (keras.activations.linear, keras.activations.relu, keras.activations.leaky_relu)
# Layers that keep channels apart and do nothing else to a positive factor.
_PASSING: tuple[type[keras.layers.Layer], ...] = (
    keras.layers.Dropout,
    keras.layers.SpatialDropout1D,
    keras.layers.SpatialDropout2D,
    keras.layers.Identity,
    keras.layers.LeakyReLU,
    keras.layers.MaxPooling1D,
    keras.layers.MaxPooling2D,
    keras.layers.AveragePooling1D,
    keras.layers.AveragePooling2D,
    keras.layers.GlobalAveragePooling1D,
    keras.layers.GlobalAveragePooling2D,
    keras.layers.GlobalMaxPooling1D,
    keras.layers.GlobalMaxPooling2D,
    keras.layers.ZeroPadding1D,
    keras.layers.ZeroPadding2D,
    keras.layers.UpSampling1D,
    keras.layers.UpSampling2D,
    keras.layers.Flatten,
)
# A pair changes the ranges of the pairs beside it; after so many sweeps they stand still.
_SWEEPS = 20
_STILL = 1e-3


@dataclasses.dataclass(frozen=True, eq=False)
class Pair:
    """Two layers of which the second alone reads the first, through nothing that minds a factor.

    Args:
        first: The layer that gives the channels.
        second: The layer that reads them.
        repeats: How often each channel appears in the second's input: the positions of a flattened image.
    """

    first: keras.layers.Layer
    second: keras.layers.Layer
    repeats: int = 1


def factors(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Returns for each channel the factor that gives it one range in both layers: `sqrt(first / second)`.

    Args:
        first: Each channel's largest absolute weight in the layer that gives it, of shape (channels,).
        second: The same in the layer that reads it.

    Returns:
        What to divide the first layer's channels by, and to multiply the second's with: 1 for a channel without weights
        on either side.

    Example:
        >>> factors(np.array([8.0, 1.0, 0.0]), np.array([2.0, 4.0, 1.0]))
        array([2. , 0.5, 1. ])
    """
    used = (first > 0) & (second > 0)
    return np.sqrt(np.where(used, first, 1.0) / np.where(used, second, 1.0))


def equalized(model: keras.Model) -> keras.Model:
    """Returns an equal float model whose channels have one range on both sides of each pair. The given one stays.

    Args:
        model: A functional or built Sequential float model, its normalisations absorbed where they can be.
    """
    pairs = find_pairs(model)
    layers = {id(layer): layer for pair in pairs for layer in (pair.first, pair.second)}
    kernels = {key: np.asarray(layer.kernel, np.float64) for key, layer in layers.items()}
    biases = {key: np.asarray(layer.bias, np.float64) if layer.use_bias else None for key, layer in layers.items()}
    for _ in range(_SWEEPS):
        largest = 0.0
        for pair in pairs:
            first, second = id(pair.first), id(pair.second)
            factor = factors(_output_range(pair.first, kernels[first]), _input_range(kernels[second], pair.repeats))
            kernels[first] = kernels[first] / factor.reshape(_output_shape(pair.first, kernels[first]))
            kernels[second] = kernels[second] * np.tile(factor, pair.repeats)[:, None]
            if biases[first] is not None:
                biases[first] = biases[first] / factor
            largest = max(largest, float(np.abs(np.log(factor)).max()))
        if largest < _STILL:
            break

    def replace(operation: Any) -> list[Any]:
        if not isinstance(operation, keras.layers.Layer):
            return [operation]
        layer = copy_layer(operation)
        if id(operation) in kernels:
            layer.kernel.assign(kernels[id(operation)])
            if layer.use_bias:
                layer.bias.assign(biases[id(operation)])
        return [layer]

    return rebuild(model, replace)


def _output_shape(layer: keras.layers.Layer, kernel: np.ndarray) -> tuple[int, ...]:
    """The shape in which one value for each output channel meets the kernel."""
    return kernel.shape[-2:] if isinstance(layer, DEPTHWISE) else kernel.shape[-1:]


def _output_range(layer: keras.layers.Layer, kernel: np.ndarray) -> np.ndarray:
    shape = _output_shape(layer, kernel)
    return np.abs(kernel).max(axis=tuple(range(kernel.ndim - len(shape)))).reshape(-1)


def _input_range(kernel: np.ndarray, repeats: int) -> np.ndarray:
    # The inputs of all kernels lie on the last axis but one, also those of a depthwise one.
    rows = np.abs(np.moveaxis(kernel, -2, 0)).reshape(kernel.shape[-2], -1).max(axis=1)
    return rows.reshape(repeats, -1).max(axis=0)


def find_pairs(model: keras.Model) -> list[Pair]:
    """Returns the pairs of a model, in the order of its calls.

    Args:
        model: A functional or built Sequential float model.
    """
    graph = trace(model, flatten=True)
    called = Counter(id(call.operation) for call in graph)
    readers: dict[int, list[Call | None]] = {}
    for call in graph:
        for tensor in call.inputs:
            readers.setdefault(id(tensor), []).append(call)
    for tensor in keras.tree.flatten(graph.outputs):
        readers.setdefault(id(tensor), []).append(None)

    def reached(tensor: Any, repeats: int) -> tuple[keras.layers.Layer, int] | None:
        """The layer that alone reads a tensor's channels."""
        found = readers.get(id(tensor), [])
        if len(found) != 1 or found[0] is None or called[id(found[0].operation)] > 1:
            return None
        layer = found[0].operation
        if has_matrix(layer):
            return (layer, repeats) if _channels_last(layer) and getattr(layer, "groups", 1) == 1 else None
        if not _passes(layer):
            return None
        if isinstance(layer, keras.layers.Flatten):
            repeats *= int(np.prod(tensor.shape[1:-1], dtype=int))
        return reached(found[0].outputs, repeats)

    pairs = []
    for call in graph:
        layer = call.operation
        if has_matrix(layer) and called[id(layer)] == 1 and layer.activation in _HOMOGENEOUS and _channels_last(layer):
            end = reached(call.outputs, 1)
            if end is not None:
                pairs.append(Pair(layer, *end))
    return pairs


def _passes(layer: Any) -> bool:
    """Says whether a layer keeps channels apart and gives a positive factor on."""
    if type(layer) is keras.layers.ReLU:
        return layer.max_value is None and not layer.threshold
    if type(layer) is keras.layers.Activation:
        return layer.activation in _HOMOGENEOUS
    return type(layer) in _PASSING and _channels_last(layer)


def _channels_last(layer: Any) -> bool:
    return getattr(layer, "data_format", "channels_last") == "channels_last"
