"""Least squares and statistics give back what a removal took, without training."""

import keras
import numpy as np
import pytest
from keras import layers
from networks import sequential_cnn
from reference import flat_outputs, randomise

from bigmodel.config import PruneConfig, TrainConfig
from bigmodel.data import as_data, load_digits
from bigmodel.errors import ModelError
from bigmodel.export import export_floats
from bigmodel.pruning.channels import (
    CostModel,
    choose_channels,
    find_channels,
    prune_channels,
    remove_channels,
    renew_statistics,
    repair_channels,
    score_channels,
)


@pytest.fixture(scope="module")
def digits():
    (x_train, y_train), (x_test, y_test) = load_digits()
    return x_train, y_train, x_test, y_test


@pytest.fixture(scope="module")
def trained(digits):
    """A small residual network on the embedded digits, at about 97 %."""
    x_train, y_train, *_ = digits
    keras.utils.set_random_seed(0)
    x = keras.Input(x_train.shape[1:])
    y = x if len(x.shape) == 4 else layers.Reshape((*x.shape[1:], 1))(x)
    y = layers.Conv2D(24, 3, padding="same", activation="relu", name="stem")(y)
    z = layers.Conv2D(24, 3, padding="same", use_bias=False, name="inner")(y)
    z = layers.ReLU()(layers.BatchNormalization(name="norm")(z))
    y = layers.Add()([y, layers.Conv2D(24, 3, padding="same", name="outer")(z)])
    y = layers.Conv2D(32, 3, strides=2, activation="relu", name="down")(y)
    y = layers.Dense(32, activation="relu", name="dense")(layers.Flatten()(y))
    model = keras.Model(x, layers.Dense(10, activation="softmax", name="head")(y))
    model.compile(keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(x_train, y_train, epochs=6, batch_size=64, verbose=0)
    return model


def accuracy(model, digits):
    *_, x, y = digits
    return float((np.argmax(model.predict(x, verbose=0), axis=1) == y).mean())


def test_a_removal_that_loses_nothing_is_found_by_least_squares():
    """Half of the channels are copies of the others: their readers can be refitted exactly."""
    model = randomise(sequential_cnn())
    hidden = next(layer for layer in model.layers if layer.name.startswith("dense"))
    kernel, bias = hidden.get_weights()
    hidden.set_weights([np.tile(kernel[:, :5], 2), np.tile(bias[:5], 2)])
    channels = find_channels(model)
    keep = {hidden.name: np.arange(10) < 5}
    x = np.random.default_rng(0).normal(size=(256, 8, 8, 2)).astype("float32")
    data = as_data((x, np.zeros((256, 4), "float32")), model=model).train
    smaller = remove_channels(model, keep, channels=channels)
    removed = np.abs(flat_outputs(smaller, x)[0] - flat_outputs(model, x)[0]).mean()
    for layer in smaller.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.trainable = False  # its statistics are random, not those of the data
    assert len(repair_channels(model, smaller, channels, keep, data)) == 1
    repaired = np.abs(flat_outputs(smaller, x)[0] - flat_outputs(model, x)[0]).mean()
    assert removed > 0.1 and repaired < 0.01 * removed


def test_repair_recovers_half_of_the_lost_accuracy(trained, digits):
    channels = find_channels(trained)
    data = as_data(digits[:2], model=trained).train
    keep = choose_channels(channels, score_channels(trained, channels, "random", seed=1), 0.3)
    smaller = remove_channels(trained, keep, channels=channels)
    whole, removed = accuracy(trained, digits), accuracy(smaller, digits)
    before = trained.get_weights()
    names = repair_channels(trained, smaller, channels, keep, data)
    assert names == ("inner", "outer", "down", "dense", "head")
    assert all(np.array_equal(a, b) for a, b in zip(before, trained.get_weights(), strict=True))
    assert removed < whole - 0.05, "nothing to recover"
    assert accuracy(smaller, digits) >= removed + 0.5 * (whole - removed)


def test_statistics_are_the_mean_over_batches():
    x = keras.Input((5,))
    y = layers.Dropout(0.5)(layers.BatchNormalization(name="norm")(layers.Dense(4, name="dense")(x)))
    model = randomise(keras.Model(x, y))
    rng = np.random.default_rng(0)
    batches = [rng.normal(size=(32, 5)).astype("float32") for _ in range(3)]
    renew_statistics(model, batches)
    hidden = [
        batch @ model.get_layer("dense").kernel.numpy() + model.get_layer("dense").bias.numpy() for batch in batches
    ]
    norm = model.get_layer("norm")
    np.testing.assert_allclose(norm.moving_mean, np.mean([h.mean(0) for h in hidden], 0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(norm.moving_variance, np.mean([h.var(0) for h in hidden], 0), rtol=1e-4)
    assert norm.momentum == 0.99 and model.layers[-1].rate == 0.5


def order(**settings) -> PruneConfig:
    return PruneConfig(granularity="channel", **settings)


def test_the_step_gives_a_smaller_model_that_is_nearly_as_good(trained, digits):
    data = (digits[0], digits[1])
    before = trained.get_weights()
    smaller = prune_channels(trained, data, order(sparsity=0.5, round_to=4), train=TrainConfig(epochs=3, batch_size=64))
    assert all(np.array_equal(a, b) for a, b in zip(before, trained.get_weights(), strict=True))
    widths = {name: smaller.get_layer(name).kernel.shape[-1] for name in ("stem", "inner", "outer", "down", "dense")}
    assert widths == {"stem": 12, "inner": 12, "outer": 12, "down": 16, "dense": 16}
    assert smaller.compiled and smaller.count_params() < 0.35 * trained.count_params()
    assert accuracy(smaller, digits) > accuracy(trained, digits) - 0.03


@pytest.mark.slow
def test_the_step_removes_until_a_cost_is_met(trained, digits):
    data = (digits[0][:300], digits[1][:300])
    config = order(ranking="global", budget={"macs": 0.4})
    smaller = prune_channels(trained, data, config, train=TrainConfig(epochs=0))
    share = CostModel(smaller).after({}).macs / CostModel(trained).after({}).macs
    assert 0.36 < share <= 0.4


def test_the_same_seed_gives_the_same_model(trained, digits):
    data = (digits[0][:200], digits[1][:200])
    random = order(sparsity=0.5, criterion="random")
    one, two = (prune_channels(trained, data, random, train=TrainConfig(epochs=1), seed=3) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(one.get_weights(), two.get_weights(), strict=True))


def test_a_model_without_hidden_channels_is_refused():
    x = keras.Input((4,))
    model = keras.Model(x, layers.Dense(2, name="only")(x))
    with pytest.raises(ModelError, match="No channels can be removed"):
        prune_channels(model, (np.ones((20, 4)), np.ones((20, 2))), PruneConfig(0.5), train=TrainConfig(epochs=1))


def test_the_step_removes_until_the_file_is_small_enough(trained, digits, tmp_path):
    data = (digits[0][:300], digits[1][:300])
    smaller = prune_channels(trained, data, order(budget={"size": 0.5}), train=TrainConfig(epochs=0))
    whole, less = export_floats([(trained, tmp_path / "whole.tflite"), (smaller, tmp_path / "less.tflite")])
    assert 0.4 < less.stat().st_size / whole.stat().st_size <= 0.52  # a file pads its buffers


@pytest.mark.slow
def test_rounds_stop_before_the_threshold_is_broken(trained, digits):
    data = (digits[0], digits[1])
    train = TrainConfig(epochs=4, batch_size=64)
    gentle = prune_channels(trained, data, order(sparsity=0.6, max_drop=0.05), train=train)
    assert accuracy(gentle, digits) > accuracy(trained, digits) - 0.1
    assert gentle.count_params() < trained.count_params()
    with pytest.raises(ModelError, match="within the threshold"):
        prune_channels(trained, data, order(sparsity=0.99, max_drop=0.0), train=TrainConfig(epochs=0))


@pytest.mark.slow
def test_rounds_leave_what_one_round_would(trained, digits):
    data = (digits[0][:300], digits[1][:300])
    smaller = prune_channels(trained, data, order(sparsity=0.6, max_drop=1.0), train=TrainConfig(epochs=0))
    assert smaller.get_layer("dense").units == pytest.approx(0.4 * trained.get_layer("dense").units, abs=2)
