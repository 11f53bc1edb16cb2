"""Dropout falls with the share of connections that stay."""

from __future__ import annotations

import math

import keras
import numpy as np
import pytest

import bigmodel as bm
from bigmodel.config import PruneConfig, TrainConfig
from bigmodel.pruning import prune_weights
from bigmodel.pruning.regularization import scale_dropout


def network(rate: float = 0.5) -> keras.Model:
    inner = keras.Sequential([keras.Input((8,)), keras.layers.Dense(8), keras.layers.Dropout(rate, name="inside")])
    layers = [keras.Input((8,)), inner, keras.layers.GaussianDropout(0.2, name="outside"), keras.layers.Dense(2)]
    model = keras.Sequential(layers)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    return model


@pytest.mark.parametrize("density", [0.05, 0.2, 0.75])
def test_rates_fall_by_the_root_of_the_density_in_nested_models_too(density):
    model = network()
    rates = scale_dropout(model, density)
    assert rates == pytest.approx({"inside": 0.5 * math.sqrt(density), "outside": 0.2 * math.sqrt(density)})
    assert model.layers[0].get_layer("inside").rate == rates["inside"]


def test_a_dense_model_and_a_rate_of_zero_are_left_alone():
    assert scale_dropout(network(), 1.0) == {}
    assert list(scale_dropout(network(0.0), 0.5)) == ["outside"]


def test_a_pruned_model_has_less_dropout_and_the_callers_keeps_its_own():
    model = network()
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(64, 8)).astype("float32"), np.arange(64) % 2
    data = bm.as_data((x, y), model=model, test_fraction=0)
    pruned = prune_weights(model, data, PruneConfig(sparsity=0.75), train=TrainConfig(epochs=1))
    assert pruned.layers[0].get_layer("inside").rate == pytest.approx(0.25)
    assert model.layers[0].get_layer("inside").rate == 0.5
