"""Data without labels: the model's own outputs are the labels, and agreement with them is the metric."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

import bigmodel as bm
from bigmodel.data import as_data
from bigmodel.errors import DataError
from bigmodel.evaluation import evaluate_model, primary_metric
from bigmodel.training import prepare
from bigmodel.training.self_labels import self_labelled

layers = keras.layers
X = np.random.default_rng(0).normal(size=(120, 4)).astype("float32")
LOGITS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
LOGIT = keras.losses.BinaryCrossentropy(from_logits=True)


def network(units: int, activation: str | None = None, loss: object = None) -> keras.Model:
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((4,)), layers.Dense(units, activation, name="out")])
    if loss is not None:
        model.compile(keras.optimizers.SGD(0.25), loss)
    return model


def softmax(z: np.ndarray) -> np.ndarray:
    powers = np.exp(z - z.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


# Units, activation, compiled loss; and what the labels are, from the outputs.
CASES = {
    "softmax": ((3, "softmax", None), lambda out: out),
    "logits": ((3, None, LOGITS), softmax),
    "sigmoid": ((1, "sigmoid", None), lambda out: out > 0.5),
    "logit": ((1, None, LOGIT), lambda out: out > 0),
    "values": ((2, None, "mse"), lambda out: out),
    "linear, not compiled": ((2, None, None), lambda out: out),
}


@pytest.mark.parametrize("name", CASES)
def test_the_labels_are_the_outputs_with_which_the_model_agrees(name):
    arguments, expected = CASES[name]
    model = network(*arguments)
    second, data, notes = self_labelled(model, as_data(X, model=model, labels=False))
    x, y, _ = data.train.arrays()
    np.testing.assert_allclose(y, expected(model.predict(x, verbose=0)), atol=1e-6)
    assert primary_metric(second) == bm.evaluation.Metric("agreement", True)
    assert evaluate_model(second, data.validation).metric == pytest.approx(1, abs=1e-5)
    assert notes[1].startswith("out: agreement is")


@pytest.mark.parametrize("name", ["softmax", "logits", "sigmoid", "logit"])
def test_agreement_is_the_share_of_equal_decisions(name):
    (units, activation, loss), _ = CASES[name]
    model, other = network(units, activation, loss), network(units, activation)
    other.set_weights([np.roll(w, 1, axis=0) + 0.1 for w in model.get_weights()])
    second, data, _ = self_labelled(model, as_data(X, model=model, labels=False))
    x = data.train.arrays()[0]
    border = 0.5 if activation else 0.0
    sides = [m.predict(x, verbose=0) for m in (model, other)]
    sides = [out.argmax(-1) if units > 1 else out[:, 0] > border for out in sides]
    share = float(np.mean(sides[0] == sides[1]))
    evaluation = evaluate_model(other, data.train, like=second)
    assert 0 < share < 1 and evaluation.metric == pytest.approx(share, abs=1e-6)
    assert evaluation.per_class is not None


def test_agreement_of_values_is_the_share_of_their_variance():
    model, other = network(2, None, "mse"), network(2)
    other.set_weights([0.9 * w + 0.1 for w in model.get_weights()])
    second, data, _ = self_labelled(model, as_data(X, model=model, labels=False))
    x = data.train.arrays()[0]
    a, b = (m.predict(x, verbose=0).astype("float64") for m in (model, other))
    expected = 1 - ((a - b) ** 2).sum() / ((a - a.mean(axis=0)) ** 2).sum()
    measured = evaluate_model(other, data.train, like=second)
    assert measured.metric == pytest.approx(expected, abs=1e-4)
    assert measured.metrics["mae"] == pytest.approx(np.abs(a - b).mean(), rel=1e-4)


def test_values_of_any_rank_have_an_agreement():
    inputs = keras.Input((6, 2))
    model = keras.Model(inputs, layers.Conv1D(3, 3, padding="same")(inputs))
    second, data, _ = self_labelled(model, as_data(X[:60].reshape(-1, 2, 2).repeat(3, 1), model=model, labels=False))
    assert evaluate_model(second, data.train).metric == pytest.approx(1, abs=1e-4)
    assert evaluate_model(keras.Sequential([model, layers.Rescaling(0.5)]), data.train, like=second).metric < 0.95


@pytest.mark.parametrize("kind", ["batched", "samples", "function"])
def test_a_stream_is_labelled_as_it_is_read(kind):
    model = network(3, "softmax")
    if kind == "function":
        stream = lambda: iter(np.split(X, 6))  # noqa: E731
    else:
        stream = tf.data.Dataset.from_tensor_slices(X)
        stream = stream.batch(20) if kind == "batched" else stream
    _, data, _ = self_labelled(model, as_data(stream, model=model, labels=False))
    assert not data.train.in_memory and data.train.has_labels
    for split in (data.train, data.validation, data.test):
        for x, y in split.batches(16, shuffle=True).as_numpy_iterator():
            np.testing.assert_allclose(y, model.predict_on_batch(x), atol=1e-6)
    x, y, _ = data.calibration.arrays()
    np.testing.assert_allclose(y, model.predict_on_batch(x), atol=1e-6)


def test_several_inputs_and_outputs_each_have_their_own_target():
    inputs = {"a": keras.Input((4,), name="a"), "b": keras.Input((4,), name="b")}
    joined = layers.Add()(list(inputs.values()))
    outputs = {"kind": layers.Dense(3, "softmax", name="kind")(joined), "size": layers.Dense(1, name="size")(joined)}
    model = keras.Model(inputs, outputs)
    ready = prepare(model, {"a": X, "b": X[::-1].copy()})
    evaluation = evaluate_model(ready.model, ready.data.test)
    assert evaluation.metric == pytest.approx(1, abs=1e-5)  # the mean of both
    assert [note.split(":")[0] for note in ready.notes[1:]] == ["kind", "size"]
    ready.model.fit(ready.data.train.batches(32), shuffle=False, verbose=0)


def test_the_callers_optimizer_stays_and_their_model_too(tmp_path):
    model = network(3, None, LOGITS)
    weights = model.get_weights()
    ready = prepare(model, X, seed=3)
    assert ready.given.train.arrays()[1] is None and ready.data.train.arrays()[1] is not None
    ready.model.fit(ready.data.train.batches(32), epochs=2, shuffle=False, verbose=0)
    assert float(ready.model.optimizer.learning_rate) == 0.25 and model.loss is LOGITS
    assert all(map(np.array_equal, model.get_weights(), weights))
    ready.model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    measured = [m.evaluate(ready.data.test.batches(), verbose=0, return_dict=True) for m in (ready.model, again)]
    assert measured[0] == measured[1] and "agreement" in measured[1]


def test_labels_of_some_sets_only_are_refused():
    labels = np.arange(120) % 3
    for data in (bm.Data(train=X, test=(X, labels)), bm.Data(train=(X, labels), validation=X)):
        with pytest.raises(DataError, match="has no labels"):
            prepare(network(3, None, LOGITS), data)


def test_a_single_step_needs_no_labels():
    model, train = network(3, None, LOGITS), bm.TrainConfig(epochs=1)
    sparse = bm.prune(model, X, 0.5, train=train, verbose=0)
    assert (sparse.layers[0].kernel.numpy() == 0).mean() == 0.5 and sparse.loss is LOGITS
    small = bm.quantize(network(3, "softmax"), tf.data.Dataset.from_tensor_slices(X).batch(20), train=train, verbose=0)
    assert small.predict(X, verbose=0).shape == (120, 3)
