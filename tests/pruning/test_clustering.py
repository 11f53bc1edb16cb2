from __future__ import annotations

import itertools

import keras
import numpy as np
import pytest

from bigmodel.callbacks import KeepClusters, KeepZeros, MagnitudePruning, WeightClustering
from bigmodel.config import ClusterConfig, QuantizeConfig, TrainConfig
from bigmodel.data import as_data, load_digits
from bigmodel.errors import ArgumentError, ModelError
from bigmodel.evaluation import inspect_file
from bigmodel.export import export_float
from bigmodel.export.formats import format_of
from bigmodel.pruning import prunable
from bigmodel.pruning.clustering import cluster_weights
from bigmodel.pruning.codebook import codebook, distinct_count, k_means
from bigmodel.quantization import deploy, quantize_aware, quantize_post_training

layers = keras.layers
RNG = np.random.default_rng(0)
X = RNG.normal(size=(128, 12)).astype("float32")
Y = RNG.integers(0, 4, 128)
EIGHT_BITS = QuantizeConfig(bits=8, activations="dynamic")


def network(optimizer="adam", **compiled):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((12,)), layers.Dense(30, "relu"), layers.Dense(4, "softmax", dtype="float32")]
    )
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"], **compiled)
    return model


def kernels(model):
    return [np.asarray(kernel) for _, kernel in prunable(model)]


def counts(model):
    return [len(np.unique(kernel)) for kernel in kernels(model)]


def train(model, *callbacks, epochs=2, **arguments):
    return model.fit(X, Y, batch_size=16, epochs=epochs, verbose=0, callbacks=list(callbacks), **arguments)


# --- the maths ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("initialization", ["linear", "density"])
def test_centroids_are_the_means_of_what_is_nearest(initialization):
    values = np.concatenate([RNG.normal(size=300), [8.0, 9.0]])  # The range is wide and mostly empty.
    centroids = k_means(values, 16, initialization=initialization)
    assert len(centroids) == 16 and (np.diff(centroids) > 0).all()
    nearest = np.abs(values[:, None] - centroids).argmin(axis=1)
    np.testing.assert_allclose(centroids, [values[nearest == i].mean() for i in range(16)])


def test_few_values_are_clustered_as_well_as_can_be():
    values = np.sort(np.concatenate([RNG.normal(m, 0.1, 6) for m in (0, 1, 2)]))
    cuts = itertools.combinations(range(1, len(values)), 2)
    best = min(sum(((p - p.mean()) ** 2).sum() for p in np.split(values, cut)) for cut in cuts)
    centroids = k_means(values, 3)
    assert (np.abs(values[:, None] - centroids).min(axis=1) ** 2).sum() == pytest.approx(best)


def test_the_codebook_keeps_zeros_apart_and_what_is_clustered_already():
    weights = RNG.normal(size=(20, 10)) * (RNG.random((20, 10)) > 0.5)
    values, indices = codebook(weights, 8)
    shared = values[indices]
    assert len(np.unique(shared)) == 8
    np.testing.assert_array_equal(shared == 0, weights == 0)
    again, same = codebook(shared, 8)
    np.testing.assert_array_equal(again[same], shared)
    few = RNG.choice([-1.0, 0.5, 2.0], size=(4, 5))
    values, indices = codebook(few, 16)
    np.testing.assert_array_equal(values[indices], few)
    assert [distinct_count(w, 8) for w in (shared, few, weights)] == [8, len(np.unique(few)), 9]


# --- the callbacks --------------------------------------------------------------------------------------------------


COMPILED = {
    "plain": {},
    "jit_compile": {"jit_compile": True},
    "steps_per_execution": {"steps_per_execution": 3},
    "weight averaging": {"optimizer": lambda: keras.optimizers.Adam(use_ema=True, ema_momentum=0.9)},
    "momentum and decay": {"optimizer": lambda: keras.optimizers.SGD(0.1, momentum=0.9, weight_decay=1e-3)},
}


@pytest.mark.parametrize("name", COMPILED)
def test_kernels_hold_so_many_values_after_fit_however_the_model_is_compiled(name):
    model = network(**{key: value() if callable(value) else value for key, value in COMPILED[name].items()})
    train(model, epochs=1)
    before = kernels(model)
    train(model, WeightClustering(6))
    assert counts(model) == [6, 6]
    assert all((new != old).any() for new, old in zip(kernels(model), before, strict=True))
    train(model, KeepClusters())
    assert counts(model) == [6, 6]
    train(model, epochs=1)
    assert counts(model) == [360, 120]


@pytest.mark.parametrize("policy", ["mixed_float16", "bfloat16"])
def test_kernels_are_clustered_in_other_precisions(policy):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        model = network()
    finally:
        keras.config.set_dtype_policy(before)
    train(model, WeightClustering(6))
    assert counts(model) == [6, 6]


def test_a_value_moves_by_the_mean_of_its_weights_gradients():
    model, rate = network(keras.optimizers.SGD(0.1)), 0.1
    values, indices = codebook(kernels(model)[0], 5)
    for layer, kernel in zip(model.layers, kernels(model), strict=True):
        shared, positions = codebook(kernel, 5)
        layer.kernel.assign(shared[positions])
    import tensorflow as tf

    with tf.GradientTape() as tape:
        loss = model.compute_loss(X, Y, model(X, training=True))
    gradient = tape.gradient(loss, model.layers[0].kernel.value).numpy()
    model.fit(X, Y, batch_size=128, epochs=1, verbose=0, callbacks=[WeightClustering(5)])
    moved = np.array([v - rate * gradient[indices == i].mean() for i, v in enumerate(values)])
    np.testing.assert_allclose(kernels(model)[0], moved[indices], rtol=1e-4, atol=1e-6)


def test_a_step_of_nothing_changes_no_bit():
    model = network(keras.optimizers.SGD(0.0))
    model.layers[0].kernel.assign(RNG.choice(np.float32([0.1, -0.3, 0.7]), size=(12, 30)))
    before = kernels(model)[0]
    train(model, KeepClusters(), epochs=5)
    np.testing.assert_array_equal(kernels(model)[0], before)


def test_zeros_stay_zeros_and_are_one_of_the_values():
    model = network()
    train(model, MagnitudePruning(0.6))
    zeros = [kernel == 0 for kernel in kernels(model)]
    train(model, WeightClustering(8))
    train(model, KeepClusters(), KeepZeros())
    assert counts(model) == [8, 8]
    for kernel, zero in zip(kernels(model), zeros, strict=True):
        np.testing.assert_array_equal(kernel == 0, zero)


def test_restored_weights_are_clustered_and_constraints_come_back():
    limit = keras.constraints.MaxNorm(1.0)
    model = network()
    model.layers[0].kernel.constraint = limit
    names = [variable.path for variable in model.variables]
    stopping = keras.callbacks.EarlyStopping("loss", mode="max", patience=9, restore_best_weights=True)
    train(model, WeightClustering(6), stopping, epochs=3)
    assert counts(model) == [6, 6]
    assert [layer.kernel.constraint for layer in model.layers] == [limit, None]
    assert [variable.path for variable in model.variables] == names


def test_keep_clusters_leaves_other_kernels_free():
    model = network()
    train(model, WeightClustering(6, where=lambda layer: layer is model.layers[0]))
    assert counts(model) == [6, 120]
    head = kernels(model)[1]
    train(model, KeepClusters())
    assert counts(model) == [6, 120] and (kernels(model)[1] != head).all()
    train(model, KeepClusters(clusters=5), epochs=1)
    assert counts(model)[0] > 6


@pytest.mark.slow
def test_two_replicas_of_a_strategy(python):
    code = """
import keras, numpy as np, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from bigmodel.callbacks import GroupLasso, WeightClustering
x = np.random.default_rng(0).normal(size=(128, 20)).astype("float32")
y = np.random.default_rng(1).integers(0, 4, 128)
with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(30), keras.layers.Dense(4, activation="softmax")])
    model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
def replicas():
    values = [np.asarray(v) for v in model.layers[0].kernel.value.values]
    return len(values), bool((values[0] == values[1]).all()), values[0]
model.fit(x, y, batch_size=32, epochs=2, verbose=0, callbacks=[WeightClustering(6)])
count, same, kernel = replicas()
print(count, same, len(np.unique(kernel)))
model.fit(x, y, batch_size=32, epochs=8, verbose=0, callbacks=[GroupLasso(0.1)])
count, same, kernel = replicas()
print(count, same, 0 < int((kernel == 0).all(axis=0).sum()))
"""
    assert python(code).splitlines()[-2:] == ["2 True 6", "2 True True"]


@pytest.mark.parametrize("arguments", [{"clusters": 1}, {"clusters": 2.5}, {"initialization": "k-means"}])
def test_arguments_that_do_not_exist_are_refused(arguments):
    with pytest.raises(ArgumentError, match=next(iter(arguments))):
        WeightClustering(**arguments)


def test_a_model_without_kernels_is_refused():
    with pytest.raises(ModelError, match="no kernel"):
        train(network(), WeightClustering(where=lambda layer: False))


# --- the step and the file ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits():
    (x_train, y_train), (x_test, y_test) = load_digits()
    flat = [x.reshape(len(x), -1).astype("float32") / 16 for x in (x_train, x_test)]
    return as_data((flat[0], y_train), test_fraction=0), (flat[1], y_test)


@pytest.fixture(scope="module")
def model(digits):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((64,)), layers.Dense(48, "relu"), layers.Dense(10, "softmax")])
    model.compile(keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(digits[0].train.batches(64, shuffle=True), epochs=10, verbose=0, shuffle=False)
    return model


@pytest.fixture(scope="module")
def clustered(model, digits):
    return cluster_weights(model, digits[0], ClusterConfig(8), train=TrainConfig(epochs=4, batch_size=64))


def test_a_clustered_model_is_new_and_about_as_good(model, clustered, digits):
    assert [len(np.unique(kernel)) for kernel in kernels(model)] != [8, 8]
    assert counts(clustered) == [8, 8]
    before, after = (m.evaluate(*digits[1], verbose=0, return_dict=True)["accuracy"] for m in (model, clustered))
    assert after > before - 0.02
    assert clustered.loss == model.loss and all(v.constraint is None for v in clustered.variables)


def test_the_same_seed_gives_the_same_model_and_no_training_is_k_means_alone(model, digits):
    train = TrainConfig(epochs=1, batch_size=64)
    one, two = (cluster_weights(model, digits[0], ClusterConfig(4), train=train, seed=3) for _ in range(2))
    assert all((a == b).all() for a, b in zip(one.get_weights(), two.get_weights(), strict=True))
    alone = cluster_weights(model, digits[0], ClusterConfig(4), train=TrainConfig(epochs=0))
    for kernel, before in zip(kernels(alone), kernels(model), strict=True):
        values, indices = codebook(before, 4)
        np.testing.assert_array_equal(kernel, values[indices].astype("float32"))


def test_files_hold_the_shared_values(clustered, digits, tmp_path):
    float_path = export_float(clustered, tmp_path / "float.tflite")
    assert [op.distinct for op in inspect_file(float_path).ops if op.weight_tensor] == [8, 8]

    simulation = quantize_post_training(clustered, None, EIGHT_BITS).simulation
    path = tmp_path / "dynamic.tflite"
    deploy(simulation, [(format_of(8, "dynamic"), path)], digits[1][0][:8])
    facts = [op for op in inspect_file(path).ops if op.weight_tensor]
    assert [op.weight_bits for op in facts] == [8, 8]
    for op, stored in zip(facts, codes(path), strict=True):
        # Each output channel has a scale, and so codes, of its own.
        assert 8 < op.distinct == len(np.unique(stored))
        assert max(len(np.unique(row)) for row in stored) <= 8


def test_quantization_aware_training_keeps_the_shared_values(clustered, digits):
    keepers = [KeepZeros(), KeepClusters()]
    aware, _ = quantize_aware(clustered, digits[0], EIGHT_BITS, train=TrainConfig(epochs=1), callbacks=keepers)
    assert counts(aware) == [8, 8]
    assert all((now != then).any() for now, then in zip(kernels(aware), kernels(clustered), strict=True))


def codes(path):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))
    tensors = {tensor["name"]: tensor["index"] for tensor in interpreter.get_tensor_details()}
    names = [op.weight_tensor for op in inspect_file(path).ops if op.weight_tensor]
    return [interpreter.get_tensor(tensors[name]) for name in names]


def test_a_callback_that_brings_weights_back_is_found_out(model, digits):
    class Undo(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            before = self.model.history.on_train_end

            def on_train_end(logs=None):
                before(logs)
                self.model.set_weights(model.get_weights())

            self.model.history.on_train_end = on_train_end

    with pytest.raises(ModelError, match="more values than asked for"):
        cluster_weights(model, digits[0], ClusterConfig(4), train=TrainConfig(epochs=1), callbacks=[Undo()])
