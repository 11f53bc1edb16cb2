"""Bias correction against its definition: the mean of a layer's outputs."""

import numpy as np

from bigmodel.quantization.bias_correction import corrected_bias


def test_the_mean_outputs_are_those_of_the_float_layer():
    generator = np.random.default_rng(0)
    groups, rows, outputs, inputs = 2, 500, 3, 7
    x = generator.uniform(0, 2, size=(groups, rows, inputs))
    y = x + generator.normal(loc=0.1, scale=0.2, size=x.shape)
    weights = generator.normal(size=(groups, outputs, inputs))
    rounded, bias = np.round(weights), generator.normal(size=groups * outputs)
    new = corrected_bias(bias, weights, rounded, x.mean(axis=1), y.mean(axis=1))
    expected = (x @ weights.swapaxes(1, 2)).mean(axis=1).reshape(-1) + bias
    np.testing.assert_allclose((y @ rounded.swapaxes(1, 2)).mean(axis=1).reshape(-1) + new, expected)


def test_nothing_is_corrected_where_nothing_was_rounded():
    weights, mean = np.ones((1, 2, 3)), np.ones((1, 3))
    np.testing.assert_array_equal(corrected_bias(np.arange(2.0), weights, weights, mean, mean), np.arange(2.0))
