"""Which variables of a layer are weights, on which axis the file's grid lies, and how the kernel sees its input.

Biases stay float in dynamic files and become int32 in static ones; normalisations are folded or stay float.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from bigmodel.errors import ModelError
from bigmodel.quantization import fake


@dataclasses.dataclass(frozen=True)
class WeightQuantization:
    """How one weight is quantized: per-channel, symmetric.

    Args:
        bits: Bits of a code.
        axes: The axes of the variable along which the file keeps one scale per index; empty: one scale for all.
    """

    bits: int
    axes: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "axes", tuple(self.axes))

    def scale_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Returns the shape of the scale that broadcasts against a weight of `shape`."""
        kept = {axis % len(shape) for axis in self.axes}
        return tuple(size if axis in kept else 1 for axis, size in enumerate(shape))

    def min_max_scale(self, weights: Any) -> Any:
        """Returns the min-max scale of `weights`."""
        return fake.symmetric_scale(weights, self.bits, self.axes)

    def channels_first(self, weights: np.ndarray) -> np.ndarray:
        """Returns the weights as (channels, values per channel), in the order of the file's buffer."""
        axes = sorted(axis % weights.ndim for axis in self.axes)
        moved = np.moveaxis(weights, axes, range(len(axes)))
        return moved.reshape(int(np.prod([weights.shape[axis] for axis in axes], dtype=int)), -1)

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields, JSON-ready."""
        return {"bits": self.bits, "axes": list(self.axes)}


@dataclasses.dataclass(frozen=True)
class InputQuantization:
    """How a kernel quantizes its input at run time; the fields are the arguments of `fake.dynamic_fake_quantize`."""

    granularity: fake.Granularity
    kernels: fake.Kernels = "xnnpack"
    dilation: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "dilation", tuple(self.dilation))

    def fake_quantize(self, inputs: Any) -> Any:
        """Returns the inputs as the kernel sees them."""
        return fake.dynamic_fake_quantize(inputs, self.granularity, kernels=self.kernels, dilation=self.dilation)

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields, JSON-ready."""
        return {"granularity": self.granularity, "kernels": self.kernels, "dilation": list(self.dilation)}


InputRule = Callable[[keras.layers.Layer, int], InputQuantization | None]


@dataclasses.dataclass(frozen=True)
class LayerRule:
    """What the table says of one layer class.

    Args:
        weights: Channel axes of the file's grid, by the weight's path inside the layer.
        inputs: How the input is quantized in a dynamic file, from the layer and its bits.
        bits: The bits that the runtime's kernel of this layer takes.
        in_loop: Whether the kernels run in the body of a loop: there they stay dynamic in a static file too.
        remark: What of the file the simulation does not show, for the report.
    """

    weights: dict[str, tuple[int, ...]]
    inputs: InputRule
    bits: tuple[int, ...] = (8, 4)
    in_loop: bool = False
    remark: str = ""

    def weight_quantization(self, bits: int) -> dict[str, WeightQuantization]:
        """Returns the quantization of each weight at the closest bits that the kernel takes."""
        held = bits if bits in self.bits else min(b for b in self.bits if b > bits)
        return {path: WeightQuantization(held, axes) for path, axes in self.weights.items()}


def _row(length: int, bits: int) -> InputQuantization:
    # Two 4-bit codes share a byte: XNNPACK leaves rows of odd length, which end within one, to the built-in kernel.
    return InputQuantization("row", "builtin" if bits == 4 and length % 2 else "xnnpack")


def _dense(layer: keras.layers.Layer, bits: int) -> InputQuantization:
    return _row(layer.kernel.shape[0], bits)


def _in_loop(layer: keras.layers.Layer, bits: int) -> InputQuantization:
    # The kernel sees the vector of one time step at once, so that a row is what the runtime quantizes.
    return _row(layer.cell.kernel.shape[0], bits)


def _convolution(layer: keras.layers.Layer, bits: int) -> InputQuantization:
    # XNNPACK has the 8-bit ones, and takes a 1x1 one as a fully connected layer of every pixel.
    pointwise = all(size == 1 for size in (*layer.kernel_size, *layer.strides)) and layer.groups == 1
    if bits == 8 and pointwise:
        return InputQuantization("row")
    return InputQuantization("sample", "xnnpack" if bits == 8 else "builtin", layer.dilation_rate)


def _depthwise(layer: keras.layers.Layer, bits: int) -> InputQuantization:
    return InputQuantization("sample", "builtin", layer.dilation_rate)


def _none(layer: keras.layers.Layer, bits: int) -> None:
    return None


def _recurrent(cell: str) -> LayerRule:
    return LayerRule(
        {f"{cell}/kernel": (-1,), f"{cell}/recurrent_kernel": (-1,)},
        _in_loop,
        in_loop=True,
        remark="its weights are quantized; the runtime also quantizes its state at every step, unlike the simulation",
    )


RULES: dict[type[keras.layers.Layer], LayerRule] = {
    keras.layers.Dense: LayerRule({"kernel": (-1,)}, _dense),
    keras.layers.Conv1D: LayerRule({"kernel": (-1,)}, _convolution),
    keras.layers.Conv2D: LayerRule({"kernel": (-1,)}, _convolution),
    keras.layers.DepthwiseConv2D: LayerRule({"kernel": (-2, -1)}, _depthwise, bits=(8,)),
    # One scale for the whole table: rows are looked up as integers, and the file has a single scale for them.
    keras.layers.Embedding: LayerRule({"embeddings": ()}, _none, bits=(8,)),
    keras.layers.LSTM: _recurrent("lstm_cell"),
    keras.layers.GRU: _recurrent("gru_cell"),
    keras.layers.SimpleRNN: _recurrent("simple_rnn_cell"),
}


def rule_of(layer: keras.layers.Layer) -> LayerRule | None:
    """Returns the table's rule for a layer, or `None` where it stays float."""
    return RULES.get(type(layer))


def find_weight(layer: keras.layers.Layer, path: str) -> keras.Variable:
    """Returns the layer's weight at a path inside the layer.

    Raises:
        ModelError: The layer has no such weight.
    """
    for variable in layer.weights:
        if relative_path(layer, variable) == path:
            return variable
    raise ModelError(
        f"Layer {layer.name!r} has no weight {path!r}.",
        received=f"weights {[v.path for v in layer.weights]}",
        expected=f"a weight whose path inside the layer is {path!r}",
        fix="Rebuild the quantized model from the float model with this version of Keras.",
    )


def relative_path(layer: keras.layers.Layer, variable: keras.Variable) -> str:
    """Returns a variable's path inside its layer: "kernel" for "model/dense/kernel" of layer "dense"."""
    parts = variable.path.split("/")
    inside = len(parts) - 1
    # From the right: a wrapper and what it wraps may have the same name.
    start = next((i for i in reversed(range(inside)) if parts[i] == layer.name), inside - 1)
    return "/".join(parts[start + 1 :])
