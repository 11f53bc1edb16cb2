from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from bigmodel.config import TrainConfig
from bigmodel.data import Data, as_data
from bigmodel.training import acceleration, fit
from bigmodel.training.acceleration import choose_xla
from bigmodel.training.compilation import Compilation
from bigmodel.training.placement import fed

X = np.random.default_rng(0).normal(size=(64, 6)).astype("float32")
Y = X[:, :3].argmax(axis=1)
BATCHES = tf.data.Dataset.from_tensor_slices((X, Y)).batch(32)


@pytest.fixture
def gpu(monkeypatch):
    """A GPU as far as the choice is concerned; the steps run on the CPU, where XLA compiles them too."""
    devices = tf.config.list_physical_devices
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: ["GPU:0"] if kind == "GPU" else devices())


def network(**compiled):
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(3, "softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy", **compiled)
    return model


def clock(monkeypatch, with_xla, without):
    """Lets steps take the given seconds."""
    now = [0.0]

    def step(self, *batch):
        now[0] += with_xla if self.jit_compile else without

    monkeypatch.setattr(keras.Model, "train_on_batch", step)
    monkeypatch.setattr(acceleration.time, "perf_counter", lambda: now[0])


@pytest.mark.parametrize(("with_xla", "without", "pays"), [(1.0, 2.0, True), (2.0, 2.0, True), (3.0, 2.0, False)])
def test_xla_is_taken_where_it_is_not_slower(gpu, monkeypatch, with_xla, without, pays):
    clock(monkeypatch, with_xla, without)
    model = network(jit_compile=True)
    assert choose_xla(model, Compilation.of(model), BATCHES) is pays


def test_the_steps_are_really_taken_and_the_model_is_not_changed(gpu):
    model = network(jit_compile=True)
    before = model.get_weights()
    assert choose_xla(model, Compilation.of(model), BATCHES) in (True, False)
    assert all(np.array_equal(one, other) for one, other in zip(before, model.get_weights(), strict=True))
    assert int(model.optimizer.iterations) == 0


def test_xla_that_was_turned_off_stays_off(gpu):
    model = network(jit_compile=False)
    assert choose_xla(model, Compilation.of(model), BATCHES) is None


def test_without_a_gpu_nothing_is_measured():
    model = network(jit_compile=True)
    assert choose_xla(model, Compilation.of(model), BATCHES) is None


def test_a_run_that_goes_on_takes_the_choice_over(monkeypatch, tmp_path):
    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                raise KeyboardInterrupt

    data, config = as_data(Data(train=(X, Y), validation=(X, Y))), TrainConfig(epochs=2, batch_size=32)
    monkeypatch.setattr("bigmodel.training.loop.choose_xla", lambda *_: True)
    with pytest.raises(KeyboardInterrupt):
        fit(network(), data, config, checkpoint=tmp_path / "run", callbacks=[Stop()])
    monkeypatch.setattr("bigmodel.training.loop.choose_xla", lambda *_: False)
    told = fit(network(), data, config, checkpoint=tmp_path / "run")
    assert "trained with XLA, which was measured" in told.notes


def test_batches_are_copied_to_the_one_gpu(monkeypatch):
    assert fed(BATCHES, None) is BATCHES
    cpu = tf.config.list_logical_devices("CPU")  # stands for the GPU: what is checked is that the batches arrive whole
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: cpu if kind == "GPU" else [])
    copied = list(fed(BATCHES, None))
    assert np.array_equal(np.concatenate([x for x, _ in copied]), X)
    assert [x.device.rsplit("/", 1)[-1] for x, _ in copied] == ["device:CPU:0"] * 2
