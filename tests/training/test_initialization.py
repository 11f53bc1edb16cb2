"""Weights that start anew: their distribution against its formula, and what stays."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from bigmodel.errors import ArgumentError
from bigmodel.training import initialize
from bigmodel.training.initialization import INITIALIZATIONS


@pytest.fixture(scope="module")
def model() -> keras.Model:
    norm = keras.layers.Normalization(mean=2.0, variance=4.0)
    layers = [
        keras.Input((10, 10, 3)),
        norm,
        keras.layers.Conv2D(40, 5, name="conv"),
        keras.layers.BatchNormalization(),
        keras.layers.Flatten(),
        keras.layers.Dense(50, name="dense"),
    ]
    model = keras.Sequential(layers)
    model.compile(keras.optimizers.SGD(0.3), "mse")
    for weight in model.weights:
        weight.assign(np.random.default_rng(1).uniform(0.5, 1.0, weight.shape))
    return model


def deviation(method: str, fan_in: int, fan_out: int) -> float:
    return {
        "uniform": 0.05 / 3**0.5,
        "normal": 0.05,
        "he": (2 / fan_in) ** 0.5,
        "glorot": (2 / (fan_in + fan_out)) ** 0.5,
        "lecun": (1 / fan_in) ** 0.5,
    }[method.split("_")[0]]


@pytest.mark.parametrize("method", INITIALIZATIONS)
def test_kernels_have_the_distribution_of_the_method(model, method):
    before = model.get_weights()
    new = initialize(model, method, scale=2.0, seed=3)
    kernels = {"conv": (5 * 5 * 3, 5 * 5 * 40), "dense": (1440, 50)}
    for name, fans in kernels.items():
        layer = new.get_layer(name)
        kernel = np.asarray(layer.kernel)
        if method in ("zeros", "ones"):
            assert (kernel == 2.0 * (method == "ones")).all()
        elif method == "orthogonal":
            flat = kernel.reshape(-1, kernel.shape[-1])
            np.testing.assert_allclose(flat.T @ flat, 4 * np.eye(flat.shape[1]), atol=1e-4)
        else:
            assert kernel.std() == pytest.approx(2 * deviation(method, *fans), rel=0.05)
            assert abs(kernel.mean()) < 0.1 * kernel.std()
        assert (np.asarray(layer.bias) == 0).all()
    norm = new.layers[2]
    assert (np.asarray(norm.gamma) == 1).all() and (np.asarray(norm.moving_mean) == 0).all()
    assert new.optimizer.learning_rate == 0.3 and new.optimizer is not model.optimizer
    for old, now in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, now)


def test_the_same_seed_gives_the_same_weights_and_layers_differ(model):
    first, second, other = (initialize(model, "he_normal", seed=seed).get_weights() for seed in (0, 0, 1))
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(first[0], other[0])
    assert not np.array_equal(first[0].ravel()[:50], first[6].ravel()[:50])


def test_layers_can_be_kept_and_statistics_of_the_data_always_are(model):
    new = initialize(model, "normal", where=lambda layer: layer.name == "dense")
    np.testing.assert_array_equal(new.get_layer("conv").kernel, model.get_layer("conv").kernel)
    assert not np.array_equal(new.get_layer("dense").kernel, model.get_layer("dense").kernel)
    adapted = keras.Sequential([keras.Input((3,)), keras.layers.Normalization()])
    adapted.layers[0].adapt(np.random.default_rng(0).normal(5, 2, (100, 3)))
    x = np.ones((1, 3), "float32")
    np.testing.assert_allclose(initialize(adapted)(x), adapted(x))


def test_a_model_of_classes_of_its_own_and_recurrent_kernels_are_drawn_too():
    class Own(keras.layers.Layer):
        def build(self, shape):
            self.w = self.add_weight(shape=(shape[-1], 30), initializer="random_normal", name="w")
            self.gate = self.add_weight(shape=(30,), initializer="ones", name="gate")

        def call(self, x):
            return (x @ self.w) * self.gate

    model = keras.Sequential([keras.Input((6, 20)), keras.layers.LSTM(25), Own()])
    new = initialize(model, "zeros")
    values = {weight.name: np.asarray(weight) for weight in new.weights}
    assert all((values[name] == 0).all() for name in ("kernel", "recurrent_kernel", "w"))
    assert (values["gate"] == 1).all() and values["bias"].sum() == 25  # the forget gate's ones


def test_an_unknown_method_is_refused(model):
    with pytest.raises(ArgumentError, match="not known"):
        initialize(model, "xavier")
