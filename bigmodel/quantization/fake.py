"""Fake quantization: the runtime's integer arithmetic, carried out on floats.

Plain functions of arrays (`keras.ops`, so NumPy arrays and any backend's tensors). Each rounds as the LiteRT kernels
do; gradients pass straight through the rounding (the straight-through estimator of Bengio et al., 2013).

Fake quantization must only be used inside a `Layer.call`: on symbolic tensors Keras may drop arguments.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

from keras import ops

Granularity = Literal["row", "sample"]
Kernels = Literal["xnnpack", "builtin"]
Halves = Literal["even", "away"]

_PARTS = 1024.0

# Below this bound the file's writer widens a channel's range, so that no scale is zero.
SMALLEST_BOUND = 1e-9


# Of ternary weights: those nearer to zero than this share of the mean size count as zeros (Li et al., 2016, section 3).
_TERNARY_THRESHOLD = 0.7


def largest_code(bits: int) -> int:
    """Returns the largest code of a symmetric signed grid: 127 for 8 bits, 7 for 4 bits, 1 for 2 bits and for 1 bit."""
    return max(2 ** (bits - 1) - 1, 1)


def symmetric_scale(weights: Any, bits: int, axes: Sequence[int]) -> Any:
    """Returns the per-channel scale of a weight that follows from the weight itself.

    With 8 and 4 bits the largest weight has the largest code (Krishnamoorthi, 2018, section 2.2). With fewer that would
    round nearly all others to zero: the scale of ternary weights is the mean size of those beyond 0.7 times the mean
    size (Li et al., "Ternary Weight Networks", 2016), that of binary ones the mean size (Rastegari et al., "XNOR-Net",
    2016): both are the scales of least squared error.

    Args:
        weights: Weights of any rank.
        bits: Bits of a code; 2 is ternary, 1 binary.
        axes: The channel axes, which keep their size; all others are reduced.

    Returns:
        Scales that broadcast against `weights`; `scale * code` is the dequantized weight.
    """
    kept = {axis % len(weights.shape) for axis in axes}
    reduced = tuple(axis for axis in range(len(weights.shape)) if axis not in kept)
    if bits > 2:
        high, low = ops.max(weights, axis=reduced, keepdims=True), ops.min(weights, axis=reduced, keepdims=True)
        bound = ops.maximum(high, -low)
        return ops.maximum(bound, SMALLEST_BOUND) / largest_code(bits)
    sizes = ops.abs(weights)
    scale = ops.mean(sizes, axis=reduced, keepdims=True)
    if bits == 2:
        large = ops.cast(sizes > _TERNARY_THRESHOLD * scale, sizes.dtype)
        count = ops.sum(large, axis=reduced, keepdims=True)
        scale = ops.sum(sizes * large, axis=reduced, keepdims=True) / ops.maximum(count, 1.0)
    return ops.maximum(scale, SMALLEST_BOUND)


def weight_codes(weights: Any, scale: Any, bits: int) -> Any:
    """Returns the signed integer codes of weights, as floats: `clip(round(weights / scale))`, of 1 bit the sign."""
    limit = largest_code(bits)
    return _nearest_code(bits)(ops.clip(weights / scale, -limit, limit))


def fake_quantize_weights(weights: Any, scale: Any, bits: int, *, clips: bool = True) -> Any:
    """Returns weights on the grid of `scale`: what the file dequantizes to. Zero stays zero, but with 1 bit.

    Gradients pass to weights within the grid and stop for those that it clips.

    Args:
        weights: Weights of any rank.
        scale: Positive scales that broadcast against `weights`; constants to the gradient.
        bits: Bits of a code.
        clips: `False` if the scale follows the weights: then gradients pass to all of them. Where it is their min-max
            none lies outside, and not clipping saves time.
    """
    limit, nearest = largest_code(bits), _nearest_code(bits)
    if not clips and bits > 2:
        return _on_grid(weights, scale)
    return _on_grid(weights, scale, -limit, limit, nearest=nearest, stops_outside=clips)


def learned_fake_quantize_weights(weights: Any, scale: Any, bits: int) -> Any:
    """Returns weights on the grid of `scale`, with a gradient for the scale: learned step size quantization.

    A weight within the grid changes with the scale by its rounding error, one beyond it by the largest code. Binary
    weights have no beyond: each changes by its sign, and gets its gradient however large it is. The
    gradient of a scale is divided by the root of the number of its weights times the largest code, so that scale and
    weights move at the same pace (Esser et al., "Learned Step Size Quantization", 2020).

    Args:
        weights: Weights of any rank.
        scale: Positive scales that broadcast against `weights`.
        bits: Bits of a code.
    """
    limit, nearest = largest_code(bits), _nearest_code(bits)
    shared = tuple(i for i, (a, b) in enumerate(zip(weights.shape, scale.shape, strict=True)) if a != b)
    members = math.prod(weights.shape) / math.prod(scale.shape)
    pace = 1.0 / math.sqrt(members * limit)

    @ops.custom_gradient
    def rounded(weights: Any, scale: Any) -> tuple[Any, Any]:
        steps = weights / scale
        clipped = ops.clip(steps, -limit, limit)
        codes = nearest(clipped)

        def gradient(*upstreams: Any, upstream: Any = None) -> tuple[Any, Any]:
            (given,) = upstreams if upstream is None else (upstream,)
            if bits == 1:
                return given, pace * ops.sum(given * codes, axis=shared, keepdims=True)
            inside = ops.cast(ops.abs(steps) <= limit + 0.5, given.dtype)
            to_scale = given * (codes - inside * steps)
            return given * inside, pace * ops.sum(to_scale, axis=shared, keepdims=True)

        return codes * scale, gradient

    return rounded(weights, scale)


def _nearest_code(bits: int) -> Callable[[Any], Any]:
    return _sign if bits == 1 else ops.round


def _sign(values: Any) -> Any:
    """The nearer of -1 and 1; of zero, 1: a binary weight has no code for zero."""
    return ops.where(values >= 0, 1.0, -1.0)


def dynamic_fake_quantize(
    inputs: Any,
    granularity: Granularity,
    *,
    kernels: Kernels = "xnnpack",
    dilation: Sequence[int] = (),
    axes: Sequence[int] = (-1,),
) -> Any:
    """Returns inputs as a dynamically quantizing kernel sees them: on 8-bit grids that span the values themselves.

    The range is widened to contain 0 and has 255 steps. The zero point is counted from the end of the range that lies
    farther from 0. Values are multiplied by `255 / (max - min)` and rounded; of two equally near codes XNNPACK takes
    the even one, the built-in kernels the one farther from 0.

    Args:
        inputs: A batch, of any rank from 2.
        granularity: "row": one range for every vector of `axes`. "sample": one range for every sample.
        kernels: Whose arithmetic: "xnnpack", or "builtin" for an op that XNNPACK leaves to the runtime's own kernels.
            For rows, those use a symmetric range of -127..127 codes.
        dilation: For every axis between the first and the last the dilation of a convolution. The file computes it as
            ordinary convolutions on every n-th value, each of which is a sample of its own. Empty: none.
        axes: The axes of a row.
    """
    if any(factor > 1 for factor in dilation):
        return _in_phases(inputs, dilation, kernels)
    return _dynamic_grid(inputs, granularity, axes, kernels).fake_quantize(inputs)


def dynamic_codes(
    inputs: Any, granularity: Granularity, *, kernels: Kernels = "xnnpack", axes: Sequence[int] = (-1,)
) -> tuple[Any, Any]:
    """Returns the codes of inputs as a dynamically quantizing kernel sees them, and what it multiplies their sums by.

    Args:
        inputs: As of `dynamic_fake_quantize`.
        granularity: As there.
        kernels: As there.
        axes: As there.

    Returns:
        Whole numbers as floats, counted from the zero point, with the gradient of the inputs in steps. And the step as
        this kernel computes it, which is not always the float nearest to the exact one; a constant to the gradient.
    """
    grid = _dynamic_grid(inputs, granularity, axes, kernels)
    steps = inputs * ops.stop_gradient(grid.inverse)
    return straight_through(grid.codes(steps), steps), ops.stop_gradient(grid.step())


def straight_through(rounded: Any, values: Any) -> Any:
    """Returns rounded values, exactly, with the gradient of what they were rounded from."""
    return values + ops.stop_gradient(rounded - values)


@dataclasses.dataclass(frozen=True)
class _DynamicGrid:
    """A grid that spans values: what they are multiplied by, how they are rounded and between which codes they lie.

    Codes are counted from the zero point; `width` is that of so many `steps`.
    """

    kernels: Kernels
    inverse: Any
    width: Any
    steps: float
    nearest: Callable[[Any], Any]
    limits: tuple[Any, Any] | None

    def codes(self, steps: Any) -> Any:
        codes = self.nearest(steps)
        return codes if self.limits is None else ops.clip(codes, *self.limits)

    def step(self) -> Any:
        """One step as the kernel computes it."""
        if self.kernels == "xnnpack":  # the sign of the width is 1: see `_dynamic_grid`
            return ops.sign(self.width) / self.inverse
        return ops.cast(ops.cast(self.width, "float64") / self.steps, "float32")

    def fake_quantize(self, inputs: Any) -> Any:
        # Only the rounding of the zero point can push a value off the grid: the gradient passes everywhere.
        how: dict[str, Any] = {"inverse": self.inverse, "nearest": self.nearest, "stops_outside": False}
        return _on_grid(inputs, self.width / self.steps, *(self.limits or ()), **how)


def _dynamic_grid(inputs: Any, granularity: Granularity, rows: Sequence[int], kernels: Kernels) -> _DynamicGrid:
    axes = tuple(range(1, len(inputs.shape)) if granularity == "sample" else rows)
    if granularity == "row" and kernels == "builtin":
        bound = ops.max(ops.abs(inputs), axis=axes, keepdims=True)
        bound = ops.where(bound > 0, bound, 127.0)
        return _DynamicGrid(kernels, 127.0 / bound, bound, 127.0, _round_half_away, None)
    low = ops.minimum(ops.min(inputs, axis=axes, keepdims=True), 0.0)
    high = ops.maximum(ops.max(inputs, axis=axes, keepdims=True), 0.0)
    width = high - low
    # A range without width means an input of zeros only, which any scale keeps.
    width = ops.where(width > 0, width, 255.0)
    # (The sign of the width is 1, but no constant, by whose side TensorFlow's graphs take an approximate reciprocal.)
    # The two differ where a value lies halfway between two codes, as those of a grid often do.
    if kernels == "xnnpack":
        inverse = 255.0 / width
        nearest, least, most = ops.round, low * inverse, high * inverse
    else:
        # In doubles, as there: TensorFlow's graphs multiply by 1/255 where a float is divided by 255.
        scale = ops.cast(width, "float64") / 255.0
        inverse = ops.sign(width) / ops.cast(scale, "float32")
        least, most = (ops.cast(ops.cast(end, "float64") / scale, "float32") for end in (low, high))
        nearest = _round_half_away
    zero_point = ops.clip(nearest(ops.where(least + most > 1.0, -128.0 - least, 127.0 - most)), -128, 127)
    return _DynamicGrid(kernels, inverse, width, 255.0, nearest, (-128 - zero_point, 127 - zero_point))


def _in_phases(inputs: Any, dilation: Sequence[int], kernels: Kernels) -> Any:
    """Quantizes as the file does: each phase of the dilation is moved to the batch, quantized as a sample, moved back.

    The zeros that fill up the last phases change no range.
    """
    batch, *sizes, channels = ops.shape(inputs)
    counts = [-(-size // factor) for size, factor in zip(sizes, dilation, strict=True)]
    whole = [count * factor for count, factor in zip(counts, dilation, strict=True)]
    split = [part for pair in zip(counts, dilation, strict=True) for part in pair]
    rank = len(dilation)
    to_batch = [0, *range(2, 2 * rank + 1, 2), *range(1, 2 * rank, 2), 2 * rank + 1]
    back = [to_batch.index(axis) for axis in range(len(to_batch))]

    padded = ops.pad(inputs, [(0, 0), *((0, factor - 1) for factor in dilation), (0, 0)])
    cut = padded[(slice(None), *(slice(0, size) for size in whole))]
    phases = ops.transpose(ops.reshape(cut, (batch, *split, channels)), to_batch)
    samples = ops.reshape(phases, (-1, *counts, channels))
    quantized = dynamic_fake_quantize(samples, "sample", kernels=kernels)
    joined = ops.transpose(ops.reshape(quantized, (batch, *dilation, *counts, channels)), back)
    return ops.reshape(joined, (batch, *whole, channels))[(slice(None), *(slice(0, size) for size in sizes))]


def _round_half_away(values: Any) -> Any:
    return ops.sign(values) * ops.floor(ops.abs(values) + 0.5)


def static_fake_quantize(
    inputs: Any,
    scale: Any,
    zero_point: Any,
    *,
    bits: int = 8,
    halves: Halves = "even",
    shifts: Sequence[int] = (),
    factors: Sequence[float] = (),
    away: Sequence[bool] = (),
    stops_outside: bool = True,
) -> Any:
    """Returns inputs on a fixed grid: `(clip(round(x / scale) + zero_point) - zero_point) * scale`.

    Gradients pass to values within the grid's range and stop outside of it (Jacob et al., 2018, section 3.1).

    Args:
        inputs: Any tensor.
        scale: The positive scale, a scalar.
        zero_point: The code of zero, one of the grid's, a scalar.
        bits: Bits of a code.
        halves: Which of two equally near codes: the "even" one, or the one "away" from code 0, as of average pooling.
        shifts: For each channel, the last axis, by how many bits the kernel shifts right at the end: it rounds to such
            a part of a step first, then to a step, halves upwards both times. Empty: it rounds once.
        factors: For each channel, by what factor the kernel's multiplier of few bits is off. Empty: it is exact.
        away: For each channel, whether a kernel that shifts rounds halves away from 0 instead. Empty: none does.
        stops_outside: `False` if the range follows the inputs: then gradients pass to all of them. Next to none lies
            outside, and looking for those takes longer than the rounding itself.
    """
    half = 2.0 ** (bits - 1)
    limits = -half - zero_point, half - 1.0 - zero_point
    on_grid = functools.partial(_on_grid, inputs, scale, *limits, stops_outside=stops_outside)
    # XNNPACK multiplies by the reciprocal; it has no kernels of 16 bits. (The sign is 1: see `_dynamic_grid`.)
    inverse = ops.sign(scale) / scale if bits == 8 else None
    if factors:
        inverse = ops.convert_to_tensor(factors, "float32") / scale
    if shifts:
        # Not one divided by: of constant vectors TensorFlow's graphs take an approximate reciprocal.
        parts, whole = (ops.convert_to_tensor([2.0 ** (sign * n) for n in shifts], "float32") for sign in (1, -1))

        def once(steps: Any) -> Any:
            upwards = ops.floor(steps + 0.5)
            return ops.where(ops.convert_to_tensor(away), _round_half_away(steps), upwards) if any(away) else upwards

        return on_grid(inverse=inverse, nearest=lambda steps: once(once(steps * parts) * whole))
    if halves == "even" or factors:
        return on_grid(inverse=inverse)

    def nearest(steps: Any) -> Any:
        # Averages of codes are multiples of one over their number: what lies this close to half a step is half a step.
        codes = ops.round((steps + zero_point) * _PARTS) / _PARTS
        return _round_half_away(codes) - zero_point

    return on_grid(nearest=nearest)


def learned_static_fake_quantize(inputs: Any, low: Any, high: Any) -> Any:
    """Returns inputs on the 8-bit grid of a range, with gradients for its ends.

    A value beyond an end moves with that end (PACT, Choi et al., 2018); one within moves by its rounding error with the
    scale (Esser et al., 2020), which both ends stretch. Without the latter a range that clips nothing would stay wide.
    As with weights, the gradient is divided by the root of the number of values times the number of steps.

    Args:
        inputs: Any tensor.
        low: The least value, a scalar of at most 0.
        high: The largest value, a scalar of at least 0.
    """

    @ops.custom_gradient
    def rounded(inputs: Any, low: Any, high: Any) -> tuple[Any, Any]:
        scale, zero_point = static_parameters(low, high)
        steps = inputs / scale
        codes = ops.clip(ops.round(steps), -128.0 - zero_point, 127.0 - zero_point)
        pace = 1.0 / ops.sqrt(255.0 * ops.cast(ops.size(inputs), "float32"))

        def gradient(*upstreams: Any, upstream: Any = None) -> tuple[Any, Any, Any]:
            (given,) = upstreams if upstream is None else (upstream,)
            below = ops.cast(steps < -128.5 - zero_point, given.dtype)
            above = ops.cast(steps > 127.5 - zero_point, given.dtype)
            inside = 1.0 - below - above
            stretch = inside * (codes - steps) / 255.0
            to_low, to_high = ops.sum(given * (below - stretch)), ops.sum(given * (above + stretch))
            return given * inside, pace * to_low, pace * to_high

        return codes * scale, gradient

    return rounded(inputs, low, high)


def static_parameters(low: Any, high: Any, bits: int = 8) -> tuple[Any, Any]:
    """Returns scale and zero point of the grid that covers a range widened to contain 0.

    The runtime's kernels of 8 bits take any zero point, those of 16 bits only 0.

    Args:
        low: The least value, a scalar.
        high: The largest value, a scalar.
        bits: Bits of a code: 8 or 16.
    """
    low, high = ops.minimum(low, 0.0), ops.maximum(high, 0.0)
    if bits == 16:
        bound = ops.maximum(high, -low)
        return ops.maximum(bound, SMALLEST_BOUND) / largest_code(bits), ops.zeros_like(bound)
    scale = ops.maximum(high - low, SMALLEST_BOUND) / 255.0
    return scale, ops.clip(ops.round(-128.0 - low / scale), -128, 127)


def _on_grid(
    values: Any,
    scale: Any,
    least: Any = None,
    most: Any = None,
    *,
    inverse: Any = None,
    nearest: Callable[[Any], Any] = ops.round,
    stops_outside: bool = True,
) -> Any:
    """Returns `clip(round(values / scale), least, most) * scale`, straight through for the gradient.

    The zero point is in the limits instead of being added and taken away again: one pass over the values less. Without
    limits nothing is clipped. With `inverse` values are multiplied by it and not divided, which rounds differently.
    """

    @ops.custom_gradient
    def rounded(values: Any) -> tuple[Any, Any]:
        steps = values / scale if inverse is None else values * inverse
        codes = nearest(steps)
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
