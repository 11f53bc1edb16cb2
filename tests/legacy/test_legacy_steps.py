from __future__ import annotations

import keras
import numpy as np
import pytest
import tf_keras
from legacy_networks import TRAIN, chain, digits_network
from tf_keras import layers

import bigmodel as bm
from bigmodel.config import ClusterConfig
from bigmodel.errors import ArgumentError, ConversionError, ModelError
from bigmodel.evaluation import agreement
from bigmodel.export.formats import FORMATS
from bigmodel.export.lean import lean
from bigmodel.legacy import network_in
from bigmodel.legacy.files import deploy
from bigmodel.legacy.pruning import left_dense
from bigmodel.legacy.shell import shell
from bigmodel.legacy.steps import cluster, quantize_aware


def kernels(model):
    return {w.name: w.numpy() for w in model.weights if w.name.split("/")[-1].startswith("kernel:")}


def test_the_shell_computes_evaluates_and_is_saved_as_the_network(network, digits, tmp_path):
    x, y = digits.test
    inside = shell(network)
    np.testing.assert_allclose(inside.predict(x, verbose=0), network.predict(x, verbose=0), rtol=0, atol=1e-6)
    assert bm.evaluate(network, (x, y)).metric == pytest.approx(network.evaluate(x, y, verbose=0)[1])
    inside.save(tmp_path / "shell.keras")
    again = keras.models.load_model(tmp_path / "shell.keras")
    np.testing.assert_array_equal(again.predict(x, verbose=0), inside.predict(x, verbose=0))


def test_pruning_leaves_exact_zeros_in_a_new_model_compiled_like_the_callers(network, pruned, digits):
    assert isinstance(pruned, tf_keras.Model) and pruned is not network
    for name, kernel in kernels(pruned).items():
        assert (kernel == 0).mean() == pytest.approx(0.75, abs=0.02), name
    assert all((kernel != 0).all() for kernel in kernels(network).values())
    assert not [layer for layer in pruned._flatten_layers() if "prune" in layer.name]
    loss, accuracy = pruned.evaluate(*digits.test, verbose=0)
    assert loss > 0 and accuracy > 0.5
    assert float(pruned.optimizer.learning_rate) == pytest.approx(2e-3)


def test_two_of_four_and_constant_schedules_and_functions(digits):
    model = chain((8, 8, 1), layers.Flatten(), layers.Dense(16, activation="relu"), layers.Dense(10))
    epoch = bm.TrainConfig(epochs=1)
    half = bm.prune(model, digits, granularity="2:4", sparsity=0.5, train=epoch, verbose=0)
    groups = half.layers[1].kernel.numpy().T.reshape(16, -1, 4)
    assert ((groups == 0).sum(axis=-1) == 2).all()
    for schedule in ("constant", lambda step: min(1.0, step / 4)):
        made = bm.prune(model, digits, 0.5, schedule=schedule, frequency=2, train=epoch, verbose=0)
        assert (made.layers[1].kernel.numpy() == 0).mean() == pytest.approx(0.5, abs=0.01)


def test_layers_that_a_pattern_does_not_fit_stay_dense_and_are_told(digits):
    rest = (layers.Conv2D(8, 3, name="narrow"), layers.Conv2D(4, 3, name="wide"), layers.Flatten(), layers.Dense(10))
    model = chain((8, 8, 1), *rest)
    told = left_dense(model, bm.PruneConfig(granularity="2:4", sparsity=0.5))
    assert told == [
        {
            "layer": "narrow",
            "step": "prune",
            "reason": "the pattern '2:4' does not fit its kernel of shape (3, 3, 1, 8)",
        }
    ]
    blocks = left_dense(model, bm.PruneConfig(granularity="block", sparsity=0.5))
    assert [row["layer"] for row in blocks] == ["narrow", "wide"]
    assert not left_dense(model, bm.PruneConfig(0.5))
    half = bm.prune(model, digits, granularity="2:4", sparsity=0.5, train=bm.TrainConfig(epochs=1), verbose=0)
    assert (half.get_layer("narrow").kernel.numpy() != 0).all()
    assert (half.get_layer("wide").kernel.numpy() == 0).mean() == 0.5


def test_where_chooses_the_layers(digits):
    model = chain((8, 8, 1), layers.Flatten(), layers.Dense(16, name="one"), layers.Dense(10, name="two"))
    made = bm.prune(model, digits, 0.5, where=lambda layer: layer.name == "one", train=TRAIN, verbose=0)
    assert (made.get_layer("one").kernel.numpy() == 0).mean() == pytest.approx(0.5)
    assert (made.get_layer("two").kernel.numpy() != 0).all()


def test_aware_training_keeps_the_zeros_and_its_file_computes_the_same(network, pruned, aware, digits, tmp_path):
    zeros = {name: kernel == 0 for name, kernel in kernels(pruned).items()}
    assert zeros and all((kernels(aware)[name][where] == 0).all() for name, where in zeros.items())
    path = bm.export_litert(aware, tmp_path / "aware.tflite")
    file, model = bm.evaluate(path, digits.test, like=network), bm.evaluate(aware, digits.test)
    assert agreement(model, file) >= 0.999
    assert {op.weight_bits for op in bm.evaluation.inspect_file(path).ops} == {8, None}
    assert lean(path.read_bytes()) == path.read_bytes()


def test_what_the_toolkit_refuses_is_told_and_the_rest_is_quantized(network, digits):
    inside = shell(network)
    data = bm.as_data(digits, model=inside)
    made, skipped = quantize_aware(inside, data, bm.QuantizeConfig(), train=bm.TrainConfig(epochs=1))
    (row,) = skipped
    assert row["layer"].startswith("tf.math.multiply") and "TFOpLambda" in row["reason"]
    assert {"quant_conv", "quant_dense", "quant_head"} <= {layer.name for layer in network_in(made).layers}


def test_clusters_share_values_keep_zeros_and_survive_aware_training(pruned, digits):
    inside = shell(pruned)
    data = bm.as_data(digits, model=inside)
    epoch = bm.TrainConfig(epochs=1)
    clustered = cluster(inside, data, ClusterConfig(8), train=epoch)
    made, _ = quantize_aware(clustered, data, bm.QuantizeConfig(), train=epoch)
    for step in (clustered, made):
        for name, kernel in kernels(network_in(step)).items():
            assert len(np.unique(kernel)) <= 8, name
            assert (kernel == 0).mean() == pytest.approx(0.75, abs=0.02), name


def test_formats_of_a_float_network(network, digits, tmp_path):
    inside, (x, _) = shell(network), digits.train
    names = ("dynamic_int8", "static_int8", "dynamic_int4")
    orders = [(FORMATS[name], tmp_path / f"{name}.tflite") for name in names]
    *files, refused = deploy(inside, orders, x[:200])
    assert isinstance(refused, ConversionError)
    for file in files:
        assert agreement(bm.evaluate(network, digits.test), bm.evaluate(file.path, digits.test, like=network)) > 0.98
        assert file.path.stat().st_size < 16_000  # of 9,072 weights, 320 of them biases and statistics


@pytest.mark.slow
def test_float16_of_a_float_network(network, digits, tmp_path):
    path = bm.export_litert(network, tmp_path / "half.tflite", format="float16")
    assert bm.evaluate(path, digits.test, like=network).metric == pytest.approx(
        bm.evaluate(network, digits.test).metric, abs=0.005
    )


def test_an_integer_device_gets_integers(aware, tmp_path):
    path = bm.export_litert(aware, tmp_path / "int8.tflite", io="int8")
    assert [info.dtype for info in bm.LiteModel(path).inputs] == ["int8"]


def test_the_same_seed_gives_the_same_network(digits):
    epoch = bm.TrainConfig(epochs=1)
    first, second = (bm.prune(digits_network(), digits, 0.5, train=epoch, seed=3, verbose=0) for _ in range(2))
    for a, b in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda m, d: bm.prune(m, d, 0.5, granularity="channel"), ArgumentError, "granularity='channel'"),
        (lambda m, d: bm.prune(m, d, 0.5, ranking="global"), ArgumentError, "ranking='global'"),
        (lambda m, d: bm.quantize(m, d, 4), ModelError, "bits=4"),
        (lambda m, d: bm.quantize(m, d, bm.QuantizeConfig(activations="dynamic")), ArgumentError, "activations"),
        (lambda m, d: bm.export_litert(m, "x.tflite", format="dynamic_int4"), ConversionError, "int4"),
        (lambda m, d: bm.compress_and_tune(m, d, quantize=4, verbose=0), ModelError, "bits=4"),
    ],
)
def test_what_tf_keras_models_can_not_do_points_to_from_legacy(call, error, says, network, digits):
    with pytest.raises(error, match=says) as raised:
        call(network, digits)
    assert "bm.from_legacy(model)" in raised.value.fix


def test_a_model_in_mixed_precision_is_refused_and_the_advice_works(digits):
    def made(policy):
        head = layers.Dense(10, dtype=policy), layers.Softmax(dtype="float32")
        return tf_keras.Sequential([tf_keras.Input((8, 8, 1)), layers.Flatten(), *head])

    mixed, plain = made("mixed_float16"), made("float32")
    for call in (
        lambda: bm.prune(mixed, digits, 0.5),
        lambda: bm.quantize(mixed, digits),
        lambda: bm.export_litert(mixed, "mixed.tflite"),
    ):
        with pytest.raises(ModelError, match="float16") as raised:
            call()
        assert "new.set_weights(model.get_weights())" in raised.value.fix
    plain.set_weights(mixed.get_weights())
    x = digits.test[0]
    np.testing.assert_allclose(shell(plain).predict(x, verbose=0), mixed.predict(x, verbose=0), rtol=0, atol=0.01)


def test_a_subclassed_model_is_refused_by_name(digits):
    class Own(tf_keras.Model):
        def call(self, x):
            return x

    with pytest.raises(ModelError, match="no graph of layers"):
        bm.prune(Own(), digits, 0.5)
