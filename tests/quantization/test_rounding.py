"""Adaptive rounding: the least-squares problem against brute force, and what it keeps and gains in a network."""

import itertools

import keras
import numpy as np
import pytest

from bigmodel.quantization import fake
from bigmodel.quantization.kernels import MATRIX_LAYERS, from_matrix, to_matrix, to_rows
from bigmodel.quantization.rounding import adaptive_codes, damped, nearest_codes, output_error, shifted_target

GENERATOR = np.random.default_rng(0)


def problem(groups=1, outputs=5, inputs=6, rows=40, seed=0):
    """Weights, min-max scales at 4 bits, and the Gram matrices of inputs that go together as those of a network do."""
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(groups, rows, inputs)) @ generator.normal(size=(groups, inputs, inputs)) + 1.0
    weights = generator.normal(size=(groups, outputs, inputs))
    scale = np.abs(weights).max(axis=-1, keepdims=True) / 7
    return weights, scale, x, x.swapaxes(1, 2) @ x


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_nearest_codes_are_those_of_the_simulation(bits):
    weights = GENERATOR.normal(size=(2, 3, 50))
    scale = np.full((2, 3, 1), 0.3)
    np.testing.assert_array_equal(nearest_codes(weights, scale, bits), fake.weight_codes(weights, scale, bits))


def test_the_error_is_the_squared_change_of_the_outputs():
    weights, scale, x, gram = problem(groups=2)
    rounded = scale * nearest_codes(weights, scale, 4)
    change = x @ (weights - rounded).swapaxes(1, 2)
    np.testing.assert_allclose(output_error(weights, rounded, gram), np.square(change).sum(axis=1))


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("seed", range(5))
def test_adaptive_codes_are_never_worse_than_the_nearest_ones_and_better_on_average(groups, seed):
    weights, scale, _, gram = problem(groups, seed=seed, inputs=24, rows=100)
    gram = damped(gram)
    codes = adaptive_codes(weights, scale, gram, 4)
    adaptive = output_error(weights, scale * codes, gram)
    nearest = output_error(weights, scale * nearest_codes(weights, scale, 4), gram)
    assert (adaptive <= nearest).all() and adaptive.sum() < 0.7 * nearest.sum()
    assert np.abs(codes).max() <= 7 and (codes == np.rint(codes)).all()


@pytest.mark.parametrize("seed", range(4))
def test_adaptive_codes_come_close_to_the_best_of_all(seed):
    weights, scale, _, gram = problem(outputs=1, inputs=4, seed=seed)
    gram = damped(gram)
    every = np.array(list(itertools.product(range(-7, 8), repeat=4)), float)
    errors = output_error(weights, every[None] * scale, gram)[0]
    reached = output_error(weights, scale * adaptive_codes(weights, scale, gram, 4), gram)[0, 0]
    assert errors.min() * (1 - 1e-9) <= reached <= np.sort(errors)[5]


def test_codes_for_independent_inputs_are_the_nearest_ones():
    weights, scale, _, _ = problem(groups=2)
    gram = np.eye(6) * GENERATOR.uniform(1, 3, size=(2, 1, 6))
    np.testing.assert_array_equal(adaptive_codes(weights, scale, gram, 4), nearest_codes(weights, scale, 4))


def test_pruned_weights_stay_zero_and_their_neighbours_make_up_for_it():
    weights, scale, _, gram = problem()
    zeros = GENERATOR.random(weights.shape) < 0.5
    weights, gram = np.where(zeros, 0.0, weights), damped(gram)
    codes = adaptive_codes(weights + 0.3 * zeros, scale, gram, 4, zeros=zeros)
    assert (codes[zeros] == 0).all() and codes[~zeros].any()


def test_inputs_that_are_always_zero_are_no_obstacle():
    weights, scale, _, gram = problem()
    gram[:, 2], gram[:, :, 2] = 0.0, 0.0
    codes = adaptive_codes(weights, scale, damped(gram), 4)
    np.testing.assert_array_equal(codes[..., 2], nearest_codes(weights, scale, 4)[..., 2])
    assert (adaptive_codes(weights, scale, damped(np.zeros_like(gram)), 4) == nearest_codes(weights, scale, 4)).all()


def test_the_shifted_target_is_the_least_squares_solution_on_the_quantized_inputs():
    weights, _, x, _ = problem(outputs=3)
    y = x + GENERATOR.normal(scale=0.2, size=x.shape)
    target = shifted_target(weights, y.swapaxes(1, 2) @ y, x.swapaxes(1, 2) @ y)
    expected = np.linalg.lstsq(y[0], x[0] @ weights[0].T, rcond=None)[0].T
    np.testing.assert_allclose(target[0], expected, rtol=1e-8)


LAYERS = {
    "dense": (keras.layers.Dense(3), (5,)),
    "dense on sequences": (keras.layers.Dense(3), (4, 5)),
    "conv1d": (keras.layers.Conv1D(3, 3, strides=2, padding="same"), (9, 4)),
    "conv1d causal": (keras.layers.Conv1D(3, 3, dilation_rate=2, padding="causal"), (9, 4)),
    "conv2d": (keras.layers.Conv2D(3, (3, 2), padding="valid"), (7, 6, 2)),
    "conv2d strided": (keras.layers.Conv2D(4, 3, strides=2, padding="same"), (7, 8, 2)),
    "conv2d dilated": (keras.layers.Conv2D(4, 3, dilation_rate=(2, 1), padding="same"), (7, 8, 2)),
    "conv2d grouped": (keras.layers.Conv2D(6, 3, groups=2, padding="same"), (5, 5, 4)),
    "conv3d": (keras.layers.Conv3D(3, 2, padding="same"), (4, 4, 4, 2)),
    "depthwise1d": (keras.layers.DepthwiseConv1D(3, depth_multiplier=2), (7, 3)),
    "depthwise2d": (keras.layers.DepthwiseConv2D(3, strides=2, padding="same", depth_multiplier=2), (7, 7, 3)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_its_rows_times_its_matrix(name):
    layer, shape = LAYERS[name]
    inputs = GENERATOR.normal(size=(2, *shape)).astype("float32")
    expected = np.asarray(layer(inputs))
    kernel = np.asarray(layer.kernel)
    matrix = to_matrix(layer, kernel)
    outputs = to_rows(layer, inputs) @ matrix.swapaxes(1, 2)  # (groups, rows, outputs)
    outputs = outputs.transpose(1, 0, 2).reshape(expected.shape)
    np.testing.assert_allclose(outputs, expected, atol=1e-5)
    np.testing.assert_array_equal(from_matrix(matrix, kernel.shape), kernel)


def test_every_matrix_layer_is_in_the_table_above():
    assert {type(layer) for layer, _ in LAYERS.values()} == set(MATRIX_LAYERS)
