"""What can't be used is refused before anything is trained or converted, with what came, what may come, and the fix."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import bigmodel as bm
import bigmodel.pipeline  # loaded here: first loaded within a test, it would keep what stands in there

X = np.random.default_rng(0).normal(size=(120, 6)).astype("float32")
Y = np.arange(120) % 3


@pytest.fixture(scope="module")
def model() -> keras.Model:
    built = keras.Sequential([keras.Input((6,), name="x"), keras.layers.Dense(8, "relu"), keras.layers.Dense(3)])
    built.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    return built


@pytest.fixture(autouse=True)
def nothing_runs(monkeypatch):
    def fail(*_: Any, **__: Any) -> None:
        pytest.fail("it went to work")

    monkeypatch.setattr(keras.Model, "fit", fail)
    monkeypatch.setattr("bigmodel.export.child.run_batch", fail)


def with_nan() -> np.ndarray:
    x = X.copy()
    x[7, 2] = np.nan
    return x


def one_shot() -> Any:
    return (batch for batch in [(X, Y)])


ERRORS = bm.errors
CASES: dict[str, tuple[Any, dict[str, Any], type[Exception], str]] = {
    "labels out of range": ((X, Y + 1), {}, ERRORS.DataError, "0..2|0 to 2|range|classes"),
    "labels below zero": ((X, Y - 1), {}, ERRORS.DataError, "Expected"),
    "one-hot labels": ((X, np.eye(3)[Y]), {}, ERRORS.DataError, "Expected"),
    "labels as text": ((X, np.array(list("abc"))[Y]), {}, ERRORS.DataError, "text"),
    "labels for the test only": (bm.Data(train=X, test=(X, Y)), {}, ERRORS.DataError, "no labels"),
    "labels for train only": (bm.Data(train=(X, Y), test=X), {}, ERRORS.DataError, "no labels"),
    "wrong width": ((X[:, :5], Y), {}, ERRORS.DataError, "Expected"),
    "wrong rank": ((X[:, :, None, None], Y), {}, ERRORS.DataError, "Expected"),
    "NaN": ((with_nan(), Y), {}, ERRORS.DataError, "NaN"),
    "different lengths": ((X, Y[:-1]), {}, ERRORS.DataError, "length"),
    "empty": ((X[:0], Y[:0]), {}, ERRORS.DataError, "empty"),
    "too few to cut": ((X[:3], Y[:3]), {}, ERRORS.DataError, "too small"),
    "an iterator": (one_shot(), {}, ERRORS.DataError, "only once"),
    "an endless stream": (
        tf.data.Dataset.from_tensor_slices((X, Y)).repeat().batch(8),
        {},
        ERRORS.DataError,
        "never ends",
    ),
    "a path": ("digits.npz", {}, ERRORS.ArgumentTypeError, "train data"),
    "no data": (None, {}, ERRORS.DataError, "train"),
    "prune=1.5": ((X, Y), {"prune": 1.5}, ERRORS.ArgumentError, "sparsity"),
    "prune='half'": ((X, Y), {"prune": "half"}, ERRORS.ArgumentTypeError, "PruneConfig"),
    "quantize=3": ((X, Y), {"quantize": 3}, ERRORS.ArgumentError, "bits"),
    "tune=0": ((X, Y), {"tune": 0}, ERRORS.ArgumentError, "TuneConfig"),
    "augment=True": ((X, Y), {"augment": True}, ERRORS.ArgumentTypeError, "AugmentConfig"),
    "target=0.01": ((X, Y), {"target": 0.01}, ERRORS.ArgumentTypeError, "target"),
    "train=3": ((X, Y), {"train": 3}, ERRORS.ArgumentTypeError, "train"),
    "seed=-1": ((X, Y), {"seed": -1}, ERRORS.ArgumentError, "seed"),
    "a callback alone": (
        (X, Y),
        {"callbacks": keras.callbacks.TerminateOnNaN()},
        ERRORS.ArgumentTypeError,
        "callbacks",
    ),
    "training without epochs": (
        (X, Y),
        {"quantize": bm.QuantizeConfig(method="aware"), "train": bm.TrainConfig(epochs=0)},
        ERRORS.ArgumentError,
        "contradict",
    ),
    "no layer left to quantize": (
        (X, Y),
        {"quantize": bm.QuantizeConfig(where=lambda layer: False)},
        ERRORS.ModelError,
        "no layer to quantize",
    ),
    "a file as directory": ((X, Y), {"directory": __file__}, ERRORS.DirectoryError, "can't be used"),
}


def call(model: Any, data: Any, orders: dict[str, Any]) -> None:
    orders = dict(orders)
    given = {name: orders.pop(name) for name in ("target", "augment", "tune", "prune", "quantize") if name in orders}
    bm.compress_and_tune(model, data, **given, **orders, verbose=0)


@pytest.mark.parametrize("case", CASES)
def test_it_is_refused_in_three_parts(case, model):
    data, orders, error, says = CASES[case]
    with pytest.raises(error, match=says) as caught:
        call(model, data, orders)
    assert isinstance(caught.value, ERRORS.BigmodelError)
    assert caught.value.problem and caught.value.received and caught.value.expected and caught.value.fix


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        (None, ERRORS.ArgumentTypeError),
        ("model.keras", ERRORS.ArgumentTypeError),
        (keras.layers.Dense(3), ERRORS.ArgumentTypeError),
        (keras.Sequential([keras.layers.Dense(3)]), ERRORS.ModelError),
    ],
    ids=["nothing", "a path", "a layer", "not built"],
)
def test_what_is_no_built_model_is_refused(wrong, error):
    with pytest.raises(error) as caught:
        call(wrong, (X, Y), {})
    assert caught.value.received and caught.value.expected and caught.value.fix


def own_step() -> keras.Model:
    class OwnStep(keras.Model):
        def train_step(self, data: Any) -> Any:
            return {}

    x = keras.Input((6,))
    built = OwnStep(x, keras.layers.Dense(3)(x))
    built.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    return built


def test_a_training_step_of_ones_own_is_not_silently_replaced():
    with pytest.raises(ERRORS.ModelError) as caught:
        call(own_step(), (X, Y), {"quantize": bm.QuantizeConfig(method="aware")})
    assert "train_step" in str(caught.value) and caught.value.fix


def test_a_directory_with_other_files_is_left_as_it_is(model, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ERRORS.DirectoryError, match="other files"):
        call(model, (X, Y), {"directory": tmp_path})
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_refused_run_leaves_no_temporary_directory(model, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(ERRORS.ModelError):
        call(model, (X, Y), {"quantize": bm.QuantizeConfig(where=lambda layer: False)})
    assert list(tmp_path.iterdir()) == []
