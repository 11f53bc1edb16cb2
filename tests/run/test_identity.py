"""What makes two runs the same: the model, the data, the orders and the seed, and nothing else."""

from __future__ import annotations

import json
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import bigmodel as bm
from bigmodel.run.identity import environment, identity_of

X = np.random.default_rng(0).normal(size=(60, 4)).astype("float32")
Y = np.arange(60) % 3


def model(**changes: Any) -> keras.Model:
    keras.utils.set_random_seed(0)
    layers = [keras.Input((4,), name="x"), keras.layers.Dense(5, name="a"), keras.layers.Dropout(0.5, name="b")]
    built = keras.Sequential([*layers, keras.layers.Dense(3, name=changes.get("name", "c"))], name="net")
    if "weight" in changes:
        built.layers[0].bias.assign(np.full(5, changes["weight"]))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=changes.get("from_logits", True))
    rate = changes.get("learning_rate", 1e-3)
    built.compile(keras.optimizers.Adam(rate), loss, metrics=changes.get("metrics", ["accuracy"]))
    return built


def identity(built: keras.Model, data: Any = (X, Y), plan: Any = None, seed: int = 0) -> dict[str, Any]:
    return json.loads(json.dumps(identity_of(built, bm.as_data(data, seed=0), plan or {}, seed)))


def test_a_model_that_was_saved_and_loaded_is_the_same(tmp_path):
    first = model()
    first.optimizer.build(first.trainable_variables)
    first.save(tmp_path / "model.keras")
    loaded = [keras.models.load_model(tmp_path / "model.keras") for _ in range(2)]
    assert identity(loaded[0]) == identity(loaded[1]) == identity(first)


@pytest.mark.parametrize(
    "changes",
    [{"weight": 1.0}, {"name": "d"}, {"from_logits": False}, {"learning_rate": 1e-2}, {"metrics": []}],
    ids=str,
)
def test_another_model_or_compilation_is_another_run(changes):
    assert identity(model(**changes))["model"] != identity(model())["model"]


def changed(array: np.ndarray) -> np.ndarray:
    other = array.copy()
    other.flat[-1] += 1
    return other


@pytest.mark.parametrize(
    "data",
    [(changed(X), Y), (X, (Y + 1) % 3), (X[:-1], Y[:-1]), (X, Y, np.ones(60))],
    ids=["x", "y", "length", "weights"],
)
def test_other_data_is_another_run(data):
    assert identity(model(), data)["data"] != identity(model())["data"]


def test_orders_and_seed_count():
    orders = {"quantize": 8}
    assert identity(model(), plan=orders) != identity(model(), plan={"quantize": 4})
    assert identity(model(), seed=1) != identity(model())
    assert identity(model(), plan=orders) == identity(model(), plan=orders)


def stream(x: np.ndarray = X) -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices((x, Y))


def test_a_stream_counts_with_its_samples():
    assert identity(model(), stream().batch(8)) == identity(model(), stream().batch(8))
    assert identity(model(), stream(X + 1).batch(8)) != identity(model(), stream().batch(8))


def test_a_stream_in_another_order_each_time_counts_with_its_form():
    def shuffled(x: np.ndarray) -> bm.Data:
        return bm.Data(train=stream(x).shuffle(60).batch(8), validation=(X, Y))

    assert identity(model(), shuffled(X)) == identity(model(), shuffled(X))
    other = bm.Data(train=stream(X[:, :3]).shuffle(60).batch(8), validation=(X, Y))
    assert identity(model(), other) != identity(model(), shuffled(X))


def test_a_class_without_a_config_is_known_by_its_weights():
    class Own(keras.Model):
        def __init__(self, inner: list[keras.layers.Layer]) -> None:
            super().__init__()
            self.inner = inner

        def call(self, x: Any) -> Any:
            return self.inner[0](x)

    def made(weight: float) -> keras.Model:
        built = Own([keras.layers.Dense(3)])
        built(X[:1])
        built.inner[0].kernel.assign(np.full((4, 3), weight))
        built.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        return built

    assert identity(made(1.0)) == identity(made(1.0)) != identity(made(2.0))


def test_the_environment_names_versions_and_devices():
    found = environment()
    assert found["keras"] == keras.__version__ and found["tensorflow"] == tf.__version__
    assert found["devices"] and json.loads(json.dumps(found)) == found
