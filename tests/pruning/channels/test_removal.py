"""Removing channels gives the model in which nobody reads them, for every way in which channels travel."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from networks import NETWORKS, grouped_cnn, mlp, op_nodes, sequential_cnn, transfer, unet, vit
from reference import flat_outputs, masked, random_keep, randomise, relative_difference, samples

from bigmodel.errors import ArgumentError
from bigmodel.graph import walk
from bigmodel.pruning.channels import find_channels, remove_channels

PRODUCTS = ("simple", "key+query")  # groups of the networks that are read by products of tensors


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.__name__)
def test_the_smaller_model_equals_the_masked_one(network):
    model = randomise(network())
    channels = find_channels(model)
    keep, x = random_keep(channels), samples(model)
    before = flat_outputs(model, x)
    smaller = remove_channels(model, keep, channels=channels)
    ours = flat_outputs(smaller, x)
    assert all(np.array_equal(a, b) for a, b in zip(flat_outputs(model, x), before, strict=True)), "model was changed"
    reference = flat_outputs(masked(model, channels, keep, PRODUCTS), x)
    assert relative_difference(ours, reference) < 1e-5
    assert relative_difference(before, reference) > 1e-2, "the masks had no effect"
    assert smaller.count_params() < 0.6 * model.count_params()
    assert {layer.name for layer in walk(smaller) if layer.weights} == {x.name for x in walk(model) if x.weights}


@pytest.mark.parametrize("network", [vit, unet, transfer, op_nodes], ids=lambda network: network.__name__)
def test_the_smaller_model_saves_reloads_and_trains(network, tmp_path):
    model = randomise(network())
    smaller = remove_channels(model, random_keep(find_channels(model)))
    smaller.save(tmp_path / "smaller.keras")
    reloaded = keras.models.load_model(tmp_path / "smaller.keras")
    x = samples(smaller)
    y = flat_outputs(smaller, x)
    assert all(np.array_equal(a, b) for a, b in zip(flat_outputs(reloaded, x), y, strict=True))
    reloaded.compile("sgd", "mse")
    weights = [weight.numpy() for weight in reloaded.trainable_weights]
    reloaded.fit(x, y[0] + 1.0, epochs=1, verbose=0)
    assert any(not np.array_equal(a, b) for a, b in zip(weights, reloaded.get_weights(), strict=False))


def test_channels_of_the_smaller_model_are_those_that_stayed():
    model = randomise(mlp())
    keep = np.arange(16) % 3 == 0
    smaller = remove_channels(model, {"a": keep})
    np.testing.assert_array_equal(
        smaller.get_layer("a").get_weights()[0], model.get_layer("a").get_weights()[0][:, keep]
    )
    np.testing.assert_array_equal(smaller.get_layer("b").get_weights()[0], model.get_layer("b").get_weights()[0][keep])
    assert smaller.layers[2].rate == pytest.approx(0.2 * keep.mean())
    assert remove_channels(model, {"a": keep}, dropout="keep").layers[2].rate == pytest.approx(0.2)


def test_what_a_layer_derives_from_its_variables_comes_along():
    """`Normalization` computes with tensors that it made from its variables when it was adapted."""
    rng = np.random.default_rng(0)
    norm = layers.Normalization()
    norm.adapt(rng.normal(3.0, 5.0, size=(200, 4)))
    model = keras.Sequential([keras.Input((4,)), norm, layers.Dense(6, name="dense"), layers.Dense(2)])
    x = rng.normal(3.0, 5.0, size=(8, 4)).astype("float32")
    np.testing.assert_allclose(remove_channels(model, {})(x), model(x), rtol=1e-5, atol=1e-6)


def test_keeping_everything_changes_nothing():
    model = randomise(grouped_cnn())
    same = remove_channels(model, {})
    assert [layer.get_config() for layer in same.layers] == [layer.get_config() for layer in model.layers]
    for ours, theirs in zip(same.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_flattened_channels_own_a_block_of_features():
    channels = find_channels(sequential_cnn())
    (reader,) = [m for m in channels["flattened"].members if m.role == "reads"]
    height_times_width = len(reader.channels) // 6
    np.testing.assert_array_equal(reader.channels, np.tile(np.arange(6), height_times_width))


def test_gates_of_an_lstm_are_blocks_of_one_unit():
    x = keras.Input((3, 2))
    channels = find_channels(keras.Model(x, layers.Dense(1)(layers.LSTM(5, name="lstm")(x))))
    roles = {(m.variable.path.split("/")[-1], m.axis): m for m in channels["lstm"].members}
    np.testing.assert_array_equal(roles["kernel", 1].channels, [0, 1, 2, 3, 4] * 4)
    np.testing.assert_array_equal(roles["recurrent_kernel", 0].channels, range(5))
    assert roles["recurrent_kernel", 0].role == "reads" and roles["recurrent_kernel", 1].role == "makes"


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (layers.LayerNormalization(name="by"), "statistics"),
        (layers.Softmax(name="by"), "runs over the channels"),
        (layers.Lambda(lambda x: x, name="by"), "has no rule"),
        (layers.Rescaling(np.ones(8), name="by"), "constant for each channel"),
        (layers.Activation("softmax", name="by"), "runs over the channels"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_what_mixes_channels_pins_them_and_says_so(layer, reason):
    x = keras.Input((4,))
    y = layer(layers.Dense(8, name="dense")(x))
    channels = find_channels(keras.Model(x, layers.Dense(2, name="head")(y)))
    assert channels.groups == ()
    assert reason in channels.pinned["dense"] and channels.pinned["dense"].startswith("by:")


def test_reductions_of_channels_pin_them_but_a_sum_does_not():
    x = keras.Input((4, 3))
    wide = layers.Dense(8, name="dense")(x)
    assert find_channels(keras.Model(x, ops.mean(wide, axis=-1))).groups == ()
    model = randomise(keras.Model(x, ops.sum(wide, axis=-1)))
    keep = np.arange(8) < 5
    kernel, bias = model.get_weights()
    data = samples(model)
    expected = (data @ kernel[:, keep] + bias[keep]).sum(-1)
    np.testing.assert_allclose(remove_channels(model, {"dense": keep})(data), expected, rtol=1e-4, atol=1e-5)


def test_widths_under_a_normalisation_go_on_request_and_keep_their_own_statistics():
    x = keras.Input((4,))
    y = layers.LayerNormalization(name="norm", epsilon=1e-6)(layers.Dense(8, name="dense")(x))
    model = randomise(keras.Model(x, layers.Dense(2, name="head")(y)))
    channels = find_channels(model, exact=False)
    keep = np.arange(8) % 2 == 0
    smaller = remove_channels(model, {"dense": keep}, channels=channels)
    kernel, bias, gamma, beta, head, head_bias = model.get_weights()
    data = samples(model)
    z = (data @ kernel + bias)[:, keep]
    z = (z - z.mean(-1, keepdims=True)) / np.sqrt(z.var(-1, keepdims=True) + 1e-6) * gamma[keep] + beta[keep]
    np.testing.assert_allclose(smaller(data), z @ head[keep] + head_bias, rtol=1e-4, atol=1e-5)


def test_where_leaves_layers_whole():
    channels = find_channels(mlp(), where=lambda layer: layer.name != "a")
    assert [group.name for group in channels.groups] == ["b"]
    assert channels.pinned["a"] == "left out by `where`"


def test_a_rule_of_ones_own_opens_a_layer():
    class Doubled(layers.Layer):
        def call(self, x):
            return x * 2.0

    x = keras.Input((4,))
    model = keras.Model(x, layers.Dense(2)(Doubled()(layers.Dense(8, name="dense")(x))))
    assert find_channels(model).groups == ()
    channels = find_channels(model, rules={Doubled: lambda site, x, **_: x})
    assert [group.name for group in channels.groups] == ["dense"]
    assert remove_channels(model, {"dense": np.arange(8) < 3}, channels=channels).get_layer("dense").units == 3


@pytest.mark.parametrize("keep", [{"nobody": [True]}, {"a": [True]}, {"a": [False] * 16}])
def test_masks_that_fit_no_group_are_refused(keep):
    with pytest.raises(ArgumentError, match="can't be removed like this"):
        remove_channels(mlp(), keep)
