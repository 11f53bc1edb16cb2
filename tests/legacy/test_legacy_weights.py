"""Files of 8-bit weights that compute in float."""

from __future__ import annotations

import numpy as np
import pytest
import tf_keras
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils
from legacy_networks import TRAIN, chain, randomised
from tf_keras import Input, Model, layers

import bigmodel as bm
from bigmodel.errors import ArgumentError, ModelError
from bigmodel.evaluation import inspect_file
from bigmodel.export.formats import FORMATS
from bigmodel.legacy.files import deploy_weights
from bigmodel.legacy.shell import shell
from bigmodel.legacy.steps import round_weights

FLOAT = bm.QuantizeConfig(activations="float")
RNG = np.random.default_rng(2)


def recurrent():
    entry = Input((7, 8))
    y = layers.Add()([entry, layers.MultiHeadAttention(2, 4, value_dim=4)(entry, entry)])
    y = layers.Bidirectional(layers.LSTM(6, return_sequences=True))(layers.LayerNormalization()(y))
    y = layers.GRU(8)(layers.TimeDistributed(layers.Dense(9))(y))
    return randomised(Model(entry, layers.Dense(3)(y)))


def convolutions():
    return chain(
        (16, 16, 3),
        layers.Conv2D(8, 3),
        layers.BatchNormalization(),
        layers.DepthwiseConv2D(3, depth_multiplier=2),
        layers.SeparableConv2D(6, 3),
        layers.Conv2DTranspose(4, 3, strides=2),
        layers.Flatten(),
        layers.Dense(3),
    )


def words():
    return chain((7,), layers.Embedding(50, 16), layers.Conv1D(8, 3), layers.Flatten(), layers.Dense(9), dtype="int32")


def int8_weights(path):
    """The integers in a file's constant tensors of two dimensions and more."""
    model = flatbuffer_utils.read_model(str(path))
    return [
        np.frombuffer(bytes(model.buffers[tensor.buffer].data), np.int8).reshape(tensor.shape)
        for graph in model.subgraphs
        for tensor in graph.tensors
        if tensor.type == schema.TensorType.INT8
        and len(tensor.shape) > 1
        and model.buffers[tensor.buffer].data is not None
    ]


@pytest.mark.parametrize(
    ("make", "x", "weights"),
    [
        (convolutions, RNG.random((4, 16, 16, 3), np.float32), 6),
        pytest.param(recurrent, RNG.random((4, 7, 8), np.float32), 12, marks=pytest.mark.slow),
        pytest.param(words, RNG.integers(0, 50, (4, 7)).astype("int32"), 3, marks=pytest.mark.slow),
    ],
)
def test_the_file_holds_every_grid_and_computes_as_the_rounded_network(make, x, weights, tmp_path):
    model = make()
    rounded = round_weights(shell(model))
    (written,) = deploy_weights(rounded, [(FORMATS["weight_only_int8"], tmp_path / "weights.tflite")])
    assert len(written.exact) == weights and all(written.exact.values()) and not written.missing
    ops = [op for op in inspect_file(written.path).ops if op.weight_bits is not None]
    assert {op.weight_bits for op in ops} == {8}
    assert {op.activation for op in ops if op.name != "GATHER"} == {"float"}
    answers, exact = bm.LiteModel(written.path).predict(x), rounded.predict(x, verbose=0)
    np.testing.assert_allclose(answers, exact, rtol=0, atol=2e-6 * np.abs(exact).max())
    assert 1e-5 < np.abs(exact - model.predict(x, verbose=0)).max() / np.abs(exact).max() < 0.05


@pytest.mark.slow
def test_the_codes_are_those_of_the_trained_weights_in_a_quarter_of_the_bytes(tmp_path):
    model = chain((256,), layers.Dense(256, activation="relu"), layers.Dense(10))
    before = model.get_weights()
    path = bm.export_litert(model, tmp_path / "weights.tflite", format="weight_only_int8")
    whole = bm.export_litert(model, tmp_path / "float.tflite")
    assert 0.25 < path.stat().st_size / whole.stat().st_size < 0.28
    kernels = [kernel.T for kernel in before[::2]]
    wanted = [np.round(k / (np.abs(k).max(axis=1, keepdims=True) / 127)) for k in kernels]
    for codes, found in zip(sorted(wanted, key=len), sorted(int8_weights(path), key=len), strict=True):
        np.testing.assert_array_equal(found, codes)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.slow
def test_a_network_from_quantize_becomes_its_file_also_after_it_was_saved(pruned, digits, tmp_path):
    small = bm.quantize(pruned, digits, FLOAT, verbose=0)
    assert isinstance(small, tf_keras.Model) and small.optimizer is not None
    zeros = [weight == 0 for weight in pruned.get_weights()]
    assert all((new[where] == 0).all() for new, where in zip(small.get_weights(), zeros, strict=True))
    small.save(tmp_path / "small.keras")
    loaded = tf_keras.models.load_model(tmp_path / "small.keras")
    files = [bm.export_litert(m, tmp_path / f"{i}.tflite") for i, m in enumerate((small, loaded))]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert sum(codes.size for codes in int8_weights(files[0])) == 8 * 9 + 128 * 32 + 32 * 10
    x, _ = digits.test
    np.testing.assert_allclose(bm.LiteModel(files[0]).predict(x), small.predict(x, verbose=0), rtol=0, atol=1e-4)


@pytest.mark.slow
def test_a_run_makes_the_file_and_where_chooses_its_layers(network, digits):
    config = bm.QuantizeConfig(method="post_training", where=lambda layer: layer.name != "head")
    result = bm.compress_and_tune(
        network, digits, quantize=config, prune=None, augment=None, tune=None, train=TRAIN, verbose=0
    )
    final = result.report.final
    assert final["format"] == "weight_only_int8" and final["agreement"] == 1.0
    assert not result.report.steps and "the converter quantizes all layers" in result.report.skipped[0]["reason"]
    assert sorted(codes.size for codes in int8_weights(result.litert_path)) == [8 * 9, 128 * 32]
    x, _ = digits.test
    np.testing.assert_allclose(
        bm.LiteModel(result.litert_path).predict(x), result.model.predict(x, verbose=0), rtol=0, atol=1e-4
    )
    head = [model.get_layer("head").kernel.numpy() for model in (result.model, network)]
    np.testing.assert_array_equal(*head)


@pytest.mark.slow
def test_without_orders_of_bits_the_storage_may_still_be_integers(network, digits):
    orders = {"quantize": None, "prune": None, "augment": None, "tune": None, "target": bm.Target(optimize="size")}
    result = bm.compress_and_tune(network, digits, verbose=0, **orders)
    assert {row["name"] for row in result.report.candidates if row["status"] != "failed"} == {
        "float32",
        "float16",
        "weight_only_int8",
    }
    assert result.report.final["format"] == "weight_only_int8"


@pytest.mark.parametrize(
    ("config", "error", "says"),
    [
        (bm.QuantizeConfig(activations="float", where=lambda layer: True), ArgumentError, "which of its weights"),
        (bm.QuantizeConfig(activations="float", method="aware"), ArgumentError, "static activations only"),
        (bm.QuantizeConfig(activations="float", bits=4), ModelError, "bits=4"),
    ],
)
def test_what_a_network_can_not_hold_is_refused(config, error, says, network, digits):
    with pytest.raises(error, match=says):
        bm.quantize(network, digits, config)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (bm.QuantizeConfig(activations="float", where=lambda layer: False), "no layer to quantize"),
        (bm.QuantizeConfig(activations="dynamic", where=lambda layer: True), "quantizes all layers"),
    ],
)
def test_a_choice_of_layers_that_can_not_be_kept_is_refused_before_anything_runs(config, says, network, digits):
    with pytest.raises((ArgumentError, ModelError), match=says):
        bm.compress_and_tune(network, digits, quantize=config, train=TRAIN, verbose=0)
