"""Fake quantization: the runtime's integer arithmetic, carried out on floats.

Plain functions of arrays (`keras.ops`, so NumPy arrays and any backend's tensors). Each rounds as the LiteRT kernels
do; gradients pass straight through the rounding (the straight-through estimator of Bengio et al., 2013).

Fake quantization must only be used inside a `Layer.call`: on symbolic tensors Keras may drop arguments.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from keras import ops

Granularity = Literal["row", "sample"]

# Below this bound the file's writer widens a channel's range, so that no scale is zero.
SMALLEST_BOUND = 1e-9


def largest_code(bits: int) -> int:
    """Returns the largest code of a symmetric signed grid: 127 for 8 bits, 7 for 4 bits."""
    return 2 ** (bits - 1) - 1


def symmetric_scale(weights: Any, bits: int, axes: Sequence[int]) -> Any:
    """Returns the per-channel min-max scale of a weight (Krishnamoorthi, 2018, section 2.2).

    Args:
        weights: Weights of any rank.
        bits: Bits of a code.
        axes: The channel axes, which keep their size; all others are reduced.

    Returns:
        Scales that broadcast against `weights`; `scale * code` is the dequantized weight.
    """
    kept = {axis % len(weights.shape) for axis in axes}
    reduced = tuple(axis for axis in range(len(weights.shape)) if axis not in kept)
    high, low = ops.max(weights, axis=reduced, keepdims=True), ops.min(weights, axis=reduced, keepdims=True)
    bound = ops.maximum(high, -low)
    return ops.maximum(bound, SMALLEST_BOUND) / largest_code(bits)


def weight_codes(weights: Any, scale: Any, bits: int) -> Any:
    """Returns the signed integer codes of weights, as floats: `clip(round(weights / scale))`."""
    limit = largest_code(bits)
    return ops.clip(ops.round(weights / scale), -limit, limit)


def fake_quantize_weights(weights: Any, scale: Any, bits: int, *, clips: bool = True) -> Any:
    """Returns weights on the grid of `scale`: what the file dequantizes to. Zero stays zero.

    Gradients pass to weights within the grid and stop for those that it clips.

    Args:
        weights: Weights of any rank.
        scale: Positive scales that broadcast against `weights`; constants to the gradient.
        bits: Bits of a code.
        clips: `False` if the scale is the weights' own min-max, so that none lies outside: that saves time.
    """
    limit = largest_code(bits)
    return _on_grid(weights, scale, -limit, limit) if clips else _on_grid(weights, scale)


def dynamic_fake_quantize(inputs: Any, granularity: Granularity) -> Any:
    """Returns inputs as a dynamically quantizing kernel sees them: 8 bits, asymmetric, ranges from the values themselves.

    The formula is LiteRT's: the range is widened to contain 0, `scale = (max - min) / 255`,
    `zero_point = clip(round(-128 - min / scale), -128, 127)`, values are rounded after the division.

    Args:
        inputs: A batch, of any rank from 2.
        granularity: "row": one range for every vector of the last axis (fully connected and 8-bit 1x1 convolution
            kernels). "sample": one range for every sample (all other convolutions).
    """
    axes = (-1,) if granularity == "row" else tuple(range(1, len(inputs.shape)))
    low = ops.minimum(ops.min(inputs, axis=axes, keepdims=True), 0.0)
    high = ops.maximum(ops.max(inputs, axis=axes, keepdims=True), 0.0)
    width = high - low
    # A range without width means an input of zeros only, which any scale keeps.
    scale = ops.where(width > 0, width, 255.0) / 255.0
    zero_point = ops.clip(ops.round(-128.0 - low / scale), -128, 127)
    # Only the rounding of the zero point can push a value off the grid: the gradient passes everywhere.
    return _on_grid(inputs, scale, -128 - zero_point, 127 - zero_point, stops_outside=False)


def static_fake_quantize(inputs: Any, scale: Any, zero_point: Any) -> Any:
    """Returns inputs on a fixed 8-bit grid: `(clip(round(x / scale) + zero_point) - zero_point) * scale`.

    Gradients pass to values within the grid's range and stop outside of it (Jacob et al., 2018, section 3.1).

    Args:
        inputs: Any tensor.
        scale: The positive scale, a scalar.
        zero_point: The code of zero, -128..127, a scalar.
    """
    return _on_grid(inputs, scale, -128.0 - zero_point, 127.0 - zero_point)


def static_parameters(low: Any, high: Any) -> tuple[Any, Any]:
    """Returns scale and zero point of the 8-bit grid that covers a range widened to contain 0.

    Args:
        low: The least value, a scalar.
        high: The largest value, a scalar.
    """
    low, high = ops.minimum(low, 0.0), ops.maximum(high, 0.0)
    scale = ops.maximum(high - low, SMALLEST_BOUND) / 255.0
    return scale, ops.clip(ops.round(-128.0 - low / scale), -128, 127)


def _on_grid(values: Any, scale: Any, least: Any = None, most: Any = None, *, stops_outside: bool = True) -> Any:
    """Returns `clip(round(values / scale), least, most) * scale`, straight through for the gradient.

    The zero point is in the limits instead of being added and taken away again: one pass over the values less. Without
    limits nothing is clipped.
    """

    @ops.custom_gradient
    def rounded(values: Any) -> tuple[Any, Any]:
        steps = values / scale
        codes = ops.round(steps)
        if least is not None:
            codes = ops.clip(codes, least, most)

        def gradient(*upstreams: Any, upstream: Any = None) -> Any:
            (given,) = upstreams if upstream is None else (upstream,)
            if least is None or not stops_outside:
                return given
            inside = ops.logical_and(steps >= least - 0.5, steps <= most + 0.5)
            return given * ops.cast(inside, given.dtype)

        return codes * scale, gradient

    return rounded(values)
