from __future__ import annotations

import keras
import numpy as np
import pytest

from bigmodel.errors import DataError
from bigmodel.training import ensure_compiled

layers = keras.layers
N = 60
INTS = (np.arange(N) % 3).astype("int32")
ZERO_ONE = (np.arange(N) % 2).astype("int64")
FLOATS = np.linspace(-1, 1, N).astype("float32")
ONE_HOT = np.eye(3, dtype="float32")[INTS]
X = np.random.default_rng(0).normal(size=(N, 4)).astype("float32")

CASES = {
    "softmax, class numbers": (3, "softmax", INTS, "sparse_categorical_crossentropy", "accuracy"),
    "softmax, class numbers in a column": (3, "softmax", INTS[:, None], "sparse_categorical_crossentropy", "accuracy"),
    "softmax, class numbers as floats": (3, "softmax", INTS.astype("float32"), "sparse_categorical", "accuracy"),
    "softmax, one-hot": (3, "softmax", ONE_HOT, "categorical_crossentropy", "accuracy"),
    "logits, class numbers": (3, None, INTS, "sparse_categorical_crossentropy (from logits)", "accuracy"),
    "logits, one-hot": (3, None, ONE_HOT.astype("int32"), "categorical_crossentropy (from logits)", "accuracy"),
    "sigmoid, 0/1": (1, "sigmoid", ZERO_ONE, "binary_crossentropy", "accuracy"),
    "sigmoid, several labels": (3, "sigmoid", ONE_HOT, "binary_crossentropy", "accuracy"),
    "logit, 0/1": (1, None, ZERO_ONE, "binary_crossentropy (from logits)", "accuracy"),
    "linear, floats": (1, None, FLOATS, "mse", "mae"),
    "linear, counts": (1, None, INTS, "mse", "mae"),
    "relu, floats": (1, "relu", FLOATS, "mse", "mae"),
    "linear, vectors": (3, None, np.stack([FLOATS] * 3, 1), "mse", "mae"),
}


@pytest.mark.parametrize("name", CASES)
def test_loss_and_metrics_follow_from_output_and_labels(name):
    units, activation, labels, loss, metric = CASES[name]
    model = keras.Sequential([keras.Input((4,)), layers.Dense(units, activation=activation, name="out")])
    compiled, notes = ensure_compiled(model, (X, labels))
    assert len(notes) == 1 and notes[0].startswith(f"out: {loss}") and f"and {metric}, from" in notes[0]
    assert not model.compiled and compiled.compiled and isinstance(compiled.optimizer, keras.optimizers.Adam)
    measured = compiled.evaluate(X, labels, verbose=0, return_dict=True)
    assert set(measured) == {"loss", metric} and np.isfinite(measured["loss"])


def test_the_loss_of_logits_is_that_of_their_softmax():
    logits = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
    shares = keras.Sequential([keras.Input((4,)), layers.Dense(3), layers.Softmax()])
    shares.set_weights(logits.get_weights())
    losses = [ensure_compiled(m, (X, INTS))[0].evaluate(X, INTS, verbose=0) for m in (logits, shares)]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)


def test_a_logit_counts_as_one_from_zero_on():
    model = keras.Sequential([keras.Input((1,)), layers.Dense(1, kernel_initializer="ones")])
    x = np.where(ZERO_ONE == 1, 0.25, -0.25).astype("float32")[:, None]
    compiled, _ = ensure_compiled(model, (x, ZERO_ONE))
    assert compiled.evaluate(x, ZERO_ONE, verbose=0, return_dict=True)["accuracy"] == 1.0


@pytest.mark.parametrize("form", ["list", "dict"])
def test_several_outputs(form):
    inputs = keras.Input((4,))
    outputs = {"kind": layers.Dense(3, "softmax", name="kind")(inputs), "age": layers.Dense(1, name="age")(inputs)}
    labels = {"kind": INTS, "age": FLOATS}
    if form == "list":
        outputs, labels = list(outputs.values()), tuple(labels.values())
    compiled, notes = ensure_compiled(keras.Model(inputs, outputs), (X, labels))
    assert sorted(note.split(",")[0] for note in notes) == [
        "age: mse and mae",
        "kind: sparse_categorical_crossentropy and accuracy",
    ]
    labels = labels if form == "dict" else list(labels)
    measured = compiled.evaluate(X, labels, verbose=0, return_dict=True)
    assert {"kind_accuracy", "age_mae"} <= set(measured)


def test_a_subclassed_model_is_judged_by_what_it_gives():
    class Classifier(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(3)

        def call(self, x):
            return keras.ops.softmax(self.dense(x))

    model = Classifier()
    model(X[:1])
    assert "softmax and whole-number labels" in ensure_compiled(model, (X, INTS))[1][0]


def test_a_compiled_model_comes_back_as_it_is():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(1)])
    model.compile("sgd", "mae")
    assert ensure_compiled(model, (X, FLOATS)) == (model, ())


@pytest.mark.parametrize("labels", [np.zeros((N, 5), "float32"), np.zeros((N, 2, 2), "float32")])
def test_labels_that_fit_no_loss_are_refused(labels):
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, name="out")])
    with pytest.raises(DataError, match="No loss fits output 'out'"):
        ensure_compiled(model, (X, labels))


def test_data_without_labels_is_refused():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
    with pytest.raises(DataError, match="no labels"):
        ensure_compiled(model, X)


def test_samples_of_another_shape_are_refused_before_the_model_sees_them():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    with pytest.raises(DataError, match="another shape than the model's input"):
        ensure_compiled(model, (np.zeros((8, 3), "float32"), np.zeros(8, int)))
