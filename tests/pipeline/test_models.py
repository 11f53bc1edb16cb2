"""One call on models and data of every kind: what is unusual goes through, or is left out and said so."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from jobs import accuracy, state

import bigmodel as bm

ONE_FILE = bm.QuantizeConfig(activations="float", method="post_training")
RNG = np.random.default_rng(0)


def compress(model: keras.Model, data: Any, **orders: Any) -> bm.Result:
    before = state(model)
    result = bm.compress_and_tune(model, data, **{"verbose": 0, **orders})
    assert state(model) == before
    return result


# --- text: an embedding and an LSTM, from a stream of unknown length --------------------------------------------------


@pytest.fixture(scope="module")
def text():
    """Sequences whose class is the more frequent of two words."""
    x = RNG.integers(2, 40, size=(512, 12))
    y = RNG.integers(0, 2, size=512)
    x[np.arange(512), RNG.integers(0, 12, 512)] = y
    stream = tf.data.Dataset.from_generator(
        lambda: zip(x, y, strict=True),
        output_signature=(tf.TensorSpec((12,), tf.int32), tf.TensorSpec((), tf.int32)),
    ).batch(32)
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.layers.Input((12,), dtype="int32", name="words"),
            keras.layers.Embedding(40, 32, name="embedding"),
            keras.layers.LSTM(32, name="lstm"),
            keras.layers.Dense(1, activation="sigmoid", name="answer"),
        ]
    )
    model.compile(keras.optimizers.Adam(1e-2), "binary_crossentropy", metrics=["accuracy"])
    model.fit(x, y, epochs=12, verbose=0)
    orders = bm.QuantizeConfig(method="post_training")
    return model, x, y, compress(model, bm.Data(train=stream, validation=(x[:128], y[:128])), quantize=orders)


@pytest.mark.slow
def test_a_model_with_an_lstm_comes_out_smaller_and_works(text):
    _, x, y, result = text
    final = result.report.final
    assert final["size_bytes"] < result.report.baseline["size_bytes"] / 1.5
    answers = bm.LiteModel(result.litert_path).predict(x).reshape(-1)
    assert final["metric"] == pytest.approx(np.mean((answers[:128] > 0.5) == y[:128]), abs=1e-6)
    assert np.mean((answers > 0.5) == y) > 0.9


@pytest.mark.slow
def test_the_rounding_of_the_lstms_state_is_simulated(text):
    report = text[3].report
    assert "lstm" not in {row["layer"] for row in report.skipped if row["step"] == "quantize"}
    assert report.final["agreement"] >= 0.999


@pytest.mark.slow
def test_without_a_test_split_the_report_says_so(text):
    assert text[3].report.split == "validation"
    assert any("no test split" in note for note in text[3].report.notes)


# --- two inputs, two outputs, losses by name, sample weights ----------------------------------------------------------


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    left, right = keras.Input((6,), name="left"), keras.Input((3,), name="right")
    keras.utils.set_random_seed(0)
    x = keras.layers.Dense(16, activation="relu")(keras.layers.Concatenate()([left, right]))
    outputs = {
        "kind": keras.layers.Dense(3, activation="softmax", name="kind")(x),
        "size": keras.layers.Dense(1, name="size")(x),
    }
    model = keras.Model({"left": left, "right": right}, outputs)
    model.compile(
        keras.optimizers.Adam(1e-2),
        loss={"kind": "sparse_categorical_crossentropy", "size": "mse"},
        loss_weights={"kind": 1.0, "size": 0.1},
        metrics={"kind": ["accuracy"], "size": ["mae"]},
    )
    inputs = {"left": RNG.normal(size=(400, 6)).astype("float32"), "right": RNG.normal(size=(400, 3)).astype("float32")}
    labels = {"kind": inputs["left"][:, :3].argmax(-1), "size": inputs["right"].sum(-1, keepdims=True)}
    weights = {"kind": np.ones(400, "float32"), "size": np.linspace(0, 1, 400, dtype="float32")}
    model.fit(inputs, labels, epochs=15, verbose=0)
    result = compress(
        model, (inputs, labels, weights), quantize=ONE_FILE, directory=tmp_path_factory.mktemp("two") / "r"
    )
    return model, inputs, labels, result


@pytest.mark.slow
def test_names_reach_the_file_and_its_answers_are_the_models(two):
    _, inputs, _, result = two
    file = bm.LiteModel(result.litert_path)
    assert {info.name for info in file.inputs} == {"left", "right"}
    answers, simulated = file.predict(inputs), result.model.predict(inputs, verbose=0)
    assert set(answers) == set(simulated) == {"kind", "size"}
    for name in answers:
        np.testing.assert_allclose(answers[name], simulated[name], atol=1e-4)
    assert result.report.final["agreement"] >= 0.999


@pytest.mark.slow
def test_inputs_in_a_list_keep_the_models_order_whatever_the_names():
    zeta, alpha = keras.Input((4,), name="zeta"), keras.Input((4,), name="alpha")
    model = keras.Model([zeta, alpha], keras.layers.Dense(1, name="y")(zeta - 3 * alpha))
    model.compile("adam", "mse", metrics=["mae"])
    x = tuple(RNG.normal(size=(100, 4)).astype("float32") for _ in range(2))
    result = compress(model, (x, RNG.normal(size=(100, 1))), quantize=ONE_FILE, target=bm.Target(max_drop=10))
    answers = bm.LiteModel(result.litert_path).predict({"zeta": x[0], "alpha": x[1]})
    np.testing.assert_allclose(answers, result.model.predict(list(x), verbose=0), atol=1e-4)
    assert result.report.final["agreement"] >= 0.999


@pytest.mark.slow
def test_every_metric_of_every_output_is_in_the_record(two):
    metrics = result_metrics = two[3].report.final["metrics"]
    assert {"loss", "kind_accuracy", "size_mae"} <= set(result_metrics)
    assert two[3].report.metric == "accuracy" and metrics["kind_accuracy"] == two[3].report.final["metric"]


# --- regression with a layer, a loss and functions of the caller's own ------------------------------------------------


class Scaled(keras.layers.Layer):
    """A layer that no library knows."""

    def __init__(self, factor: float = 1.0, **options: Any) -> None:
        super().__init__(**options)
        self.factor = factor

    def call(self, x: Any) -> Any:
        return x * self.factor

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "factor": self.factor}


class Huberish(keras.losses.Loss):
    def call(self, y_true: Any, y_pred: Any) -> Any:
        return keras.ops.mean(keras.ops.log(1 + keras.ops.square(y_true - y_pred)), axis=-1)


def leaky(x: Any) -> Any:
    return keras.ops.maximum(x, 0.1 * x)


@pytest.fixture(scope="module")
def own():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.layers.Input((5,), name="x"),
            Scaled(0.5, name="scaled"),
            keras.layers.Dense(24, activation=leaky, name="hidden"),
            keras.layers.Lambda(lambda t: t + 0.0, name="same"),
            keras.layers.Dense(1, name="y"),
        ]
    )
    model.compile(keras.optimizers.Adam(1e-2), Huberish())
    x = RNG.normal(size=(500, 5)).astype("float32")
    y = np.abs(x).sum(-1, keepdims=True)
    model.fit(x, y, epochs=20, verbose=0)
    target = bm.Target(max_drop=0.5)
    train = bm.TrainConfig(epochs=1)
    return x, y, compress(model, (x, y), prune=0.3, quantize=ONE_FILE, target=target, train=train)


@pytest.mark.slow
def test_what_is_the_callers_own_goes_through_unregistered(own):
    x, _, result = own
    assert [layer.name for layer in result.model.layers][-4:] == ["scaled", "hidden", "same", "y"]
    np.testing.assert_allclose(
        bm.LiteModel(result.litert_path).predict(x), result.model.predict(x, verbose=0), atol=1e-4
    )


@pytest.mark.slow
def test_of_a_regression_the_loss_decides_and_its_rise_is_relative(own):
    record = own[2].report
    assert record.metric == "loss" and not record.higher_is_better and record.final["per_class"] is None
    rise = record.final["metric"] / record.baseline["metric"] - 1
    assert record.final["metric_drop"] == pytest.approx(rise, rel=1e-4)


# --- not trained, not compiled, and silent ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def untrained(digits):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.layers.Input((64,)), keras.layers.Dense(32, "relu"), keras.layers.Dense(10, "softmax")]
    )
    return model


@pytest.mark.slow
def test_an_untrained_uncompiled_model_is_trained_first_and_nothing_is_printed(untrained, digits, capfd):
    train = bm.TrainConfig(pretrain_epochs=12, batch_size=32)
    result = compress(untrained, digits, quantize=None, prune=None, train=train, target=bm.Target(optimize="size"))
    assert capfd.readouterr() == ("", "")
    assert not untrained.compiled
    record = result.report
    assert [step["name"] for step in record.steps] == ["pretrain", "post_training_int8"]
    assert record.steps[0]["metric_before"] < 0.4 and record.steps[0]["metric_after"] > 0.85
    assert record.baseline["metric"] > 0.85
    assert any("sparse_categorical_crossentropy and accuracy" in note for note in record.notes)
    assert {row["format"] for row in record.candidates} == {"float32", "float16", "weight_only_int8"}
    assert record.final["format"] == "weight_only_int8"
    assert accuracy(bm.LiteModel(result.litert_path).predict(digits.test[0]), digits.test[1]) == pytest.approx(
        record.final["metric"], abs=1e-6
    )


# --- subclassed -------------------------------------------------------------------------------------------------------


class Own(keras.Model):
    """A subclassed model that Keras can't make again."""

    def __init__(self, inner: keras.Layer) -> None:
        super().__init__()
        self.inner = inner

    def call(self, x: Any) -> Any:
        return self.inner(x)


@pytest.fixture(scope="module")
def subclassed(digits):
    keras.utils.set_random_seed(0)
    model = Own(keras.layers.Dense(10))
    model(digits.train[0][:1])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(5e-3), loss, metrics=["accuracy"])
    model.fit(*digits.train, epochs=5, verbose=0)
    return model


def test_a_model_that_can_not_be_rebuilt_gets_its_float16_file_and_the_reasons(subclassed, digits):
    result = compress(subclassed, digits)
    record = result.report
    assert record.target_met and record.final["format"] == "float16"
    assert record.final["size_bytes"] < 0.75 * record.baseline["size_bytes"]
    assert {row["step"] for row in record.skipped} == {"quantize", "save"}
    assert all(row["reason"] for row in record.skipped)
    with pytest.raises(bm.errors.ModelError, match="get_config"):
        _ = result.model


@pytest.mark.parametrize(
    "order", [{"quantize": 8}, {"prune": 0.5}, {"train": bm.TrainConfig(pretrain_epochs=1)}], ids=str
)
def test_what_it_was_ordered_and_can_not_do_fails_before_anything_is_trained(subclassed, digits, order, monkeypatch):
    monkeypatch.setattr("bigmodel.run.native.NativeRun._step", lambda *_, **__: pytest.fail("it trained"))
    monkeypatch.setattr("bigmodel.run.base.export_float", lambda *_, **__: pytest.fail("it exported"))
    with pytest.raises(bm.errors.ModelError) as caught:
        bm.compress_and_tune(subclassed, digits, verbose=0, **order)
    assert caught.value.received and caught.value.expected and caught.value.fix
