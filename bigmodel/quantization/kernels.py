"""Kernels as matrices: the form in which the layers that multiply and add are all one least-squares problem.

A layer of `g` groups computes, in each group, `rows @ matrix.T + bias`. `rows` are what its kernel sees of the input:
vectors of features, or the patches of a convolution. A fully connected layer is one group of vectors, a depthwise
convolution one group for each channel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

_CONVOLUTIONS = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)
DEPTHWISE = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)
MATRIX_LAYERS: tuple[type[keras.layers.Layer], ...] = (keras.layers.Dense, *_CONVOLUTIONS, *DEPTHWISE)
"""The layers with a `kernel` that these functions take."""


def has_matrix(layer: object) -> bool:
    """Says whether a layer computes `rows @ matrix.T + bias`."""
    return type(layer) in MATRIX_LAYERS


def to_matrix(layer: keras.layers.Layer, kernel: np.ndarray) -> np.ndarray:
    """Returns a layer's kernel as matrices of shape (groups, outputs, inputs).

    Args:
        layer: A layer of `MATRIX_LAYERS`.
        kernel: Its kernel, or an array of the same shape.
    """
    outputs_last = kernel.reshape(-1, *kernel.shape[-2:])  # (window, inputs, outputs); depthwise: (window, groups, m)
    if type(layer) in DEPTHWISE:
        return outputs_last.transpose(1, 2, 0)
    window, inputs, outputs = outputs_last.shape
    groups = getattr(layer, "groups", 1)
    return outputs_last.reshape(window * inputs, groups, outputs // groups).transpose(1, 2, 0)


def from_matrix(matrix: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Returns the kernel of `shape` whose matrices these are: the inverse of `to_matrix`."""
    return matrix.transpose(2, 0, 1).reshape(shape)


def multiply(layer: keras.layers.Layer, inputs: Any, kernel: Any) -> Any:
    """Returns what a layer makes of its inputs with a kernel, without its bias and its activation.

    Args:
        layer: A layer of `MATRIX_LAYERS`.
        inputs: A batch of its inputs.
        kernel: In the place of its kernel, of the same shape; of the inputs' dtype, which need not be the layer's.
    """
    if type(layer) is keras.layers.Dense:
        return keras.ops.matmul(inputs, kernel)
    padding = layer.padding
    if padding == "causal":
        inputs, padding = keras.ops.pad(inputs, layer._compute_causal_padding()), "valid"
    convolve = keras.ops.depthwise_conv if type(layer) in DEPTHWISE else keras.ops.conv
    how = {"strides": layer.strides, "dilation_rate": layer.dilation_rate, "data_format": layer.data_format}
    return convolve(inputs, kernel, padding=padding, **how)


def to_rows(layer: keras.layers.Layer, inputs: np.ndarray) -> np.ndarray:
    """Returns what a layer's kernel sees of its inputs, of shape (groups, rows, inputs).

    Args:
        layer: A layer of `MATRIX_LAYERS`.
        inputs: A batch of its inputs.
    """
    if type(layer) is keras.layers.Dense:
        return inputs.reshape(1, -1, inputs.shape[-1])
    if layer.data_format == "channels_first":
        inputs = np.moveaxis(inputs, 1, -1)
    patches = _patches(inputs, layer.kernel_size, layer.strides, layer.dilation_rate, layer.padding)
    channels = inputs.shape[-1]
    groups = channels if type(layer) in DEPTHWISE else layer.groups
    rows = int(np.prod(patches.shape[: inputs.ndim - 1]))
    window = int(np.prod(layer.kernel_size))
    grouped = patches.reshape(rows, window, groups, channels // groups)
    return grouped.transpose(2, 0, 1, 3).reshape(groups, rows, -1)


def _patches(
    inputs: np.ndarray, window: Sequence[int], strides: Sequence[int], dilation: Sequence[int], padding: str
) -> np.ndarray:
    """The windows of a convolution, of shape (batch, *positions, *window, channels)."""
    spans = [(size - 1) * factor + 1 for size, factor in zip(window, dilation, strict=True)]
    pads = [
        _padding(length, span, stride, padding)
        for length, span, stride in zip(inputs.shape[1:-1], spans, strides, strict=True)
    ]
    padded = np.pad(inputs, [(0, 0), *pads, (0, 0)])
    axes = tuple(range(1, inputs.ndim - 1))
    windows = np.lib.stride_tricks.sliding_window_view(padded, spans, axis=axes)
    positions = (slice(None), *(slice(None, None, stride) for stride in strides))
    taken = windows[(*positions, slice(None), *(slice(None, None, factor) for factor in dilation))]
    return np.moveaxis(taken, inputs.ndim - 1, -1)


def _padding(length: int, span: int, stride: int, padding: str) -> tuple[int, int]:
    if padding == "valid":
        return 0, 0
    if padding == "causal":
        return span - 1, 0
    total = max((-(-length // stride) - 1) * stride + span - length, 0)
    return total // 2, total - total // 2
