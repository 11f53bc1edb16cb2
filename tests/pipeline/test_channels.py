"""Channels in one call: removed where a size asks for it, or as ordered, before zeros."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from jobs import accuracy

import bigmodel as bm
from bigmodel.config import PruneConfig, QuantizeConfig, TrainConfig

pytestmark = pytest.mark.slow

EIGHT_BITS = QuantizeConfig(bits=8, activations="float", method="post_training")


def units(model: keras.Model) -> int:
    return model.get_layer("hidden").kernel.shape[-1]


@pytest.fixture(scope="module")
def bound(trained, tmp_path_factory):
    """Bytes that the whole network has at 8 bits, less a twentieth."""
    path = tmp_path_factory.mktemp("whole") / "model.tflite"
    return int(0.95 * bm.export_litert(trained, path, format="weight_only_int8").stat().st_size)


@pytest.fixture(scope="module")
def small(trained, digits, bound):
    """The call with a size that no file of the whole network has."""
    target = bm.Target(max_drop=0.3, size=bound)
    return bm.compress_and_tune(
        trained, digits, target=target, augment=None, quantize=EIGHT_BITS, train=TrainConfig(epochs=1), verbose=0
    )


def test_channels_go_where_the_size_asks_for_it(small, trained, bound):
    assert min(row["size_bytes"] for row in small.report.candidates if not row["steps"]) > bound
    assert small.litert_path.stat().st_size <= bound and small.report.target_met
    (step,) = (step for step in small.report.steps if step["name"] == "channels")
    assert step["granularity"] == "channel"
    assert step["parameters_after"] < step["parameters_before"] == trained.count_params()
    (chosen,) = (row for row in small.report.candidates if row["status"] == "chosen")
    assert list(chosen["steps"]) == ["channels"]


def test_the_smaller_file_is_a_smaller_network_that_still_reads_digits(small, digits):
    file = bm.evaluation.inspect_file(small.litert_path)
    before = small.report.baseline
    assert file.parameters < before["parameters"] and file.macs < before["macs"]
    x, y = digits.test
    assert accuracy(bm.LiteModel(small.litert_path).predict(x), y) > 0.7


def test_channels_and_then_zeros_as_ordered(trained, digits):
    prunings = [PruneConfig(0.5, granularity="channel"), PruneConfig(0.75)]
    result = bm.compress_and_tune(
        trained,
        digits,
        augment=None,
        prune=prunings,
        quantize=EIGHT_BITS,
        train=TrainConfig(epochs=1),
        verbose=0,
    )
    *steps, last = result.report.steps
    assert [step["name"] for step in steps] == ["prune1", "prune2"]
    assert last["name"] == "prune1-prune2-post_training_int8" and last["rounding"] == "nearest"
    assert [step["granularity"] for step in steps] == ["channel", "weight"]
    assert all(row["steps"] == ["prune1", "prune2"] for row in result.report.candidates if row["name"] != "baseline")
    file = bm.evaluation.inspect_file(result.litert_path)
    kernels = [op for op in file.ops if op.weight_bits is not None]
    assert units(trained) == 48 and [op.macs for op in kernels] == [64 * 24, 24 * 10]
    assert all(0.75 <= op.sparsity < 0.8 for op in kernels)  # rounding to 8 bits makes a few more zeros


def test_zeros_survive_the_removal_of_channels_after_them(trained, digits):
    train = TrainConfig(epochs=1)
    sparse = bm.prune(trained, digits, 0.75, train=train, verbose=0)
    smaller = bm.prune(sparse, digits, 0.5, granularity="channel", train=train, verbose=0)
    assert units(smaller) == 24
    zeros = np.mean(smaller.get_layer("hidden").kernel.numpy() == 0)
    kept = sparse.get_layer("hidden").kernel.numpy()
    assert zeros >= np.sort(np.mean(kept == 0, axis=0))[:24].mean()
