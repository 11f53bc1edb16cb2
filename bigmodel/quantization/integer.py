"""Kernels computed as the runtime does: integers are multiplied and added up, the sums are scaled at the end.

A simulation that adds up products of floats differs in the last bit of many values. Now and then that moves one over
the border between two codes of the next kernel, and a deep network multiplies such steps.
"""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops

# Modules and not their names: Keras' loading imports this one, possibly in the middle of the import of those.
from bigmodel.quantization import fake, kernels, table

# Whole numbers below it are exact in float32, and so are their sums.
_EXACT_IN_FLOAT32 = 2**24

# The built-in depthwise kernel takes so many channels at once, and the rest one by one, in another order.
_DEPTHWISE_CHANNELS = 4


def can_compute(layer: keras.layers.Layer, inputs: table.InputQuantization | None = None) -> bool:
    """Says whether the order is known in which the kernel of a layer multiplies.

    Args:
        layer: A built layer.
        inputs: How its kernel quantizes its input; `None`: the input lies on a fixed grid.
    """
    return (
        kernels.has_matrix(layer)
        and getattr(layer, "data_format", "channels_last") == "channels_last"
        and not any(factor > 1 for factor in (inputs.dilation if inputs else ()))
        and layer.compute_dtype == "float32"
        and layer.activity_regularizer is None  # its loss needs a call of the layer
    )


def dynamic(layer: Any, values: Any, inputs: table.InputQuantization, kernel: Any, scale: Any, bits: int) -> Any:
    """Returns what a layer makes of its input if its kernel finds the range of the input itself.

    Args:
        layer: A layer that `can_compute` takes.
        values: A batch of its inputs.
        inputs: How its kernel quantizes them.
        kernel: The kernel's weights.
        scale: Their scales, which broadcast against the kernel.
        bits: Bits of their codes.
    """
    values = ops.cast(values, "float32")
    codes, step = fake.dynamic_codes(values, inputs.granularity, kernels=inputs.kernels, axes=inputs.axes)
    sums = ops.cast(_sums(layer, codes, kernel, scale, bits), "float32")
    outputs = _scaled(layer, sums, step, ops.reshape(scale, (-1,)), inputs.kernels)
    return layer.activation(outputs) if layer.activation is not None else outputs


def static(layer: Any, values: Any, steps: tuple[float, float], kernel: Any, scale: Any, bits: int) -> Any:
    """Returns what a layer makes of its input if the grids of input and output are fixed, in XNNPACK's 8-bit kernels.

    Args:
        layer: A layer that `can_compute` takes.
        values: A batch of its inputs, on their grid.
        steps: Of the grids of input and output.
        kernel: The kernel's weights.
        scale: Their scales, which broadcast against the kernel.
        bits: Bits of their codes.
    """
    values = ops.cast(values, "float32") / steps[0]
    codes = fake.straight_through(ops.round(values), values)
    factors = _product(ops.reshape(scale, (-1,)), steps[0])
    sums = _wide(_sums(layer, codes, kernel, scale, bits))
    if layer.bias is not None:
        sums = sums + ops.round(_wide(layer.bias) / _wide(factors))
    multiplied = _product(ops.cast(sums, "float32"), ops.cast(_wide(factors) / steps[1], "float32"))
    outputs = fake.straight_through(ops.round(multiplied), multiplied) * steps[1]
    return layer.activation(outputs) if layer.activation is not None else outputs


def _sums(layer: Any, codes: Any, kernel: Any, scale: Any, bits: int) -> Any:
    """The sums of the products of codes, exact."""
    kernel_codes = fake.straight_through(fake.weight_codes(kernel, scale, bits), kernel / scale)
    terms = math.prod(layer.kernel_size) if type(layer) in kernels.DEPTHWISE else math.prod(kernel.shape[:-1])
    if terms * 255 * fake.largest_code(bits) >= _EXACT_IN_FLOAT32:
        codes, kernel_codes = _wide(codes), _wide(kernel_codes)
    return kernels.multiply(layer, codes, kernel_codes)


def _scaled(layer: Any, sums: Any, step: Any, factors: Any, whose: fake.Kernels) -> Any:
    """Sums of codes, multiplied by both steps and with the bias, in the order of the layer's dynamic kernel.

    The factors of a depthwise kernel are those of channels times multipliers, as in its output.
    """
    bias = layer.bias if layer.bias is not None else ops.zeros_like(factors)
    if type(layer) in kernels.DEPTHWISE:
        whole = factors.shape[0] // _DEPTHWISE_CHANNELS * _DEPTHWISE_CHANNELS
        vectors = _product(_product(sums[..., :whole], factors[:whole]), step)
        rest = _product(_product(sums[..., whole:], step), factors[whole:])
        products = ops.concatenate([vectors, rest], axis=-1)
    elif whose == "builtin" and getattr(layer, "groups", 1) > 1:
        products = _product(_product(sums, factors), step)
    elif whose == "builtin":
        products = _product(sums, _product(factors, step))
    elif type(layer) is keras.layers.Dense and len(sums.shape) > 2:  # the file adds the bias in an op of its own
        products = _product(_product(sums, step), factors)
    else:  # a fused multiplication and addition, which rounds once
        products = _wide(_product(sums, step)) * _wide(factors)
    return ops.cast(_wide(products) + _wide(bias), "float32")


def _product(left: Any, right: Any) -> Any:
    """The product in float32, in float64 in between: TensorFlow's graphs reorder chains of one type."""
    return ops.cast(_wide(left) * _wide(right), "float32")


def _wide(values: Any) -> Any:
    return ops.cast(values, "float64")
