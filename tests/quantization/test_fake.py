"""Fake quantization against TensorFlow's kernels, and against the runtime's formulas written out in NumPy."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from bigmodel.quantization import fake

RNG = np.random.default_rng(0)


def kernel(shape=(3, 3, 5, 8)):
    return RNG.normal(size=shape).astype("float32")


def tensorflows(weights, bound, bits):
    """TensorFlow's own kernel: one range for each index of the last axis."""
    return tf.quantization.fake_quant_with_min_max_vars_per_channel(
        weights, -bound, bound, num_bits=bits, narrow_range=True
    ).numpy()


# --- weights --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("shape", [(64, 10), (3, 3, 5, 8), (1, 7)])
def test_codes_are_those_of_tensorflows_kernel(bits, shape):
    for _ in range(5):
        weights = kernel(shape)
        bound = np.abs(weights).reshape(-1, shape[-1]).max(axis=0)
        scale = np.asarray(fake.symmetric_scale(weights, bits, (-1,)))
        expected = tensorflows(weights, bound, bits)
        np.testing.assert_array_equal(np.asarray(fake.weight_codes(weights, scale, bits)), np.rint(expected / scale))
        quantized = np.asarray(fake.fake_quantize_weights(weights, scale, bits))
        np.testing.assert_allclose(quantized, expected, rtol=3e-7)


def test_weights_are_bit_equal_to_tensorflows_where_scales_are_powers_of_two():
    weights = kernel((64, 6))
    bound = 127 * 2.0 ** np.array([-9, -8, -7, -6, -5, -4], np.float32)
    weights *= bound / np.abs(weights).max(axis=0)
    weights[np.abs(weights).argmax(axis=0), np.arange(6)] = bound
    scale = fake.symmetric_scale(weights, 8, (-1,))
    np.testing.assert_array_equal(np.asarray(scale)[0], bound / 127)
    expected = tensorflows(weights, bound, 8)
    np.testing.assert_array_equal(np.asarray(fake.fake_quantize_weights(weights, scale, 8)), expected)


def test_the_gradient_of_weights_is_tensorflows_inside_and_beyond_the_grid():
    weights = tf.constant([[-9.0], [-3.4], [-0.2], [0.0], [1.3], [3.4], [4.2]])
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(weights)
        ours = fake.fake_quantize_weights(weights, np.float32([[0.5]]), 4)  # codes up to 7: -3.5 to 3.5
        theirs = tf.quantization.fake_quant_with_min_max_vars_per_channel(
            weights, [-3.5], [3.5], num_bits=4, narrow_range=True
        )
    np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(tape.gradient(ours, weights), tape.gradient(theirs, weights))
    np.testing.assert_array_equal(tape.gradient(ours, weights)[:, 0], [0, 1, 1, 1, 1, 1, 0])


def test_the_gradient_passes_everywhere_where_nothing_is_clipped():
    weights = tf.constant(kernel((20, 3)))
    with tf.GradientTape() as tape:
        tape.watch(weights)
        scale = fake.symmetric_scale(weights, 8, (-1,))
        total = tf.reduce_sum(fake.fake_quantize_weights(weights, scale, 8, clips=False) * 2.0)
    np.testing.assert_array_equal(tape.gradient(total, weights), np.full((20, 3), 2.0))  # none through the scale


def test_zeros_stay_zero_and_a_channel_of_zeros_is_no_division_by_zero():
    weights = kernel((40, 4))
    weights[RNG.random(weights.shape) < 0.5] = 0.0
    weights[:, 2] = 0.0
    scale = fake.symmetric_scale(weights, 8, (-1,))
    quantized = np.asarray(fake.fake_quantize_weights(weights, scale, 8))
    assert np.isfinite(quantized).all() and (np.asarray(scale) > 0).all()
    assert (quantized[weights == 0] == 0).all() and (quantized[:, 2] == 0).all()


@pytest.mark.parametrize(("axes", "expected"), [((), (1, 1, 1)), ((-1,), (1, 1, 4)), ((0, 2), (2, 1, 4))])
def test_one_scale_for_each_index_of_the_channel_axes(axes, expected):
    weights = kernel((2, 3, 4))
    scale = np.asarray(fake.symmetric_scale(weights, 8, axes))
    others = tuple(i for i in range(3) if i not in [axis % 3 for axis in axes])
    np.testing.assert_allclose(scale, np.abs(weights).max(axis=others, keepdims=True) / 127, rtol=1e-6)
    assert scale.shape == expected


def test_four_bits_are_fifteen_levels_in_a_functional_model():
    class Layer(keras.layers.Layer):
        def call(self, inputs):
            return fake.fake_quantize_weights(inputs, fake.symmetric_scale(inputs, 4, ()), 4)

    inputs = keras.Input((1000,))
    model = keras.Model(inputs, Layer()(inputs))
    assert len(np.unique(model.predict(kernel((1, 1000)), verbose=0))) == 15


# --- inputs of dynamic kernels --------------------------------------------------------------------------------------


def in_numpy(values, kernels):
    """One range for all values: XNNPACK's conversion and the runtime's own, each as its source has it, in float32."""
    one = np.float32
    low, high = min(one(0), values.min()), max(one(0), values.max())
    if low == high:
        return values
    scale, inverse = (high - low) / one(255), one(255) / (high - low)
    from_low, from_high = one(-128) - low * inverse, one(127) - high * inverse
    zero = from_low if (one(-128) + low * inverse) + (one(127) + high * inverse) > 0 else from_high
    nearest = np.rint if kernels == "xnnpack" else lambda v: np.copysign(np.floor(np.abs(v) + one(0.5)), v)
    zero = np.clip(nearest(zero), -128, 127)
    codes = np.clip(nearest(values * inverse) + zero, -128, 127)
    return (codes - zero) * scale


@pytest.mark.parametrize("kernels", ["xnnpack", "builtin"])
@pytest.mark.parametrize("shift", [-3.0, 0.0, 3.0], ids=["negative", "both", "positive"])
@pytest.mark.parametrize("shape", [(6, 9), (4, 5, 6, 3)])
def test_a_sample_has_the_grid_of_its_own_range(kernels, shift, shape):
    inputs = (RNG.normal(size=shape) + shift).astype("float32")
    inputs[1] = 0.0
    quantized = np.asarray(fake.dynamic_fake_quantize(inputs, "sample", kernels=kernels))
    for sample, expected in zip(quantized, inputs, strict=True):
        np.testing.assert_allclose(sample, in_numpy(expected, kernels), rtol=3e-7, atol=1e-9)


def test_a_row_has_the_grid_of_its_own_range():
    inputs = RNG.normal(size=(4, 5, 7)).astype("float32")
    quantized = np.asarray(fake.dynamic_fake_quantize(inputs, "row"))
    for row, expected in zip(quantized.reshape(-1, 7), inputs.reshape(-1, 7), strict=True):
        np.testing.assert_allclose(row, in_numpy(expected, "xnnpack"), rtol=3e-7, atol=1e-9)


def test_rows_of_the_built_in_kernel_are_symmetric():
    inputs = RNG.normal(size=(8, 5)).astype("float32")
    inputs[3] = 0.0
    bound = np.abs(inputs).max(axis=1, keepdims=True)
    codes = np.rint(inputs * (np.float32(127) / np.where(bound > 0, bound, 127)))
    quantized = np.asarray(fake.dynamic_fake_quantize(inputs, "row", kernels="builtin"))
    np.testing.assert_allclose(quantized, codes * bound / 127, rtol=3e-7)


def test_halves_go_to_even_steps_in_xnnpack_and_away_from_zero_in_the_built_in_kernels():
    inputs = np.float32([[0.0, 0.5, 1.5, 2.5, 255.0]])  # a step of 1, and -128 as the zero point
    np.testing.assert_array_equal(fake.dynamic_fake_quantize(inputs, "sample"), [[0, 0, 2, 2, 255]])
    away = fake.dynamic_fake_quantize(inputs, "sample", kernels="builtin")
    np.testing.assert_array_equal(away, [[0, 1, 2, 3, 255]])


@pytest.mark.parametrize(("shape", "dilation"), [((3, 11, 2), (2,)), ((2, 7, 8, 3), (2, 3)), ((2, 6, 6, 1), (1, 2))])
def test_each_phase_of_a_dilated_convolution_is_a_sample(shape, dilation):
    inputs = RNG.normal(size=shape).astype("float32")
    quantized = np.asarray(fake.dynamic_fake_quantize(inputs, "sample", dilation=dilation))
    for phase in np.ndindex(*dilation):
        places = (slice(None), *(slice(start, None, step) for start, step in zip(phase, dilation, strict=True)))
        expected = fake.dynamic_fake_quantize(inputs[places], "sample")
        np.testing.assert_array_equal(quantized[places], np.asarray(expected))


@pytest.mark.parametrize("arguments", [{}, {"kernels": "builtin"}, {"dilation": (2,)}], ids=str)
def test_zero_inputs_stay_zero_and_gradients_pass(arguments):
    inputs = tf.constant(RNG.normal(size=(3, 6, 2)).astype("float32") * (RNG.random((3, 6, 2)) < 0.5))
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = fake.dynamic_fake_quantize(inputs, "sample", **arguments)
    np.testing.assert_array_equal(outputs.numpy()[inputs.numpy() == 0], 0.0)
    np.testing.assert_array_equal(tape.gradient(outputs, inputs), np.ones((3, 6, 2)))


# --- ternary and binary weights, learned scales ----------------------------------------------------------------------


def test_ternary_weights_are_those_of_the_formula():
    weights = kernel((400, 5))
    mean = np.abs(weights).mean(axis=0)
    large = np.abs(weights) > 0.7 * mean
    scale = np.asarray(fake.symmetric_scale(weights, 2, (-1,)))
    np.testing.assert_allclose(scale[0], (np.abs(weights) * large).sum(axis=0) / large.sum(axis=0), rtol=1e-5)
    codes = np.asarray(fake.weight_codes(weights, scale, 2))
    assert set(np.unique(codes)) == {-1.0, 0.0, 1.0}
    # Of normally distributed weights the nearest code is that of the threshold, but for those between 0.56 and 0.61.
    assert (codes == np.sign(weights) * large).mean() > 0.95
    error = np.square(weights - codes * scale).sum()
    largest = np.abs(weights).max(axis=0, keepdims=True)
    assert error < 0.5 * np.square(weights - np.asarray(fake.weight_codes(weights, largest, 2)) * largest).sum()


def test_binary_weights_are_signs_times_the_mean_size():
    weights = kernel((60, 4))
    weights[3] = 0.0
    scale = np.asarray(fake.symmetric_scale(weights, 1, (-1,)))
    np.testing.assert_allclose(scale[0], np.abs(weights).mean(axis=0), rtol=1e-6)
    quantized = np.asarray(fake.fake_quantize_weights(weights, scale, 1, clips=False))
    np.testing.assert_allclose(quantized, np.where(weights >= 0, scale, -scale), rtol=1e-6)


@pytest.mark.parametrize("bits", [2, 1])
def test_gradients_of_few_bits_pass_everywhere_where_the_scale_follows(bits):
    weights = tf.constant(kernel((50, 3)))
    scale = fake.symmetric_scale(weights, bits, (-1,))
    with tf.GradientTape() as tape:
        tape.watch(weights)
        total = tf.reduce_sum(fake.fake_quantize_weights(weights, scale, bits, clips=False) * 2.0)
    np.testing.assert_array_equal(tape.gradient(total, weights), np.full((50, 3), 2.0))


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_a_learned_scale_has_the_gradient_of_the_paper(bits):
    weights, upstream = kernel((40, 3)), kernel((40, 3))
    scale = np.asarray(fake.symmetric_scale(weights, bits, (-1,))) * np.float32(0.7)
    limit = fake.largest_code(bits)
    variables = tf.constant(weights), tf.constant(scale)
    with tf.GradientTape() as tape:
        tape.watch(variables)
        outputs = fake.learned_fake_quantize_weights(*variables, bits)
    to_weights, to_scale = tape.gradient(outputs, variables, output_gradients=upstream)
    np.testing.assert_array_equal(outputs, np.asarray(fake.fake_quantize_weights(weights, scale, bits)))
    steps = weights / scale
    inside = np.abs(steps) <= limit + 0.5
    np.testing.assert_allclose(to_weights, upstream * inside)
    slopes = np.where(inside, np.clip(np.rint(steps), -limit, limit) - steps, limit * np.sign(steps))
    expected = (upstream * slopes).sum(axis=0, keepdims=True) / np.sqrt(40 * limit)
    np.testing.assert_allclose(to_scale, expected, rtol=1e-3, atol=1e-5)


def test_a_learned_range_moves_by_what_it_clips_and_by_what_it_rounds():
    inputs = RNG.uniform(-2, 4, 500).astype("float32")
    upstream = RNG.normal(size=500).astype("float32")
    ends = tf.constant(-1.0), tf.constant(2.0)
    variables = (tf.constant(inputs), *ends)
    with tf.GradientTape() as tape:
        tape.watch(variables)
        outputs = fake.learned_static_fake_quantize(*variables)
    to_inputs, to_low, to_high = tape.gradient(outputs, variables, output_gradients=upstream)
    scale, zero_point = (np.asarray(part) for part in fake.static_parameters(-1.0, 2.0))
    np.testing.assert_allclose(outputs, fake.static_fake_quantize(inputs, scale, zero_point), atol=1e-6)
    steps, least, most = inputs / scale, -128 - zero_point, 127 - zero_point
    below, above = steps < least - 0.5, steps > most + 0.5
    inside = ~(below | above)
    stretch = inside * (np.clip(np.rint(steps), least, most) - steps) / 255
    np.testing.assert_allclose(to_inputs, upstream * inside)
    pace = 1 / np.sqrt(255 * 500)
    np.testing.assert_allclose(to_low, pace * (upstream * (below - stretch)).sum(), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(to_high, pace * (upstream * (above + stretch)).sum(), rtol=1e-3, atol=1e-5)


# --- static activations ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("low", "high"), [(-1.0, 3.0), (0.0, 6.0), (-2.5, 0.0), (-0.01, 5.0)])
def test_a_fixed_range_is_that_of_tensorflows_kernel(low, high):
    inputs = tf.constant(RNG.uniform(low - 1, high + 1, 997).astype("float32"))
    scale, zero_point = fake.static_parameters(np.float32(low), np.float32(high))
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(inputs)
        ours = fake.static_fake_quantize(inputs, scale, zero_point)
        theirs = tf.quantization.fake_quant_with_min_max_vars(inputs, low, high)
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)
    given, expected = tape.gradient(ours, inputs).numpy(), tape.gradient(theirs, inputs).numpy()
    # TensorFlow's gradient ends at the last code, ours where values are no longer rounded to it: half a step later.
    moved = np.abs(inputs - ours)
    np.testing.assert_array_equal(given, moved <= np.asarray(scale) * (0.5 + 1e-5))
    assert (moved[given != expected] <= np.asarray(scale) * (0.5 + 1e-5)).all() and (given != expected).mean() < 0.05


def test_a_range_is_widened_to_contain_zero():
    scale, zero_point = fake.static_parameters(np.float32(2.0), np.float32(5.1))
    assert float(scale) == pytest.approx(5.1 / 255) and float(zero_point) == -128
    scale, zero_point = fake.static_parameters(np.float32(-5.1), np.float32(-2.0))
    assert float(scale) == pytest.approx(5.1 / 255) and float(zero_point) == 127
    assert float(ops.convert_to_numpy(fake.static_fake_quantize(np.float32(0.0), scale, zero_point))) == 0.0


@pytest.mark.parametrize(("low", "high"), [(-1.0, 3.0), (0.0, 6.0), (-2.5, 0.5)])
def test_the_grid_of_16_bits_lies_around_zero(low, high):
    scale, zero_point = fake.static_parameters(np.float32(low), np.float32(high), 16)
    bound = max(-low, high)
    assert float(scale) == pytest.approx(bound / 32767) and float(zero_point) == 0
    inputs = RNG.uniform(-2 * bound, 2 * bound, 997).astype("float32")
    expected = np.clip(np.rint(inputs / np.float32(scale)), -32768, 32767) * np.float32(scale)  # floats: 1/65536 counts
    found = np.asarray(fake.static_fake_quantize(inputs, scale, zero_point, bits=16))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1.001 * float(scale) * (1 / 64))


def test_a_kernel_whose_multiplier_is_off_rounds_what_that_makes_of_each_channel():
    steps = np.float32([[1000.0, 1000.0], [-2.0, 8.0]])
    found = fake.static_fake_quantize(steps * 0.5, 0.5, 0.0, bits=16, factors=(1.0, 1.25))
    np.testing.assert_array_equal(found, np.float32([[1000, 1250], [-2, 10]]) * 0.5)


def test_a_kernel_that_shifts_rounds_twice_and_halves_upwards():
    steps = np.float32([[1.47, 1.47], [-1.53, -1.53], [2.49, 2.49], [0.4, 0.4]])
    found = fake.static_fake_quantize(steps * 0.5, 0.5, 0.0, shifts=(3, 0))
    # In eighths first: 1.47 is 1.5 and so 2, -1.53 is -1.5 and so -1, 2.49 is 2.5 and so 3.
    np.testing.assert_array_equal(found, np.float32([[2, 1], [-1, -2], [3, 2], [0, 0]]) * 0.5)


def test_channels_that_are_rounded_one_by_one_take_halves_away_from_zero():
    steps = np.float32([[1.47, 1.47], [-1.53, -1.53], [-2.49, -2.49]])
    found = fake.static_fake_quantize(steps * 0.5, 0.5, 0.0, shifts=(3, 3), away=(False, True))
    np.testing.assert_array_equal(found, np.float32([[2, 2], [-1, -2], [-2, -3]]) * 0.5)


def test_a_factor_of_few_bits_moves_codes_to_another_grid():
    codes = np.arange(-100, 100, dtype="float32")[:, None]
    exact, rounded = np.float32(0.03) / np.float32(0.041), np.rint(256 * 0.03 / 0.041) / 256
    found = fake.static_fake_quantize(codes * 0.03, 0.041, 0.0, shifts=(8,), factors=(rounded / exact,))
    np.testing.assert_array_equal(np.rint(found / 0.041), np.floor(codes * rounded + 0.5))
