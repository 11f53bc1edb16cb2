"""The network of a static file: layers that the converter would make several ops of, written so that each is one."""

from __future__ import annotations

from typing import Any

import keras

from bigmodel.export.dilated import DilatedConvolution
from bigmodel.graph import is_graph, trace
from bigmodel.quantization.rebuild import copy_layer, rebuild

_CONVOLUTIONS = {3: keras.layers.Conv1D, 4: keras.layers.Conv2D}
_DILATED = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.DepthwiseConv2D)
_WINDOWS = {
    keras.layers.GlobalMaxPooling1D: keras.layers.MaxPooling1D,
    keras.layers.GlobalMaxPooling2D: keras.layers.MaxPooling2D,
}


def single_ops(network: keras.Model) -> keras.Model:
    """Returns a network that computes the same in ops that have integer kernels, or the given one if it does already.

    Names of layers stay. A `Dense` of sequences becomes a 1x1 convolution and a dilated convolution one op, both of
    which the converter leaves without their bias otherwise. The largest value of a whole map is that of one window, and
    pixels are repeated by resizing.

    Args:
        network: A float model. One without a graph comes back as it is.
    """
    if not is_graph(network):
        return network
    shapes: dict[int, list[tuple[int | None, ...]]] = {}
    for call in trace(network, flatten=True):
        if call.inputs:
            shapes.setdefault(id(call.operation), []).append(tuple(call.inputs[0].shape))
    found = {key: _equal(call_shapes) for key, call_shapes in shapes.items()}
    replaced = False

    def replace(operation: Any) -> list[Any]:
        nonlocal replaced
        if not isinstance(operation, keras.layers.Layer):
            return [operation]
        links = _as_one_op(operation, found.get(id(operation)))
        replaced = replaced or bool(links)
        return links or [copy_layer(operation)]

    rebuilt = rebuild(network, replace)
    return rebuilt if replaced else network


def _equal(shapes: list[tuple[int | None, ...]]) -> tuple[int | None, ...] | None:
    return shapes[0] if all(shape == shapes[0] for shape in shapes) else None


def _as_one_op(layer: Any, shape: tuple[int | None, ...] | None) -> list[keras.layers.Layer]:
    """The layers to put in a layer's place; none to leave it."""
    if shape is None:
        return []
    if type(layer) is keras.layers.Dense and len(shape) in _CONVOLUTIONS:
        return [_pointwise(layer, len(shape))]
    if type(layer) in _DILATED and any(factor > 1 for factor in layer.dilation_rate):
        return [DilatedConvolution(copy_layer(layer), name=layer.name)] if _is_last(layer) else []
    if type(layer) in _WINDOWS and None not in shape[1:] and _is_last(layer):
        return _one_window(layer, shape)
    if type(layer) is keras.layers.UpSampling2D and None not in shape[1:] and _is_last(layer):
        return _resized(layer, shape) if layer.interpolation == "nearest" else []
    return []


def _is_last(layer: Any) -> bool:
    return bool(layer.data_format == "channels_last")


def _pointwise(dense: Any, rank: int) -> keras.layers.Layer:
    units_in, units = dense.kernel.shape
    layer = _CONVOLUTIONS[rank](
        units, 1, use_bias=dense.use_bias, activation=dense.activation, data_format="channels_last", name=dense.name
    )
    layer.build((*(None for _ in range(rank - 1)), units_in))
    layer.kernel.assign(keras.ops.reshape(dense.kernel, layer.kernel.shape))
    if dense.use_bias:
        layer.bias.assign(dense.bias)
    return layer


def _one_window(layer: Any, shape: tuple[int | None, ...]) -> list[keras.layers.Layer]:
    window = _WINDOWS[type(layer)](shape[1:-1], name=f"{layer.name}_window", data_format="channels_last")
    result = (*(1 for _ in shape[1:-1]), shape[-1]) if layer.keepdims else (shape[-1],)
    return [window, keras.layers.Reshape(result, name=layer.name)]


def _resized(layer: Any, shape: tuple[int | None, ...]) -> list[keras.layers.Layer]:
    height, width = (size * factor for size, factor in zip(shape[1:3], layer.size, strict=True) if size is not None)
    resizing = keras.layers.Resizing(
        height, width, interpolation="nearest", data_format="channels_last", name=layer.name, dtype="float32"
    )
    return [resizing]
