"""Scales of weights against a fine search."""

import numpy as np
import pytest

from bigmodel.quantization.clipping import min_max_scale, mse_scale
from bigmodel.quantization.table import WeightQuantization


def loss(weights, scale, limit):
    return np.square(np.clip(np.round(weights / scale), -limit, limit) * scale - weights).sum()


@pytest.mark.parametrize("bits", [4, 8])
def test_the_scale_is_the_best_of_a_fine_search_in_every_channel(bits):
    weights = np.random.default_rng(0).standard_t(4, size=(3, 3, 40, 5)).astype("float32")
    limit = 2 ** (bits - 1) - 1
    scale = mse_scale(weights, WeightQuantization(bits, (-1,)))
    assert scale.shape == (1, 1, 1, 5)
    for channel in range(5):
        values = weights[..., channel]
        candidates = np.linspace(0.1, 1.0, 600) * np.abs(values).max() / limit
        best = min(loss(values, candidate, limit) for candidate in candidates)
        assert best * 0.999 <= loss(values, scale[..., channel], limit) <= 1.06 * best


def test_weights_on_the_min_max_grid_keep_it():
    codes = np.random.default_rng(0).integers(-7, 8, size=(50, 4))
    codes[0] = 7
    weights = (codes * np.array([0.1, 0.2, 0.3, 1.7])).astype("float32")
    four_bits = WeightQuantization(4, (-1,))
    np.testing.assert_allclose(mse_scale(weights, four_bits), min_max_scale(weights, four_bits))


def test_channels_of_zeros_are_no_obstacle():
    weights = np.zeros((6, 2), "float32")
    weights[:, 1] = 1.0
    scale = mse_scale(weights, WeightQuantization(4, (-1,)))
    assert scale[0, 0] > 0 and scale[0, 1] == pytest.approx(1 / 7)
