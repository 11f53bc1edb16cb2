from __future__ import annotations

import itertools

import numpy as np
import pytest

from bigmodel.pruning import magnitude_mask, sparsity_of, zero_count

SPARSITIES = [0.0, 0.1, 0.5, 0.8, 0.99]


@pytest.mark.parametrize("sparsity", SPARSITIES)
@pytest.mark.parametrize("shape", [(1,), (7,), (20, 30), (3, 3, 4, 8)])
def test_the_smallest_weights_go_and_the_count_is_exact(shape, sparsity):
    weights = np.random.default_rng(0).normal(size=shape).astype("float32")
    before = weights.copy()
    mask = magnitude_mask(weights, sparsity)
    zeros = min(round(sparsity * weights.size), weights.size - 1)
    order = np.argsort(np.abs(weights), axis=None, kind="stable")
    expected = np.ones(weights.size, dtype=bool)
    expected[order[:zeros]] = False
    np.testing.assert_array_equal(mask, expected.reshape(shape))
    np.testing.assert_array_equal(weights, before)


@pytest.mark.parametrize("sparsity", SPARSITIES)
def test_ties_are_broken_by_position(sparsity):
    weights = np.random.default_rng(1).integers(-2, 3, size=200).astype("float32")
    order = np.argsort(np.abs(weights), kind="stable")
    assert set(np.flatnonzero(~magnitude_mask(weights, sparsity))) == set(order[: round(sparsity * 200)])


def test_more_sparsity_only_adds_zeros():
    weights = np.random.default_rng(2).normal(size=(40, 25))
    masks = [magnitude_mask(weights, sparsity) for sparsity in np.linspace(0, 0.95, 20)]
    assert all((~later >= ~earlier).all() for earlier, later in itertools.pairwise(masks))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_masked_weights_are_pruned_again_first(dtype):
    weights = np.random.default_rng(3).normal(size=100).astype(dtype)
    pruned = weights * magnitude_mask(weights, 0.5)
    assert (magnitude_mask(pruned, 0.5) == magnitude_mask(weights, 0.5)).all()


@pytest.mark.parametrize(("size", "sparsity", "zeros"), [(10, 0.8, 8), (10, 0.0, 0), (1, 0.9, 0), (3, 0.99, 2)])
def test_zero_count(size, sparsity, zeros):
    assert zero_count(size, sparsity) == zeros


def test_sparsity_of_counts_both_zeros_and_takes_an_empty_array():
    assert sparsity_of(np.array([0.0, -0.0, 1e-30, 2.0])) == 0.5
    assert sparsity_of(np.zeros((0, 3))) == 0.0


def test_masks_equal_those_of_tfmot(python, tmp_path):
    generator = np.random.default_rng(4)
    shapes = {"dense": (64, 32), "conv": (3, 3, 8, 16), "odd": (7, 11)}
    weights = {name: generator.normal(size=shape).astype("float32") for name, shape in shapes.items()}
    sparsities = [0.1, 0.45, 0.5, 0.8, 0.93]
    np.savez(tmp_path / "weights.npz", **weights)
    code = """
import sys
import numpy as np
import tf_keras
import tensorflow as tf
from tensorflow_model_optimization.python.core.sparsity.keras.pruning_impl import Pruning
from tensorflow_model_optimization.python.core.sparsity.keras.pruning_schedule import ConstantSparsity
masks = {}
for name, weights in np.load(sys.argv[1]).items():
    for sparsity in map(float, sys.argv[3:]):
        pruning = Pruning(lambda: tf.constant(0), [], ConstantSparsity(sparsity, 0), (1, 1), "AVG")
        masks[f"{name}/{sparsity}"] = pruning._update_mask(tf.constant(weights))[1].numpy()
np.savez(sys.argv[2], **masks)
"""
    python(code, tmp_path / "weights.npz", tmp_path / "masks.npz", *map(str, sparsities))
    theirs = np.load(tmp_path / "masks.npz")
    assert len(theirs.files) == len(weights) * len(sparsities)
    for name, array in weights.items():
        for sparsity in sparsities:
            ours = magnitude_mask(array, sparsity)
            mask = theirs[f"{name}/{sparsity}"].astype(bool)
            # tfmot rounds the kept weights: one more or less at a half, which 77 * 0.5 is.
            if (sparsity * array.size) % 1 == 0.5:
                assert abs(int(ours.sum()) - int(mask.sum())) == 1 and (ours >= mask).all() | (ours <= mask).all()
            else:
                np.testing.assert_array_equal(ours, mask)
