"""Observers: each range against its definition."""

import numpy as np
import pytest

from bigmodel.quantization.observers import (
    BINS,
    OBSERVERS,
    Histogram,
    entropy,
    min_max,
    moving_average,
    mse,
    observed,
    percentile,
)  # fmt: skip

GENERATOR = np.random.default_rng(0)


def seen(values, bins=BINS):
    low, high = min(values.min(), 0.0), max(values.max(), 0.0)
    return Histogram(low, high, np.histogram(values, bins=bins, range=(low, high))[0].astype(float))


def loss(values, low, high, levels=256):
    step = (high - low) / (levels - 1)
    zero = np.round(-low / step)
    return np.square((np.clip(np.round(values / step) + zero, 0, levels - 1) - zero) * step - values).mean()


def test_min_max_and_moving_average_follow_their_formulas():
    batches = [(-1.0, 2.0), (0.0, 4.0), (-3.0, 1.0)]
    assert min_max(batches) == (-3.0, 4.0)
    assert moving_average(batches, momentum=0.5) == (0.5 * (0.5 * -1.0) + 0.5 * -3.0, 0.5 * 3.0 + 0.5 * 1.0)
    assert moving_average(batches[:1]) == batches[0]


def test_the_percentile_is_that_of_the_values_to_a_bin():
    values = GENERATOR.normal(size=200_000)
    low, high = percentile(seen(values), kept=0.99)
    width = (values.max() - values.min()) / BINS
    np.testing.assert_allclose((low, high), np.quantile(values, [0.005, 0.995]), atol=2 * width)
    assert percentile(seen(np.abs(values)))[0] == 0.0


@pytest.mark.parametrize("levels", [16, 256])
def test_the_mse_range_is_the_best_of_a_fine_search(levels):
    values = np.maximum(GENERATOR.standard_t(3, size=50_000), 0.0)  # a ReLU with outliers
    low, high = mse(seen(values), levels)
    best = min(loss(values, 0.0, bound, levels) for bound in np.linspace(0.02, 1.0, 400) * values.max())
    assert low == 0.0 and loss(values, low, high, levels) <= 1.02 * best
    if levels == 16:  # so few levels have nothing to spare for outliers
        assert loss(values, low, high, levels) < 0.5 * loss(values, 0.0, values.max(), levels)


def test_the_mse_range_clips_each_side_by_itself():
    values = np.concatenate([GENERATOR.uniform(-1, 1, 100_000), [30.0]])
    low, high = mse(seen(values), levels=16)
    assert -1.1 < low < -0.8 and 0.8 < high < 5.0


def test_entropy_keeps_the_range_of_even_values_and_cuts_the_tail_of_others():
    even = GENERATOR.uniform(0, 1, size=200_000)
    assert entropy(seen(even))[1] > 0.95
    tailed = np.concatenate([np.abs(GENERATOR.normal(size=200_000)), [60.0]])
    low, high = entropy(seen(tailed))
    assert low == 0.0 and 3.0 < high < 30.0


def test_entropy_does_not_mind_how_many_zeros_there_are():
    values = np.abs(GENERATOR.normal(size=100_000))
    assert entropy(seen(np.concatenate([values, np.zeros(900_000)]))) == entropy(seen(np.concatenate([values, [0.0]])))


@pytest.mark.parametrize("name", OBSERVERS)
def test_ranges_contain_zero_lie_within_what_was_seen_and_do_not_depend_on_passes_being_kept(name):
    batches = [
        [GENERATOR.normal(loc=3.0, size=(8, 5)), np.zeros((8, 2)), -GENERATOR.uniform(size=40)] for _ in range(3)
    ]
    found = [ranges[name] for ranges in observed(lambda: iter(batches), [name])]
    for (low, high), values in zip(found, zip(*batches, strict=True), strict=True):
        assert min(np.min(values), 0.0) <= low <= 0.0 <= high <= max(np.max(values), 0.0)
    assert found[0][1] > 0 and found[1] == (0.0, 0.0) and found[2][0] < 0
