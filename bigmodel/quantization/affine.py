"""Layers that scale and shift every channel, as the one integer op that does so exactly.

A normalisation that no layer takes up would be a multiplication and an addition in a static file, which round in
between and keep factors and shifts in 8 bits for all channels together. As a depthwise 1x1 convolution it has a scale
for each channel, so that a factor is code 127 of its own grid, and 32-bit shifts.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import keras
import numpy as np

from bigmodel.graph import is_graph, trace
from bigmodel.quantization.folding import PASSING, affine_of
from bigmodel.quantization.layers import Quantized
from bigmodel.quantization.table import WeightQuantization

# The converter multiplies a normalisation after one of these into its kernel.
_FOLDING = (
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv2DTranspose,
    keras.layers.Dense,
    keras.layers.DepthwiseConv1D,
    keras.layers.DepthwiseConv2D,
)
_KERNEL = {"kernel": WeightQuantization(8, (-2, -1))}


def find_affine(model: keras.Model) -> dict[int, tuple[int | None, ...]]:
    """Returns the layers to compute as a convolution: by the `id` of each the shape of its input.

    These are a `BatchNormalization` that no kernel before it takes up, and a `Rescaling` with an offset.

    Args:
        model: A functional or built Sequential model; its nested models are searched too.
    """
    calls = trace(model)
    called = Counter(id(call.operation) for call in calls)
    reads = Counter(id(tensor) for call in calls for tensor in call.inputs)
    reads.update(id(tensor) for tensor in keras.tree.flatten(calls.outputs))
    origin = {id(tensor): call for call in calls for tensor in keras.tree.flatten(call.outputs)}

    def is_taken_up(tensor: Any) -> bool:
        call = origin.get(id(tensor))
        if call is None or reads[id(tensor)] > 1 or called[id(call.operation)] > 1:
            return False
        layer = call.operation.layer if isinstance(call.operation, Quantized) else call.operation
        if isinstance(layer, PASSING):
            return is_taken_up(call.inputs[0])
        return type(layer) in _FOLDING and layer.activation is keras.activations.linear

    found: dict[int, tuple[int | None, ...]] = {}
    for call in calls:
        layer = call.operation
        if is_graph(layer):
            found.update(find_affine(layer))
        elif (
            len(call.inputs) == 1
            and called[id(layer)] == 1
            and _is_affine(layer, call.inputs[0])
            and not is_taken_up(call.inputs[0])
        ):
            found[id(layer)] = tuple(call.inputs[0].shape)
    return {key: shape for key, shape in found.items() if 2 <= len(shape) <= 4 and shape[-1] is not None}


def _is_affine(layer: Any, tensor: Any) -> bool:
    if type(layer) is keras.layers.BatchNormalization:
        return bool(layer.axis in (-1, len(tensor.shape) - 1))
    # Without an offset it is one multiplication by one number, which the file has in 8 bits exactly.
    return type(layer) is keras.layers.Rescaling and bool(np.any(layer.offset)) and "float" in tensor.dtype


def as_convolution(layer: Any, shape: tuple[int | None, ...]) -> list[keras.layers.Layer]:
    """Returns the layers that compute what an affine one does at inference. The given one is not changed.

    Args:
        layer: A layer of `find_affine`.
        shape: The shape of its input.
    """
    channels = shape[-1] or 0
    factor, shift = _factor_and_shift(layer, channels)
    whole = len(shape) == 4
    name = layer.name if whole else f"{layer.name}_affine"
    convolution: Any = keras.layers.DepthwiseConv2D(1, name=name, dtype="float32", trainable=layer.trainable)
    convolution.build((None, None, None, channels))
    convolution.kernel.assign(np.reshape(factor, (1, 1, channels, 1)))
    convolution.bias.assign(shift)
    quantized = Quantized(convolution, weights=_KERNEL)
    if whole:
        return [quantized]
    image = (1, 1, channels) if len(shape) == 2 else (-1, 1, channels)
    back = tuple(-1 if size is None else size for size in shape[1:])
    before = keras.layers.Reshape(image, name=f"{layer.name}_image")
    return [before, quantized, keras.layers.Reshape(back, name=layer.name)]


def _factor_and_shift(layer: Any, channels: int) -> tuple[np.ndarray, np.ndarray]:
    if isinstance(layer, keras.layers.Rescaling):
        factor, shift = np.asarray(layer.scale, np.float64), np.asarray(layer.offset, np.float64)
        return np.broadcast_to(factor, (channels,)), np.broadcast_to(shift, (channels,))
    return affine_of(layer)
