from __future__ import annotations

import csv
import re

import keras
import numpy as np
import pytest

from bigmodel.callbacks import KeepZeros, MagnitudePruning, SparsityLog
from bigmodel.pruning import sparsity_of

layers = keras.layers
RNG = np.random.default_rng(0)
X = RNG.normal(size=(96, 20)).astype("float32")
Y = RNG.integers(0, 4, 96)


@pytest.fixture
def model():
    model = keras.Sequential([keras.Input((20,)), layers.Dense(30, name="hidden"), layers.Dense(4, name="head")])
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def expected(kernels):
    return sum(int((kernel == 0).sum()) for kernel in kernels) / sum(kernel.size for kernel in kernels)


def test_the_progress_line_the_history_and_later_callbacks_have_the_sparsity(model, tmp_path, capsys):
    callbacks = [
        MagnitudePruning(0.8),
        SparsityLog(),
        keras.callbacks.CSVLogger(tmp_path / "log.csv"),
        keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}-{sparsity:.2f}.keras"),
    ]
    history = model.fit(X, Y, epochs=3, verbose=2, callbacks=callbacks).history
    assert history["sparsity"] == sorted(history["sparsity"])
    assert history["sparsity"][-1] == expected([layer.kernel.numpy() for layer in model.layers]) == 0.8
    with (tmp_path / "log.csv").open() as file:
        assert [float(row["sparsity"]) for row in csv.DictReader(file)] == history["sparsity"]
    assert {path.name for path in tmp_path.glob("3-*")} == {"3-0.80.keras"}
    shown = [float(value) for value in re.findall(r"sparsity: ([\d.e-]+)", capsys.readouterr().out)]
    assert shown == pytest.approx(history["sparsity"], abs=1e-3)


def events(directory):
    """What TensorBoard would read: for each tag its values by step."""
    import tensorflow as tf

    found: dict[str, list[tuple[int, float]]] = {}
    for path in sorted(directory.glob("events.out.tfevents.*")):
        for record in tf.data.TFRecordDataset(str(path)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            for value in event.summary.value:
                assert value.metadata.plugin_data.plugin_name == "scalars"
                found.setdefault(value.tag, []).append((event.step, float(tf.make_ndarray(value.tensor))))
    return found


def test_tensorboard_gets_a_scalar_for_each_kernel(model, tmp_path):
    model.layers[0].kernel.assign(model.layers[0].kernel * (RNG.random((20, 30)) > 0.4))
    history = model.fit(X, Y, epochs=2, verbose=0, callbacks=[KeepZeros(), SparsityLog(tmp_path)]).history
    share = sparsity_of(model.layers[0].kernel)
    found = events(tmp_path / "sparsity")
    kernel = model.layers[0].kernel.path
    assert found[f"sparsity/{kernel}"] == [(0, pytest.approx(share)), (1, pytest.approx(share))]
    assert found[f"sparsity/{model.layers[1].kernel.path}"] == [(0, 0.0), (1, 0.0)]
    assert [value for _, value in found["sparsity"]] == pytest.approx(history["sparsity"])


def test_where_and_a_second_fit(model, tmp_path):
    log = SparsityLog(tmp_path, where=lambda layer: layer.name == "head")
    model.layers[1].kernel.assign(np.zeros((30, 4)))
    for _ in range(2):
        assert model.fit(X, Y, epochs=1, verbose=0, callbacks=[log]).history["sparsity"] == [
            expected([model.layers[1].kernel.numpy()])
        ]
    assert set(events(tmp_path / "sparsity")) == {"sparsity", f"sparsity/{model.layers[1].kernel.path}"}
