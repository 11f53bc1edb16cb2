from __future__ import annotations

import keras
import numpy as np
import pytest
import tf_keras

import bigmodel as bm


class Count(tf_keras.callbacks.Callback):
    epochs = 0

    def on_epoch_end(self, epoch, logs=None):
        Count.epochs += 1


ORDERS = {
    "augment": None,
    "tune": None,
    "prune": 0.5,
    "quantize": bm.QuantizeConfig(method="aware"),
    "train": bm.TrainConfig(epochs=2, batch_size=32),
    "verbose": 0,
}


@pytest.fixture(scope="module")
def result(network, digits, tmp_path_factory) -> bm.Result:
    Count.epochs = 0
    return bm.compress_and_tune(
        network, digits, directory=tmp_path_factory.mktemp("runs") / "legacy", callbacks=[Count()], **ORDERS
    )


@pytest.fixture(scope="module")
def native(digits) -> bm.Result:
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"])
    quantize = bm.QuantizeConfig(method="post_training", activations="static")
    return bm.compress_and_tune(model, digits, **{**ORDERS, "quantize": quantize, "train": bm.TrainConfig(epochs=1)})


_OF_EVERY_STEP = {"name", "seconds", "metric_before", "metric_after", "bits", "granularity", "sparsity"}


def test_callbacks_of_tf_keras_are_called_in_every_training(result):
    assert Count.epochs == 4


def test_the_record_has_the_keys_of_a_native_run(result, native):
    ours, theirs = result.report.to_dict(), native.report.to_dict()
    assert set(ours) == set(theirs)
    more = set(ours["environment"]) - set(theirs["environment"])
    assert more == {"tf_keras", "tensorflow-model-optimization"}
    assert ours["environment"]["tf_keras"] == tf_keras.__version__
    for part in ("baseline", "final"):
        assert set(ours[part]) == set(theirs[part])
    for part in ("candidates", "steps"):  # each with the names of both roads; what a step did beyond is its own
        common = {key for row in theirs[part] for key in row if part == "candidates" or key in _OF_EVERY_STEP}
        assert common <= {key for row in ours[part] for key in row}


def test_the_file_holds_zeros_and_8_bits_and_answers_as_the_model(result, digits):
    x, y = digits.test
    final = result.report.final
    assert final["format"] == "static_int8" and final["sparsity"] == pytest.approx(0.5, abs=0.03)
    assert final["agreement"] >= 0.99
    answers = bm.LiteModel(result.litert_path).predict(x).argmax(axis=-1)
    assert final["metric"] == pytest.approx(np.mean(answers == y))
    assert isinstance(result.model, tf_keras.Model)
    assert np.mean(result.model.predict(x, verbose=0).argmax(axis=-1) == answers) == pytest.approx(final["agreement"])


def test_steps_and_what_was_left_out_are_told(result):
    assert [step["name"] for step in result.report.steps] == ["prune", "prune-aware_int8"]
    (row,) = result.report.skipped
    assert row["layer"].startswith("tf.math.multiply") and row["step"] == "quantize"


def test_a_finished_run_is_read_back_and_no_step_is_repeated(network, digits, result):
    Count.epochs = 0
    for name in ("report.json", "report.html"):
        (result.directory / name).unlink()
    again = bm.compress_and_tune(network, digits, directory=result.directory, callbacks=[Count()], **ORDERS)
    assert Count.epochs == 0
    assert again.report.final["metric"] == result.report.final["metric"]
    assert isinstance(bm.load_result(result.directory).model, tf_keras.Model)


@pytest.mark.slow
def test_everything_left_open_makes_the_float_and_8_bit_files_that_there_are(network, digits):
    result = bm.compress_and_tune(network, digits, verbose=0)
    made = {row["name"] for row in result.report.candidates if row["status"] != "failed"}
    assert made == {"float32", "float16", "weight_only_int8", "dynamic_int8", "static_int8"}
    assert result.report.target_met
