"""Which variables of a layer are weights, on which axes the file's grid lies, and how the kernel sees its input.

Biases are never quantized to the weights' bits: they stay float in dynamic files and become int32 in static ones.
Frozen layers are quantized like all others. A layer made of layers (attention, a recurrent layer of its cell, a model)
has no rule of its own: each layer inside follows its rule.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
from keras.src.layers.rnn.conv_lstm import ConvLSTMCell  # the cell of the public ConvLSTM layers

# Modules and not their names: Keras' loading imports this one, possibly in the middle of the import of those.
from bigmodel.config import WeightGranularity
from bigmodel.quantization import fake, parts


@dataclasses.dataclass(frozen=True)
class WeightQuantization:
    """How one weight is quantized, on a symmetric grid.

    Args:
        bits: Bits of a code.
        axes: The channel axes of the variable in the file; empty: it has no channels.
        granularity: Whether each "channel" has a scale, or the "tensor" one for all.
    """

    bits: int
    axes: tuple[int, ...]
    granularity: WeightGranularity = "channel"

    def __post_init__(self) -> None:
        object.__setattr__(self, "axes", tuple(self.axes))

    @property
    def scale_axes(self) -> tuple[int, ...]:
        """The axes along which there is one scale per index."""
        return self.axes if self.granularity == "channel" else ()

    def scale_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Returns the shape of the scale that broadcasts against a weight of `shape`."""
        kept = {axis % len(shape) for axis in self.scale_axes}
        return tuple(size if axis in kept else 1 for axis, size in enumerate(shape))

    def min_max_scale(self, weights: Any) -> Any:
        """Returns the scale of `weights` that follows from them: min-max, with 2 bits and fewer the best one."""
        return fake.symmetric_scale(weights, self.bits, self.scale_axes)

    def channels_first(self, weights: np.ndarray) -> np.ndarray:
        """Returns the weights as (channels, values per channel), in the order of the file's buffer."""
        axes = sorted(axis % weights.ndim for axis in self.axes)
        moved = np.moveaxis(weights, axes, range(len(axes)))
        return moved.reshape(int(np.prod([weights.shape[axis] for axis in axes], dtype=int)), -1)

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields, JSON-ready."""
        return {"bits": self.bits, "axes": list(self.axes), "granularity": self.granularity}


@dataclasses.dataclass(frozen=True)
class InputQuantization:
    """How a kernel quantizes its input at run time; the fields are the arguments of `fake.dynamic_fake_quantize`.

    Args:
        granularity: "row" or "sample": what has a range of its own.
        kernels: Whose arithmetic.
        dilation: Of a dilated convolution, for every axis between the first and the last.
        axes: The axes of a row.
        state: Of a recurrent cell: how the state is quantized on its way into the recurrent kernel.
    """

    granularity: fake.Granularity
    kernels: fake.Kernels = "xnnpack"
    dilation: tuple[int, ...] = ()
    axes: tuple[int, ...] = (-1,)
    state: InputQuantization | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "dilation", tuple(self.dilation))
        object.__setattr__(self, "axes", tuple(self.axes))
        if isinstance(self.state, Mapping):
            object.__setattr__(self, "state", InputQuantization(**self.state))

    def fake_quantize(self, inputs: Any) -> Any:
        """Returns the inputs as the kernel sees them."""
        inputs = keras.ops.cast(inputs, "float32")
        return fake.dynamic_fake_quantize(
            inputs, self.granularity, kernels=self.kernels, dilation=self.dilation, axes=self.axes
        )

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields, JSON-ready."""
        return {
            "granularity": self.granularity,
            "kernels": self.kernels,
            "dilation": list(self.dilation),
            "axes": list(self.axes),
            "state": self.state.to_dict() if self.state else None,
        }


InputRule = Callable[[Any, int], InputQuantization | None]
Axes = Mapping[str, tuple[int, ...]]


@dataclasses.dataclass(frozen=True)
class LayerRule:
    """What the table says of one layer class.

    Args:
        weights: Channel axes of the file's grid, by the weight's name; or a function of the layer that returns them.
        inputs: How the input is quantized in a dynamic file, from the layer and its bits; `None` where it is not: then
            only the weights are stored as integers, and the kernel computes in float.
        bits: The bits that the runtime's kernel of this layer takes.
        tensor_bits: Those of them with which it also takes one scale for a whole weight.
        in_loop: Whether the kernels run in the body of a loop: there they stay dynamic in a static file too.
        gathers: Whether rows are looked up and not multiplied.
        integer: Whether the kernel computes in integers in a static file.

    Example:
        Of a layer of one's own with a kernel of shape (inputs, outputs) that lands in a fully connected op:

        >>> rule = LayerRule({"kernel": (-1,)}, dense_input, bits=(8, 4))
        >>> rule.weight_quantization(2)["kernel"].bits
        4
    """

    weights: Axes | Callable[[Any], Axes]
    inputs: InputRule | None
    bits: tuple[int, ...] = (8, 4)
    tensor_bits: tuple[int, ...] = ()
    in_loop: bool = False
    gathers: bool = False
    integer: bool = True

    def weight_quantization(
        self, bits: int, layer: keras.layers.Layer | None = None, granularity: WeightGranularity = "channel"
    ) -> dict[str, WeightQuantization]:
        """Returns the quantization of each weight at the closest bits, and the granularity, that the kernel takes."""
        held = bits if bits in self.bits else min(b for b in self.bits if b > bits)
        weights = self.weights if isinstance(self.weights, Mapping) else self.weights(layer)
        held_granularity = granularity if held in self.tensor_bits else "channel"
        return {name: WeightQuantization(held, axes, held_granularity) for name, axes in weights.items()}


def _row(length: int, bits: int, axes: tuple[int, ...] = (-1,)) -> InputQuantization:
    # Several small codes share a byte: XNNPACK leaves rows that end within one to the built-in kernel.
    codes_per_byte = {8: 1, 4: 2}.get(bits, 4)
    return InputQuantization("row", "builtin" if length % codes_per_byte else "xnnpack", axes=axes)


def dense_input(layer: Any, bits: int) -> InputQuantization:
    """Returns how a fully connected kernel of shape (inputs, outputs) sees its input: each row by itself."""
    return _row(layer.kernel.shape[0], bits)


def _einsum(layer: keras.layers.EinsumDense) -> tuple[str, str, str]:
    """The labels of input, kernel and output; the kernel has no ellipsis."""
    operands, outputs = layer.equation.replace(" ", "").split("->")
    inputs, kernel = operands.split(",")
    return inputs, kernel, outputs


def _einsum_weights(layer: keras.layers.EinsumDense) -> Axes:
    inputs, kernel, outputs = _einsum(layer)
    return {"kernel": tuple(i for i, label in enumerate(kernel) if label in outputs and label not in inputs)}


def _einsum_input(layer: keras.layers.EinsumDense, bits: int) -> InputQuantization | None:
    inputs, kernel, outputs = _einsum(layer)
    if any(label in inputs and label in outputs for label in kernel):
        return (
            None  # a kernel for each position is a multiplication of batches, for which the runtime widens the weights
        )
    summed = [label for label in kernel if label in inputs]
    length = int(np.prod([layer.kernel.shape[kernel.index(label)] for label in summed], dtype=int))
    # Counted from the end: an ellipsis may stand for any number of axes.
    return _row(length, bits, tuple(sorted(inputs.index(label) - len(inputs) for label in summed)))


def _convolution(layer: Any, bits: int) -> InputQuantization:
    # XNNPACK has the 8-bit ones, and takes a 1x1 one as a fully connected layer of every pixel.
    pointwise = all(size == 1 for size in (*layer.kernel_size, *layer.strides)) and layer.groups == 1
    if bits == 8 and pointwise:
        return InputQuantization("row")
    return InputQuantization("sample", "xnnpack" if bits == 8 else "builtin", layer.dilation_rate)


def _depthwise(layer: Any, bits: int) -> InputQuantization:
    return InputQuantization("sample", "builtin", layer.dilation_rate)


def _cell(layer: Any, bits: int) -> InputQuantization:
    # The kernels see the vector of one time step at once, so that a row is what the runtime quantizes.
    state = _row(layer.recurrent_kernel.shape[0], bits)
    return dataclasses.replace(_row(layer.kernel.shape[0], bits), state=state)


def _convolution_cell(layer: Any, bits: int) -> InputQuantization | None:
    if len(layer.kernel_size) > 2:
        return None
    kernels: fake.Kernels = "xnnpack" if bits == 8 else "builtin"
    return InputQuantization("sample", kernels, layer.dilation_rate, state=InputQuantization("sample", kernels))


_FULLY_CONNECTED = (8, 4, 2, 1)
# With one scale for all, fully connected kernels of 2 bits and convolutions of 4 bits take inputs on a symmetric range,
# which leaves half of the codes unused behind a ReLU.
_FULLY_CONNECTED_TENSOR = (8, 4)
_CELL = LayerRule(
    {"kernel": (-1,), "recurrent_kernel": (-1,)}, _cell, _FULLY_CONNECTED, _FULLY_CONNECTED_TENSOR, in_loop=True
)

RULES: dict[type[keras.layers.Layer], LayerRule] = {
    keras.layers.Dense: LayerRule({"kernel": (-1,)}, dense_input, _FULLY_CONNECTED, _FULLY_CONNECTED_TENSOR),
    keras.layers.EinsumDense: LayerRule(_einsum_weights, _einsum_input, _FULLY_CONNECTED, _FULLY_CONNECTED_TENSOR),
    keras.layers.Conv1D: LayerRule({"kernel": (-1,)}, _convolution, tensor_bits=(8,)),
    keras.layers.Conv2D: LayerRule({"kernel": (-1,)}, _convolution, tensor_bits=(8,)),
    keras.layers.Conv3D: LayerRule({"kernel": (-1,)}, None, integer=False),
    keras.layers.Conv1DTranspose: LayerRule({"kernel": (-2,)}, None),
    keras.layers.Conv2DTranspose: LayerRule({"kernel": (-2,)}, None),
    keras.layers.Conv3DTranspose: LayerRule({"kernel": (-2,)}, None, integer=False),
    keras.layers.DepthwiseConv1D: LayerRule({"kernel": (-2, -1)}, _depthwise, bits=(8,)),
    keras.layers.DepthwiseConv2D: LayerRule({"kernel": (-2, -1)}, _depthwise, bits=(8,)),
    # One scale for the whole table: rows are looked up as integers, and the file has a single scale for them.
    keras.layers.Embedding: LayerRule({"embeddings": ()}, None, bits=(8,), gathers=True),
    keras.layers.LSTMCell: _CELL,
    keras.layers.GRUCell: _CELL,
    keras.layers.SimpleRNNCell: _CELL,
    ConvLSTMCell: LayerRule({"kernel": (-1,), "recurrent_kernel": (-1,)}, _convolution_cell, in_loop=True),
}


def register_rule(kind: type[keras.layers.Layer], rule: LayerRule) -> None:
    """Says how a layer class is quantized, instead of what the table says.

    Args:
        kind: The class. Subclasses that leave its `call` alone follow it.
        rule: The rule.
    """
    RULES[kind] = rule


def rule_of(layer: keras.layers.Layer) -> LayerRule | None:
    """Returns the table's rule for a layer, or `None` where it has none.

    A subclass of a layer in the table follows its parent where it computes as the parent does.
    """
    for kind in type(layer).__mro__:
        if kind in RULES:
            return RULES[kind] if type(layer).call is kind.call else None
    return None


def rules_of(layer: keras.layers.Layer) -> dict[str, tuple[keras.layers.Layer, LayerRule]]:
    """Returns the layers with a rule in a layer, by their path inside it; at the empty path the layer itself.

    Args:
        layer: A built layer or model.
    """
    return dict(_ruled(layer, "", set()))


def _ruled(
    layer: keras.layers.Layer, path: str, seen: set[int]
) -> Iterator[tuple[str, tuple[keras.layers.Layer, LayerRule]]]:
    rule = rule_of(layer)
    if id(layer) in seen or isinstance(layer, keras.layers.SpectralNormalization):
        return
    seen.add(id(layer))
    if rule is not None:
        yield path, (layer, rule)
        return
    for name, inner in parts.inner_layers(layer):
        yield from _ruled(inner, parts.joined(path, name), seen)
