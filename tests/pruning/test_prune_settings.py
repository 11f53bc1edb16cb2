"""`bm.prune` with settings: what it refuses before anything is trained, and that it does what a config does."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

import bigmodel as bm
from bigmodel.config import PruneConfig, TrainConfig
from bigmodel.errors import ArgumentError, ArgumentTypeError, ModelError

NO_TRAINING = TrainConfig(epochs=0)


@pytest.fixture
def model():
    keras.utils.set_random_seed(0)
    made = keras.Sequential([keras.Input((4,)), layers.Dense(8, name="a"), layers.Dense(6, name="b"), layers.Dense(2)])
    made.compile("sgd", "mse")
    return made


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    return rng.normal(size=(40, 4)).astype("float32"), rng.normal(size=(40, 2)).astype("float32")


def units(model):
    return [layer.units for layer in model.layers if hasattr(layer, "units")]


@pytest.mark.parametrize(
    ("sparsity", "settings", "error", "message"),
    [
        (0.5, {"granularty": "channel"}, ArgumentError, "granularty"),
        (PruneConfig(0.5), {"granularity": "channel"}, ArgumentError, "next to a PruneConfig"),
        (0.5, {"granularity": "channels"}, ArgumentError, "'channel'"),
        (0.5, {"budget": {"macs": 0.5}}, ArgumentError, "budget"),
        ({"a": 0.5}, {}, ArgumentError, "one number with granularity='weight'"),
        (1.0, {"granularity": "channel"}, ArgumentError, "sparsity"),
        ([0.5], {}, ArgumentTypeError, r"PruneConfig\(sparsity=\.\.\.\)"),
        ({"none": 0.5}, {"granularity": "channel"}, ArgumentError, "'none'"),
        (0.5, {"granularity": "channel", "where": lambda layer: False}, ModelError, "No channels can be removed"),
        (0.5, {"granularity": "channel", "budget": {"parameters": 0.01}}, ArgumentError, "can't be reached"),
    ],
)
def test_what_can_not_be_carried_out_is_refused(model, data, sparsity, settings, error, message):
    with pytest.raises(error, match=message):
        bm.prune(model, data, sparsity, train=NO_TRAINING, verbose=0, **settings)


@pytest.mark.parametrize(
    ("sparsity", "settings", "expected"),
    [
        (0.5, {}, [4, 3, 2]),
        ({"b": 0.5}, {}, [8, 3, 2]),
        (lambda group: 0.25 if group.name == "a" else 0.0, {}, [6, 6, 2]),
        (0.6, {"round_to": 4}, [4, 4, 2]),
        (0.9, {"floor": 0.5}, [4, 3, 2]),
        (0.5, {"where": lambda layer: layer.name == "b"}, [8, 3, 2]),
    ],
    ids=["share", "dict", "function", "tile", "floor", "where"],
)
def test_settings_are_those_of_a_config(model, data, sparsity, settings, expected):
    before = model.get_weights()
    smaller = bm.prune(model, data, sparsity, granularity="channel", train=NO_TRAINING, verbose=0, **settings)
    config = PruneConfig(sparsity=sparsity, granularity="channel", **settings)
    again = bm.prune(model, data, config, train=NO_TRAINING, verbose=0)
    assert units(smaller) == units(again) == expected and units(model) == [8, 6, 2]
    for ours, theirs in zip(smaller.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


@pytest.mark.parametrize("ranking", ["layer", "global"])
def test_a_budget_of_parameters_is_kept(model, data, ranking):
    settings = {"granularity": "channel", "budget": {"parameters": 0.5}, "ranking": ranking}
    smaller = bm.prune(model, data, train=NO_TRAINING, verbose=0, **settings)
    assert smaller.count_params() <= 0.5 * model.count_params()
