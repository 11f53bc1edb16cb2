"""What can't be done with a tf_keras model is refused by name, before anything is trained or converted."""

from __future__ import annotations

import pytest
import tf_keras
from legacy_networks import chain
from tf_keras import layers

import bigmodel as bm
from bigmodel.errors import ArgumentError, ArgumentTypeError, ModelError

NO_EPOCHS = bm.TrainConfig(epochs=0)


class Doubled(layers.Layer):
    def call(self, x):
        return 2 * x


class Nameless(layers.Layer):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def call(self, x):
        return self.factor * x

    def get_config(self):
        return {"factor": self.factor}


class Lost(Nameless):
    def get_config(self):
        return {}


def around(layer):
    return chain((8, 8, 1), layers.Flatten(), layers.Dense(16, activation="relu"), layer, layers.Dense(10))


def test_layers_of_ones_own_stay_float_between_quantized_ones(digits):
    made = bm.quantize(around(Doubled(name="own")), digits, train=bm.TrainConfig(epochs=1), verbose=0)
    assert [layer.name for layer in made.layers if isinstance(layer, Doubled)] == ["own"]
    assert sum(layer.name.startswith("quant_dense") for layer in made.layers) == 2


@pytest.mark.parametrize(
    ("make", "call", "says"),
    [
        (lambda: Nameless(2.0), lambda m, d: bm.quantize(m, d), "without 'name' of 'nameless"),
        (lambda: Lost(2.0), lambda m, d: bm.prune(m, d, 0.5), r"'lost.*Lost\): .*factor"),
        (lambda: Lost(2.0), lambda m, d: bm.export_litert(m, "x.tflite", format="weight_only_int8"), "Lost"),
    ],
)
def test_a_layer_that_can_not_be_made_again_is_named(make, call, says, digits):
    with pytest.raises(ModelError, match=says):
        call(around(make()), digits)


def test_a_run_leaves_out_what_needs_the_layer_again(digits):
    model = around(Lost(2.0))
    model.compile("adam", tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    open_ = {"prune": None, "augment": None, "tune": None, "verbose": 0}
    with pytest.raises(ModelError, match="'lost"):
        bm.compress_and_tune(model, digits, **{**open_, "prune": 0.5})
    result = bm.compress_and_tune(model, digits, train=bm.TrainConfig(epochs=1), **open_)
    (failed,) = [row for row in result.report.candidates if row["status"] == "failed"]
    assert failed["format"] == "weight_only_int8" and "can't be made again" in failed["reason"]
    assert {"float16", "dynamic_int8"} < {row["format"] for row in result.report.candidates}


@pytest.mark.parametrize(
    "call",
    [
        lambda m, d: bm.prune(m, d, 0.5, train=NO_EPOCHS),
        lambda m, d: bm.quantize(m, d, train=NO_EPOCHS),
        lambda m, d: bm.compress_and_tune(m, d, prune=0.5, train=NO_EPOCHS, verbose=0),
        lambda m, d: bm.compress_and_tune(m, d, train=bm.TrainConfig(precision="mixed_float16"), verbose=0),
        lambda m, d: bm.quantize(m, d, train=bm.TrainConfig(distillation=0.5), verbose=0),
    ],
)
def test_training_that_tf_keras_can_not_do_is_refused(call, network, digits):
    with pytest.raises(ArgumentError, match=r"epochs=0|mixed_float16|distillation=0.5") as raised:
        call(network, digits)
    assert "bm.from_legacy(model)" in raised.value.fix


@pytest.mark.parametrize("format_", ["float32", "float16", "weight_only_int8", "dynamic_int8"])
@pytest.mark.parametrize("path", ["model.bin", "nowhere/model.tflite"])
def test_a_path_that_can_not_be_written(path, format_, network, tmp_path):
    with pytest.raises(ArgumentError, match="can't be written there"):
        bm.export_litert(network, tmp_path / path, format=format_)


def test_integer_ends_are_those_of_static_files(network, tmp_path):
    with pytest.raises(ArgumentError, match="io='int8'"):
        bm.export_litert(network, tmp_path / "model.tflite", format="dynamic_int8", io="int8")


def test_a_path_is_no_model_and_the_fix_says_how_it_becomes_one(tmp_path):
    for call in (lambda: bm.prune("model.h5", None, 0.5), lambda: bm.export_litert("model.h5", tmp_path / "a.tflite")):
        with pytest.raises(ArgumentTypeError, match=r"'model\.h5'") as raised:
            call()
        assert "bm.from_legacy(path)" in raised.value.fix


def test_a_file_that_is_not_there_is_told_as_such(tmp_path):
    with pytest.raises(ModelError, match="there is no such file"):
        bm.from_legacy(tmp_path / "nothing.h5")


def test_a_network_without_weights_has_no_file_of_integers(tmp_path):
    model = tf_keras.Sequential([tf_keras.Input((8, 8, 1)), layers.Flatten()])
    with pytest.raises(bm.errors.ConversionError, match="no quantized weight"):
        bm.export_litert(model, tmp_path / "x.tflite", format="weight_only_int8")
