"""A batch that does not fit the device's memory, injected: the real error, raised for batches above a size."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from bigmodel.config import TrainConfig
from bigmodel.data import Data, as_data
from bigmodel.errors import ModelError
from bigmodel.training import fit
from bigmodel.training.memory import in_parts, share_gpus

layers = keras.layers


@keras.saving.register_keras_serializable(package="test_memory")
class Greedy(layers.Layer):
    """Runs out of memory above a number of samples, in training or always."""

    def __init__(self, most, training_only=False, **kwargs):
        super().__init__(**kwargs)
        self.most, self.training_only = most, training_only

    def call(self, inputs, training=False):
        if self.training_only and not training:
            return inputs

        def check(x):
            if len(x) > self.most:
                raise MemoryError("OOM when allocating tensor")  # becomes a ResourceExhaustedError on its way
            return x

        return tf.ensure_shape(
            tf.grad_pass_through(lambda x: tf.numpy_function(check, [x], tf.float32))(inputs), inputs.shape
        )

    def get_config(self):
        return {**super().get_config(), "most": self.most, "training_only": self.training_only}


@pytest.fixture(scope="module")
def data():
    generator = np.random.default_rng(0)
    x = generator.normal(size=(160, 6)).astype("float32")
    y = x[:, :3].argmax(axis=1).astype("int32")
    return as_data(Data(train=(x[:128], y[:128]), validation=(x[128:], y[128:])))


def network(*first):
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((6,)), *first, layers.Dense(8, "relu"), layers.Dense(3)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), loss, metrics=["accuracy"])
    return model


CONFIG = TrainConfig(epochs=3, batch_size=64, learning_rate=0.1, patience=9)


def kernels(model):
    return [np.asarray(v) for v in model.trainable_variables]


@pytest.mark.parametrize(("most", "parts"), [(32, 2), (20, 4)])
def test_parts_with_accumulated_gradients_train_the_same_weights(data, most, parts, tmp_path):
    # The learning rate moves with every part instead of every batch, so that it is kept constant here.
    constant = TrainConfig(epochs=3, batch_size=64, learning_rate=None, pretrain_epochs=3, patience=9)
    from bigmodel.training import pretrain

    whole, small = network(), network(Greedy(most))
    pretrain(whole, data, constant, seed=4)
    told = pretrain(small, data, constant, seed=4, checkpoint=tmp_path / "run")
    for one, other in zip(kernels(whole), kernels(small), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    assert f"a batch did not fit the memory: trained in {parts} parts with accumulated gradients" in told.notes
    assert small.optimizer.gradient_accumulation_steps is None


def test_fine_tuning_in_parts_learns_and_an_interrupted_one_goes_on(data, tmp_path):
    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    unbroken, broken = network(Greedy(32, True)), network(Greedy(32, True))
    fit(unbroken, data, CONFIG)
    with pytest.raises(KeyboardInterrupt):
        fit(broken, data, CONFIG, checkpoint=tmp_path / "run", callbacks=[Stop()])
    again = network(Greedy(32, True))
    fit(again, data, CONFIG, checkpoint=tmp_path / "run")
    for one, other in zip(kernels(unbroken), kernels(again), strict=True):
        np.testing.assert_array_equal(one, other)


def test_one_sample_that_does_not_fit_is_an_error_that_says_so(data):
    with pytest.raises(ModelError, match="does not fit the memory"):
        fit(network(Greedy(0, True)), data, CONFIG)


def test_another_error_stays_what_it_is(data):
    class Fails(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fit(network(), data, CONFIG, callbacks=[Fails()])


def test_parts_keep_samples_and_order():
    batches = tf.data.Dataset.range(10).batch(4)
    parts = in_parts(batches, 2, 10)
    assert [part.numpy().tolist() for part in parts] == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]
    assert int(parts.cardinality()) == 5
    assert in_parts(batches, 1, 10) is batches


def test_gpus_grow_their_memory_and_one_in_use_is_told(monkeypatch):
    class Gpu:
        def __init__(self, name):
            self.name = name

    def grow(gpu, wanted):
        if gpu.name == "GPU:1":
            raise RuntimeError("Physical devices cannot be modified after being initialized")
        grown.append((gpu.name, wanted))

    grown: list[tuple[str, bool]] = []
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [Gpu("GPU:0"), Gpu("GPU:1")])
    monkeypatch.setattr(tf.config.experimental, "set_memory_growth", grow)
    assert share_gpus() == ("GPU:1 was in use before: it keeps all the memory that it took",)
    assert grown == [("GPU:0", True)]
