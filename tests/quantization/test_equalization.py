"""Absorbed normalisations and equalized channels: the same function, other weights."""

import keras
import numpy as np
import pytest

from bigmodel.quantization.absorption import absorbed
from bigmodel.quantization.equalization import equalized, factors, find_pairs

layers = keras.layers


def randomized(model, seed=0):
    """Random weights, biases and statistics; channels of very different range."""
    generator = np.random.default_rng(seed)
    for variable in model.weights:
        values = generator.normal(size=variable.shape) * np.exp(generator.normal(size=variable.shape[-1:]))
        variable.assign(np.abs(values) + 0.1 if variable.path.endswith(("variance", "gamma")) else values)
    return model


def convolutional():
    x = inputs = keras.Input((8, 8, 2))
    x = layers.Conv2D(6, 3, padding="same", use_bias=False, name="first")(x)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2, name="depthwise")(x)
    x = layers.BatchNormalization(scale=False, center=False)(x)
    x = layers.MaxPooling2D()(layers.LeakyReLU()(x))
    x = layers.Conv2D(5, 1, activation="relu", name="pointwise")(x)
    x = layers.Flatten()(layers.Dropout(0.5)(x))
    x = layers.Dense(4, activation="tanh", name="hidden")(x)
    return randomized(keras.Model(inputs, layers.Dense(3, name="head")(x)))


def sequence():
    x = inputs = keras.Input((10, 3))
    x = layers.Conv1D(6, 3, padding="causal", name="first")(x)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.GlobalAveragePooling1D()(layers.Dense(5, activation="relu", name="second")(x))
    return randomized(keras.Model(inputs, layers.Dense(2, name="head")(x)))


def nested():
    inner = keras.Sequential([keras.Input((6,)), layers.Dense(7, name="a"), layers.ReLU(), layers.Dense(5, name="b")])
    x = inputs = keras.Input((6,))
    return randomized(keras.Model(inputs, layers.Dense(2, name="c")(inner(x))))


NETWORKS = {"convolutional": convolutional, "sequence": sequence, "nested": nested}


def names(model):
    return [(pair.first.name, pair.second.name, pair.repeats) for pair in find_pairs(model)]


@pytest.mark.parametrize("name", NETWORKS)
def test_an_equalized_network_computes_what_it_did_before(name):
    model = NETWORKS[name]()
    before = [weight.copy() for weight in model.get_weights()]
    x = np.random.default_rng(1).normal(size=(8, *model.input_shape[1:])).astype("float32")
    bare = absorbed(model)
    even = equalized(bare)
    assert not any(isinstance(layer, layers.BatchNormalization) for layer in even.layers)
    expected = np.asarray(model(x))
    for other in (bare, even):
        np.testing.assert_allclose(np.asarray(other(x)), expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    assert find_pairs(even) and len(even.weights) == len(bare.weights)
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_pairs_are_found_through_what_a_factor_passes():
    assert names(absorbed(convolutional())) == [
        ("first", "depthwise", 1), ("depthwise", "pointwise", 1), ("pointwise", "hidden", 16),
    ]  # fmt: skip
    assert names(absorbed(sequence())) == [("first", "second", 1), ("second", "head", 1)]
    assert names(convolutional())[0] == ("pointwise", "hidden", 16), "a normalisation in between minds a factor"
    assert names(nested()) == [("a", "b", 1), ("b", "c", 1)]


def test_channels_that_others_read_or_that_meet_a_bound_stay():
    x = inputs = keras.Input((4, 4, 3))
    x = layers.ReLU(max_value=6.0)(layers.Conv2D(4, 1, name="bounded")(x))
    y = layers.Conv2D(4, 1, activation="relu", name="read_twice")(x)
    z = layers.Add()([layers.Conv2D(4, 1, name="added")(y), y])
    shared = layers.Conv2D(4, 1, activation="relu", name="shared")
    z = layers.Conv2D(4, 1, groups=2, name="grouped")(shared(shared(z)))
    assert names(keras.Model(inputs, z)) == []


def test_both_sides_of_a_pair_have_one_range_afterwards():
    even = equalized(absorbed(sequence()))
    for pair in find_pairs(even):
        given = np.abs(pair.first.kernel.numpy()).reshape(-1, pair.first.kernel.shape[-1]).max(axis=0)
        read = np.abs(np.moveaxis(pair.second.kernel.numpy(), -2, 0)).reshape(len(given), -1).max(axis=1)
        np.testing.assert_allclose(given, read, rtol=0.01)


def test_the_factor_is_the_root_of_the_ratio_and_one_for_a_dead_channel():
    np.testing.assert_allclose(factors(np.array([9.0, 0.0, 1.0]), np.array([1.0, 2.0, 0.0])), [3.0, 1.0, 1.0])


def test_zeros_stay_zero():
    model = convolutional()
    kernel = model.get_layer("pointwise").kernel
    mask = np.random.default_rng(2).random(kernel.shape) < 0.5
    kernel.assign(np.where(mask, 0.0, kernel))
    even = equalized(absorbed(model))
    np.testing.assert_array_equal(even.get_layer("pointwise").kernel.numpy() == 0, mask)


def test_only_a_normalisation_of_the_channels_of_one_linear_layer_is_absorbed():
    x = inputs = keras.Input((6, 4))
    over_time = layers.BatchNormalization(axis=1, name="over_time")(layers.Dense(4)(x))
    after_relu = layers.BatchNormalization(name="after_relu")(layers.Dense(4, activation="relu")(over_time))
    linear = layers.Dense(4)(after_relu)
    read_twice = layers.Add()([layers.BatchNormalization(name="read_twice")(linear), linear])
    left = absorbed(randomized(keras.Model(inputs, read_twice)))
    assert {"over_time", "after_relu", "read_twice"} <= {layer.name for layer in left.layers}
