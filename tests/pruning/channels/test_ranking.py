"""Scores against their formulas, and the choice that follows from them."""

import keras
import numpy as np
import pytest
from keras import layers
from networks import NETWORKS, grouped_cnn, mlp, sequence, sequential_cnn, squeeze_excite
from reference import random_keep, randomise, samples

from bigmodel.data import as_data
from bigmodel.errors import ArgumentError
from bigmodel.pruning.channels import (
    CostModel,
    choose_channels,
    find_channels,
    remove_channels,
    score_channels,
    sum_by_channel,
)


def two_layers(loss="mse"):
    x = keras.Input((4,))
    y = layers.Dense(6, activation="tanh", name="a")(x)
    model = randomise(keras.Model(x, layers.Dense(3, name="b")(y)))
    model.compile("sgd", loss)
    return model


def test_norms_are_those_of_the_kernel_columns_over_their_mean():
    model = two_layers()
    kernel = model.get_layer("a").kernel.numpy()
    for criterion, expected in (("l1", np.abs(kernel).sum(0)), ("l2", np.sqrt((kernel**2).sum(0)))):
        scores = score_channels(model, find_channels(model), criterion)["a"]
        np.testing.assert_allclose(scores, expected / expected.mean(), rtol=1e-5)


def test_layers_that_share_channels_add_their_norms():
    model = randomise(squeeze_excite())
    kernels = [model.get_layer(name).kernel.numpy() for name in ("conv", "excite", "project")]
    expected = sum(np.abs(kernel).sum((0, 1, 2)) for kernel in kernels)
    scores = score_channels(model, find_channels(model), "l1")["conv+excite+project"]
    np.testing.assert_allclose(scores, expected / expected.mean(), rtol=1e-5)


def test_batchnorm_scores_are_scales_and_norms_where_there_is_none():
    model = randomise(sequential_cnn())
    channels = find_channels(model)
    scores = score_channels(model, channels, "batchnorm")
    gamma = np.abs(next(layer for layer in model.layers if "batch" in layer.name).gamma.numpy())
    first, *others = (group.name for group in channels.groups)
    np.testing.assert_allclose(scores[first], gamma / gamma.mean(), rtol=1e-5)
    norms = score_channels(model, channels, "l2")
    assert all(np.array_equal(scores[name], norms[name]) for name in others)


def test_taylor_scores_are_the_squared_first_order_change_of_the_loss():
    model = two_layers()
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(24, 4)).astype("float32"), rng.normal(size=(24, 3)).astype("float32")
    data = as_data((x, y), model=model).train
    before = model.get_weights()
    scores = score_channels(model, find_channels(model), "taylor", data=data, batch_size=data.size)["a"]
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))
    x, y, _ = data.arrays()
    kernel, bias, head, head_bias = before
    hidden = np.tanh(x @ kernel + bias)
    gradient = hidden.T @ (2 * (hidden @ head + head_bias - y) / y.size)  # of the mean squared error
    np.testing.assert_allclose(scores, (gradient * head).sum(1) ** 2, rtol=1e-3, atol=1e-8)


def test_taylor_finds_the_channel_that_nobody_needs():
    model = two_layers()
    kernel, bias, head, head_bias = model.get_weights()
    head[4] = 0.0
    model.set_weights([kernel, bias, head, head_bias])
    x = samples(model, 32)
    data = as_data((x, np.ones((32, 3), "float32")), model=model).train
    assert np.argmin(score_channels(model, find_channels(model), "taylor", data=data)["a"]) == 4


def test_taylor_drops_the_same_units_with_the_same_seed():
    inputs = keras.Input((4,))
    dropped = keras.layers.Dropout(0.5)(keras.layers.Dense(8, activation="relu", name="a")(inputs))
    model = keras.Model(inputs, keras.layers.Dense(1)(dropped))
    model.compile("sgd", "mse")
    x = samples(model, 32)
    data = as_data((x, np.ones((32, 1), "float32")), model=model).train
    one, same, other = (
        score_channels(model, find_channels(model), "taylor", data=data, seed=seed)["a"] for seed in (0, 0, 1)
    )
    assert np.array_equal(one, same) and not np.array_equal(one, other)


def test_taylor_without_labels_says_what_it_needs():
    model = two_layers()
    with pytest.raises(ArgumentError, match="gradient of the loss"):
        score_channels(model, find_channels(model), "taylor")


def test_a_criterion_of_ones_own_takes_ten_lines():
    def last_reader(group):
        reader = [member for member in group.members if member.role == "reads"][-1]
        return sum_by_channel(np.abs(reader.variable.numpy()), reader, group.size)

    model = two_layers()
    scores = score_channels(model, find_channels(model), last_reader)["a"]
    np.testing.assert_allclose(scores, np.abs(model.get_layer("b").kernel.numpy()).sum(1), rtol=1e-5)
    with pytest.raises(ArgumentError, match="don't fit the group 'a'"):
        score_channels(model, find_channels(model), lambda group: [1.0])


def test_random_scores_follow_the_seed():
    model = two_layers()
    channels = find_channels(model)
    one, same, other = (score_channels(model, channels, "random", seed=seed)["a"] for seed in (1, 1, 2))
    assert np.array_equal(one, same) and not np.array_equal(one, other)


def test_shares_by_number_name_and_function():
    channels = find_channels(mlp())
    scores = {"a": np.arange(16.0), "b": -np.arange(12.0)}
    keep = choose_channels(channels, scores, 0.25)
    assert np.flatnonzero(keep["a"]).tolist() == list(range(4, 16))
    assert np.flatnonzero(keep["b"]).tolist() == list(range(9))
    assert set(choose_channels(channels, scores, {"b": 0.5})) == {"b"}
    assert choose_channels(channels, scores, lambda group: 1 / group.size)["a"].sum() == 15


def test_floor_and_multiples_hold():
    channels = find_channels(mlp())
    scores = {group.name: np.arange(float(group.size)) for group in channels.groups}
    assert {k: int(v.sum()) for k, v in choose_channels(channels, scores, 0.99).items()} == {"a": 1, "b": 1}
    assert {k: int(v.sum()) for k, v in choose_channels(channels, scores, 0.99, floor=0.25).items()} == {"a": 4, "b": 3}
    assert {k: int(v.sum()) for k, v in choose_channels(channels, scores, 0.7, round_to=8).items()} == {"a": 8, "b": 8}


def test_a_global_ranking_takes_the_lowest_of_all_down_to_the_floor():
    channels = find_channels(mlp())
    scores = {"a": np.arange(16.0), "b": 100 + np.arange(12.0)}
    keep = choose_channels(channels, scores, 0.5, ranking="global", floor=0.25)
    assert int(keep["a"].sum()) == 4 and int(keep["b"].sum()) == 10  # 14 of 28 go: 12 of a, and then the lowest of b
    with pytest.raises(ArgumentError, match="one share"):
        choose_channels(channels, scores, {"a": 0.5}, ranking="global")


@pytest.mark.parametrize("sparsity", [1.0, -0.1, {"head": 0.5}, {"a": 2.0}])
def test_shares_that_make_no_sense_are_refused(sparsity):
    channels = find_channels(mlp())
    scores = {group.name: np.zeros(group.size) for group in channels.groups}
    with pytest.raises(ArgumentError):
        choose_channels(channels, scores, sparsity)


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.__name__)
def test_the_predicted_cost_is_that_of_the_smaller_model(network):
    model = network()
    channels = find_channels(model)
    keep = random_keep(channels, 0.4)
    smaller = remove_channels(model, keep, channels=channels)
    predicted = CostModel(model, channels).after(keep)
    assert predicted == CostModel(smaller).after({})
    assert predicted.parameters == smaller.count_params()


def test_macs_of_known_layers():
    x = keras.Input((8, 8, 3))
    y = layers.Conv2D(5, 3, padding="same")(x)  # 64 positions of 3 * 3 * 3 * 5
    y = layers.DepthwiseConv2D(3, strides=2, padding="same", depth_multiplier=2)(y)  # 16 positions of 3 * 3 * 10
    y = layers.Conv2DTranspose(4, 2, strides=2)(y)  # 16 positions of 2 * 2 * 10 * 4
    y = layers.Reshape((64, 4))(y)
    y = layers.MultiHeadAttention(2, 3)(y, y)  # 64 steps through 4 * 6 kernels, four times; 64 * 64 scores, twice
    y = layers.GRU(6)(y)  # 64 steps of (4 + 6) * 18
    model = keras.Model(x, layers.Dense(7)(y))
    expected = 64 * 135 + 16 * 90 + 16 * 160 + 4 * 64 * 24 + 2 * 64 * 64 * 6 + 64 * 180 + 42
    assert CostModel(model).after({}).macs == expected


def test_a_channel_counts_as_many_units_as_go_with_it():
    widths = {group.name: group.width for group in find_channels(grouped_cnn()).groups}
    assert widths == {"in": 2, "few_groups+many_groups+depthwise": 4}
    assert {group.name: group.width for group in find_channels(sequence()).groups}["last"] == 1  # not its four gates
