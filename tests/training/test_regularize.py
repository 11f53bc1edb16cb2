"""Regularisation put into a model: where it goes, what stays the same, and the formulas of the losses."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from bigmodel.errors import ArgumentError
from bigmodel.training import regularize
from bigmodel.training.regularization import SparseCategoricalSmoothedCrossentropy

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(16, 8, 8, 3)).astype("float32")


def convolutional(**dropout: float) -> keras.Model:
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, activation="relu", name="a")(inputs)
    x = keras.layers.Conv2D(4, 3, padding="same", use_bias=False, name="b")(x)
    x = keras.layers.BatchNormalization(name="b_own", momentum=0.99)(x)
    x = keras.layers.ReLU(name="b_relu")(x)
    x = keras.layers.Flatten(name="flat")(x)
    x = keras.layers.Dense(6, activation="tanh", name="c")(x)
    if dropout:
        x = keras.layers.Dropout(dropout["rate"], name="drop")(x)
    x = keras.layers.Dense(5, name="d")(x)
    model = keras.Model(inputs, keras.layers.Softmax(name="out")(x))
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy", metrics=["accuracy"])
    for weight in model.weights:
        weight.assign(RNG.uniform(0.1, 0.5, weight.shape))
    return model


def names(model: keras.Model) -> list[str]:
    return [layer.name for layer in model.layers[1:]]


def test_dropout_goes_behind_hidden_layers_and_their_activations():
    model = convolutional()
    new = regularize(model, dropout=0.3)
    assert names(new) == [
        *("a", "a_dropout", "b", "b_own", "b_relu", "b_dropout", "flat"),
        *("c", "c_dropout", "d", "out"),
    ]
    assert isinstance(new.get_layer("a_dropout"), keras.layers.SpatialDropout2D)
    assert [type(new.get_layer("c_dropout")), new.get_layer("c_dropout").rate] == [keras.layers.Dropout, 0.3]
    np.testing.assert_array_equal(new(IMAGES), model(IMAGES))
    assert names(model) == names(convolutional())


def test_dropout_that_is_there_is_changed_in_place():
    model = convolutional(rate=0.5)
    new = regularize(model, dropout=0.1)
    assert names(new) == names(model)
    assert (new.get_layer("drop").rate, model.get_layer("drop").rate) == (0.1, 0.5)
    assert regularize(model, dropout=0).get_layer("drop").rate == 0


def test_batch_normalisation_goes_before_the_activation_and_changes_nothing_at_first():
    model = convolutional()
    new = regularize(model, batch_normalization=0.9)
    assert names(new)[:4] == ["a", "a_norm", "a_activation", "b"] and "b_norm" not in names(new)
    assert [new.get_layer(name).momentum for name in ("a_norm", "b_own", "c_norm")] == [0.9, 0.9, 0.9]
    np.testing.assert_allclose(new(IMAGES), model(IMAGES), rtol=1e-4, atol=1e-6)
    both = regularize(model, batch_normalization=0.9, dropout=0.2)
    assert names(both)[:4] == ["a", "a_norm", "a_activation", "a_dropout"]


def test_l2_adds_the_squared_kernels_to_the_loss():
    model = convolutional()
    new = regularize(model, l2=0.01)
    kernels = [np.asarray(model.get_layer(name).kernel) for name in "abcd"]
    assert float(sum(new.losses)) == pytest.approx(0.01 * sum((kernel**2).sum() for kernel in kernels), rel=1e-5)
    assert regularize(new, l2=0).losses == [] and model.losses == []


def test_weight_decay_shrinks_kernels_and_spares_biases():
    layers = [keras.Input((3,)), keras.layers.Dense(2)]
    model = keras.Sequential(layers)
    model.compile(keras.optimizers.SGD(0.1), "mse")
    model.set_weights([np.ones((3, 2)), np.ones(2)])
    new = regularize(model, weight_decay=0.5)
    new.fit(np.zeros((4, 3)), np.ones((4, 2)), batch_size=4, verbose=0)  # no error, so no gradient
    kernel, bias = new.get_weights()
    np.testing.assert_allclose(kernel, 1 - 0.1 * 0.5)
    np.testing.assert_allclose(bias, 1)
    assert model.optimizer.weight_decay is None and regularize(new, weight_decay=0).optimizer.weight_decay == 0


@pytest.mark.parametrize("from_logits", [False, True])
def test_smoothing_of_classes_by_number_is_that_of_one_hot_labels(from_logits, tmp_path):
    outputs = RNG.normal(size=(20, 4)).astype("float32")
    if not from_logits:
        outputs = np.exp(outputs) / np.exp(outputs).sum(1, keepdims=True)
    labels = RNG.integers(0, 4, 20)
    loss = SparseCategoricalSmoothedCrossentropy(0.2, from_logits=from_logits)
    shares = 0.8 * np.eye(4)[labels] + 0.05
    logs = outputs - np.log(np.exp(outputs).sum(1, keepdims=True)) if from_logits else np.log(outputs)
    for y in (labels, labels[:, None]):
        assert float(loss(y, outputs)) == pytest.approx(-(shares * logs).sum(1).mean(), rel=1e-5)
    again = keras.losses.deserialize(keras.losses.serialize(loss))
    assert float(again(labels, outputs)) == pytest.approx(float(loss(labels, outputs)))


def test_label_smoothing_changes_the_loss_alone():
    model = convolutional()
    y = RNG.integers(0, 5, 16)
    new = regularize(model, label_smoothing=0.1)
    shares = 0.9 * np.eye(5)[y] + 0.02
    expected = -(shares * np.log(np.asarray(model(IMAGES)))).sum(1).mean()
    measured = new.evaluate(IMAGES, y, verbose=0, return_dict=True)
    assert measured["loss"] == pytest.approx(expected, rel=1e-4)
    assert measured["accuracy"] == model.evaluate(IMAGES, y, verbose=0, return_dict=True)["accuracy"]
    plain = regularize(new, label_smoothing=0)
    assert type(plain.loss) is keras.losses.SparseCategoricalCrossentropy
    model.compile("adam", keras.losses.CategoricalCrossentropy(from_logits=True))
    smoothed = regularize(model, label_smoothing=0.3).loss
    assert (smoothed.label_smoothing, smoothed.from_logits) == (0.3, True)


def test_what_can_not_be_changed_is_refused():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    with pytest.raises(ArgumentError, match="belong to the optimizer and the loss"):
        regularize(model, weight_decay=0.1)
    model.compile("sgd", "mse")
    with pytest.raises(ArgumentError, match="loss over classes"):
        regularize(model, label_smoothing=0.1)
    for wrong in ({"dropout": 1.0}, {"l2": -1}, {"label_smoothing": "0.1"}, {"batch_normalization": True}):
        with pytest.raises(ArgumentError, match=next(iter(wrong))):
            regularize(model, **wrong)
