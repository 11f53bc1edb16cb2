"""The order of samples follows from the seed and the epoch alone."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from bigmodel.data import Split, as_data, epoch_order
from bigmodel.errors import ArgumentError

SIZE = 20


def numbered(*, stream: bool = False) -> Split:
    x = np.arange(float(SIZE))[:, None]
    y = np.arange(SIZE)
    source = tf.data.Dataset.from_tensor_slices((x, y)) if stream else (x, y)
    return as_data(source, validation_fraction=0, test_fraction=0).train


def order(dataset: tf.data.Dataset) -> list[int]:
    return [int(label) for _, y in dataset.as_numpy_iterator() for label in y]


def test_unshuffled_batches_keep_the_order():
    assert order(numbered().batches(6)) == list(range(SIZE))


def test_the_order_of_arrays_is_the_permutation_of_seed_and_epoch():
    batches = numbered().batches(6, shuffle=True, seed=3)
    for epoch in range(3):
        expected = np.random.default_rng((3, epoch)).permutation(SIZE)
        assert order(batches) == expected.tolist() == epoch_order(SIZE, 3, epoch).tolist()


@pytest.mark.parametrize("stream", [False, True])
def test_epochs_differ_and_seeds_repeat(stream):
    first = numbered(stream=stream).batches(6, shuffle=True, seed=3)
    again = numbered(stream=stream).batches(6, shuffle=True, seed=3)
    other = numbered(stream=stream).batches(6, shuffle=True, seed=4)
    orders = [order(first) for _ in range(3)]
    assert orders == [order(again) for _ in range(3)]
    assert len({tuple(o) for o in [*orders, order(other)]}) == 4
    assert all(sorted(o) == list(range(SIZE)) for o in orders)


@pytest.mark.parametrize("stream", [False, True])
def test_a_given_epoch_has_its_order_in_every_iteration(stream):
    split = numbered(stream=stream)
    counted = split.batches(6, shuffle=True, seed=1)
    orders = [order(counted) for _ in range(3)]
    fixed = split.batches(6, shuffle=True, seed=1, epoch=2)
    assert order(fixed) == order(fixed) == orders[2]
    epoch = iter([1, 0])
    asked = split.batches(6, shuffle=True, seed=1, epoch=lambda: next(epoch))
    assert [order(asked), order(asked)] == [orders[1], orders[0]]


def test_keras_sees_the_number_of_batches():
    assert int(numbered().batches(6, shuffle=True).cardinality()) == 4
    assert int(numbered(stream=True).batches(6, shuffle=True).cardinality()) == 4


def test_a_run_resumes_with_the_order_it_would_have_had():
    seen: list[list[int]] = []

    class Recorder(keras.layers.Layer):
        def call(self, x):
            return x * keras.ops.ones(())

    def run(epochs, first=0):
        epoch = first
        inputs = keras.Input((1,))
        model = keras.Model(inputs, keras.layers.Dense(1)(Recorder()(inputs)))
        model.compile("sgd", "mse")

        def current():
            seen.append(order(numbered().batches(6, shuffle=True, seed=5, epoch=epoch)))
            return epoch

        class Count(keras.callbacks.Callback):
            def on_epoch_begin(self, number, logs=None):
                nonlocal epoch
                epoch = number

        split = numbered()
        batches = split.batches(6, shuffle=True, seed=5, epoch=current)
        model.fit(batches, epochs=epochs, initial_epoch=first, callbacks=[Count()], shuffle=False, verbose=0)

    run(3)
    # Keras may look at the first batch to build the model before the first epoch.
    whole = seen[-3:]
    run(3, first=2)
    assert seen[-1] == whole[2] == epoch_order(SIZE, 5, 2).tolist()
    assert len({tuple(o) for o in whole}) == 3


@pytest.mark.parametrize(
    ("name", "value"), [("batch_size", 0), ("batch_size", 2.5), ("seed", -1), ("batch_size", True)]
)
def test_a_wrong_batch_size_or_seed_is_refused(name, value):
    with pytest.raises(ArgumentError, match=name):
        numbered().batches(**{name: value})


@pytest.mark.slow
def test_batches_feed_a_distributed_fit(python):
    # Two virtual devices can only be made before TensorFlow starts.
    code = """
import numpy as np, tensorflow as tf, keras
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from bigmodel.data import as_data
x, y = np.random.default_rng(0).normal(size=(50, 3)).astype("float32"), np.arange(50) % 2
def fit(strategy):
    keras.utils.set_random_seed(0)
    with strategy.scope():
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    split = as_data((x, y), model=model).train
    # Under a strategy Keras looks at a batch before the first epoch, which the count of iterations would include.
    model.fit(split.batches(16, shuffle=True, seed=0, epoch=lambda: 1), epochs=2, shuffle=False, verbose=0)
    return model.get_weights()[0]
two = fit(tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]))
one = fit(tf.distribute.get_strategy())
print(bool(np.allclose(one, two, atol=1e-5)))
"""
    assert python(code).strip() == "True"
