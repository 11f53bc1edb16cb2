from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from bigmodel.callbacks import MagnitudePruning
from bigmodel.config import TrainConfig
from bigmodel.data import Data, as_data
from bigmodel.errors import DirectoryError
from bigmodel.evaluation.metric import Metric
from bigmodel.training import clone, fit, pretrain
from bigmodel.training.rates import warmup_cosine
from bigmodel.training.selection import BestWeights

layers = keras.layers
CONFIG = TrainConfig(epochs=4, batch_size=32, patience=10)


@pytest.fixture(scope="module")
def data():
    generator = np.random.default_rng(0)
    x = generator.normal(size=(400, 12)).astype("float32")
    y = (x[:, :3].argmax(axis=1) + 3 * (x[:, 3] > 0)).astype("int32")
    return as_data(Data(train=(x[:320], y[:320]), validation=(x[320:], y[320:])))


def network(optimizer=None, **compiled):
    keras.utils.set_random_seed(3)
    hidden = [layers.Dense(24, "relu"), layers.Dropout(0.3), layers.BatchNormalization()]
    model = keras.Sequential([keras.Input((12,)), *hidden, layers.Dense(6, "softmax")])
    compiled.setdefault("metrics", ["accuracy"])
    model.compile(optimizer or keras.optimizers.Adam(0.02), "sparse_categorical_crossentropy", **compiled)
    return model


def measured(model, data):
    return model.evaluate(data.validation.batches(32), verbose=0, return_dict=True)


def same(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one.get_weights(), other.get_weights(), strict=True))


def test_it_learns_in_place_and_leaves_the_compilation_as_it_was(data):
    model = network()
    before = measured(model, data)
    result = fit(model, data, CONFIG, learning_rate=0.02)
    after = measured(model, data)
    assert after["accuracy"] > before["accuracy"] + 0.1
    assert result.epochs == 4 and len(result.history["val_accuracy"]) == 4 and result.seconds > 0
    assert max(result.history["val_accuracy"]) == pytest.approx(after["accuracy"])
    assert type(model.optimizer) is keras.optimizers.Adam
    assert float(model.optimizer.learning_rate) == pytest.approx(0.02)
    assert model.loss == "sparse_categorical_crossentropy"


def test_the_same_seed_gives_the_same_weights_and_another_one_others(data):
    models = [network() for _ in range(3)]
    histories = [fit(m, data, CONFIG, seed=seed).history for m, seed in zip(models, (5, 5, 6), strict=True)]
    assert same(models[0], models[1]) and histories[0] == histories[1]
    assert not same(models[0], models[2])


def test_a_worse_model_never_comes_back(data):
    model = network()
    fit(model, data, CONFIG, learning_rate=0.02)
    before, weights = measured(model, data), clone(model)
    result = fit(model, data, TrainConfig(epochs=3, batch_size=32, learning_rate=10.0))
    assert min(result.history["val_loss"]) > before["loss"]
    assert same(model, weights)
    assert "kept the weights it had" in result.notes


@pytest.mark.parametrize(
    ("name", "samples", "epochs", "kept"),
    [
        # One standard error of 0.9 on 6000 samples is 0.0039.
        ("accuracy", 6000, [(0.897, 0.29)], 1),  # lower within chance, of lower loss
        ("accuracy", 6000, [(0.897, 0.31)], 0),  # of higher loss
        ("accuracy", 6000, [(0.895, 0.20)], 0),  # lower beyond chance
        ("accuracy", 100, [(0.897, 0.29)], 1),
        ("accuracy", 100, [(0.890, 0.20)], 0),  # few samples are no excuse for a whole point
        ("accuracy", None, [(0.899, 0.20)], 0),  # a stream of unknown length
        ("auc", 6000, [(0.899, 0.20)], 0),  # no share of the samples
        ("accuracy", 6000, [(0.898, 0.29), (0.897, 0.28), (0.899, 0.30)], 3),  # trained epochs go by the metric
        ("accuracy", 6000, [(0.897, 0.29), (0.898, 0.25), (0.898, 0.24)], 3),  # and by the loss where it is equal
        ("accuracy", 6000, [(0.901, 0.40), (0.899, 0.20)], 1),
    ],
)
def test_the_start_stands_where_it_is_better_beyond_chance(name, samples, epochs, kept):
    model = network()
    best = BestWeights(
        Metric(name, True), patience=9, is_comparable=lambda: True, samples=samples, start={name: 0.9, "loss": 0.3}
    )
    best.set_model(model)
    states = [model.get_weights()]
    best.on_train_begin()
    for epoch, (value, loss) in enumerate(epochs):
        model.set_weights([weight + 1 for weight in model.get_weights()])
        states.append(model.get_weights())
        best.on_epoch_end(epoch, {f"val_{name}": value, "val_loss": loss})
    best.on_train_end()
    assert best.epoch == kept
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), states[kept], strict=True))


def test_a_lower_loss_replaces_the_start_where_the_validation_splits_size_leaves_room_for_chance(data):
    def accuracy_of_doubt(target, prediction):  # falls a little as the network grows sure, which its loss rewards
        return 0.9 - 0.005 * keras.ops.max(prediction, axis=-1)

    trained = network(metrics=[accuracy_of_doubt])
    fit(trained, data, CONFIG, learning_rate=0.02)
    (x, y, _), (vx, vy, _) = data.train.arrays(), data.validation.arrays()
    unsized = tf.data.Dataset.from_tensor_slices((vx, vy)).filter(lambda *_: True).batch(32)
    settings = TrainConfig(epochs=1, batch_size=32, learning_rate=3e-3)
    for split, kept in ((data.validation, "kept epoch 1 of 1"), (unsized, "kept the weights it had")):
        model = clone(trained)
        before = measured(model, data)
        splits = data if split is data.validation else as_data(Data(train=(x, y), validation=split))
        result = fit(model, splits, settings)
        loss, value = result.history["val_loss"][0], result.history["val_accuracy_of_doubt"][0]
        assert loss < before["loss"] and value < before["accuracy_of_doubt"]
        assert kept in result.notes


def test_training_stops_after_patience_without_a_better_epoch(data):
    model = network()
    result = fit(model, data, TrainConfig(epochs=20, batch_size=32, learning_rate=0.0, patience=2))
    assert result.epochs == 2


@pytest.mark.parametrize(("epochs", "stopped_after"), [(4, 3), (6, 3), (16, 8)])
def test_without_an_order_patience_is_half_of_the_epochs_as_gains_come_when_the_rate_falls(data, epochs, stopped_after):
    result = fit(network(), data, TrainConfig(epochs=epochs, batch_size=32, learning_rate=0.0))
    assert result.epochs == stopped_after


def test_the_start_does_not_compete_with_pruned_epochs(data):
    model = network()
    fit(model, data, CONFIG, learning_rate=0.02)
    fit(model, data, TrainConfig(epochs=6, batch_size=32, patience=1), callbacks=[MagnitudePruning(0.9)])
    assert int((np.asarray(model.layers[0].kernel) == 0).sum()) == round(0.9 * 288)


def test_the_peak_is_a_tenth_of_the_compiled_rate_unless_said_otherwise(data):
    class Rates(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(float(self.model.optimizer.learning_rate))

    for config, keyword, peak in ((None, None, 0.002), (None, 0.5, 0.5), (0.07, 0.5, 0.07)):
        seen: list[float] = []
        settings = TrainConfig(epochs=4, batch_size=32, learning_rate=config)
        fit(network(), data, settings, learning_rate=keyword, callbacks=[Rates()])
        assert len(seen) == 40 and max(seen) == pytest.approx(peak, rel=1e-3)
        assert seen[0] < 0.5 * peak and seen[-1] < 0.01 * peak


def test_warmup_cosine_follows_its_formula():
    schedule = warmup_cosine(2.0, 1000)
    for step in range(0, 1001, 25):
        rise = 0.2 + 1.8 * step / 100
        fall = 1 + np.cos(np.pi * (step - 100) / 900)
        assert float(schedule(step)) == pytest.approx(rise if step < 100 else fall, abs=1e-4)


def test_pretraining_keeps_the_compiled_rate(data):
    class Rates(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append(float(self.model.optimizer.learning_rate))

    seen: list[float] = []
    model = network()
    result = pretrain(model, data, TrainConfig(pretrain_epochs=3, batch_size=32), callbacks=[Rates()])
    assert seen == pytest.approx([0.02] * 3) and result.epochs == 3
    assert measured(model, data)["accuracy"] > 0.4


def test_no_epochs_change_nothing(data):
    model = network()
    before = clone(model)
    assert fit(model, data, CONFIG, epochs=0).epochs == 0
    assert same(model, before)


class Interruption(Exception):
    pass


class Interrupt(keras.callbacks.Callback):
    def __init__(self, epoch):
        super().__init__()
        self.at = epoch

    def on_train_batch_begin(self, batch, logs=None):
        if self.epoch == self.at and batch >= 4:
            raise Interruption

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch


PARTS = {
    "adam and dropout": (lambda: {}, list),
    "pruning": (lambda: {}, lambda: [MagnitudePruning(0.8, frequency=3)]),
    "averaged momentum": (lambda: {"optimizer": keras.optimizers.SGD(0.1, momentum=0.9, use_ema=True)}, list),
    "steps_per_execution": (lambda: {"steps_per_execution": 4}, list),
}
MORE_PARTS = {"averaged momentum", "steps_per_execution"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in MORE_PARTS else []) for name in PARTS]
)
def test_an_interrupted_run_ends_bit_equal_to_an_unbroken_one(name, data, tmp_path):
    compiled, callbacks = PARTS[name]
    config = TrainConfig(epochs=5, batch_size=32, learning_rate=0.01, patience=4)
    unbroken, broken = network(**compiled()), network(**compiled())
    whole = fit(unbroken, data, config, callbacks=callbacks(), seed=2)
    at = 3
    with pytest.raises(Interruption):
        fit(broken, data, config, callbacks=[*callbacks(), Interrupt(at)], seed=2, checkpoint=tmp_path / "run" / "fit")
    resumed = network(**compiled())  # What a new process starts from.
    keras.utils.set_random_seed(99)
    rest = fit(resumed, data, config, callbacks=callbacks(), seed=2, checkpoint=tmp_path / "run" / "fit")
    assert f"resumed after epoch {at}" in rest.notes
    assert same(resumed, unbroken)
    assert rest.history == whole.history and rest.epochs == whole.epochs
    again = network(**compiled())  # A run that was finished is not trained again.
    assert fit(again, data, config, callbacks=callbacks(), seed=2, checkpoint=tmp_path / "run" / "fit").epochs == 5
    assert same(again, unbroken)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["fit.npz"]


def test_early_stopping_is_not_forgotten_by_a_resumed_run(data, tmp_path):
    config = TrainConfig(epochs=20, batch_size=32, learning_rate=0.0, patience=3)
    with pytest.raises(Interruption):
        fit(network(), data, config, callbacks=[Interrupt(2)], checkpoint=tmp_path / "fit")
    assert fit(network(), data, config, checkpoint=tmp_path / "fit").epochs == 3
    assert fit(network(), data, config, checkpoint=tmp_path / "fit").epochs == 3


def test_the_checkpoint_of_another_run_is_refused(data, tmp_path):
    fit(network(), data, CONFIG, epochs=1, checkpoint=tmp_path / "fit")
    with pytest.raises(DirectoryError, match="belongs to another run"):
        fit(network(), data, CONFIG, epochs=1, seed=1, checkpoint=tmp_path / "fit")


@pytest.mark.parametrize("precision", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_is_for_the_training_alone(precision, data):
    class Policies(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            seen.extend(layer.compute_dtype for layer in self.model.layers)

    seen: list[str] = []
    model = network()
    before = measured(model, data)
    config = TrainConfig(epochs=4, batch_size=32, learning_rate=0.02, precision=precision)
    result = fit(model, data, config, callbacks=[Policies()])
    half = precision.removeprefix("mixed_")
    assert seen == [half, half, half, "float32"]
    assert {layer.dtype_policy.name for layer in model._flatten_layers()} == {"float32"}
    assert {variable.dtype for variable in model.weights} == {"float32"}
    assert type(model.optimizer) is keras.optimizers.Adam
    assert measured(model, data)["loss"] < before["loss"] and f"trained in {precision}" in result.notes


def test_precision_auto_is_float32_without_a_gpu(data):
    import tensorflow as tf

    if tf.config.list_physical_devices("GPU"):
        pytest.skip("there is a GPU")
    assert fit(network(), data, CONFIG, epochs=1, learning_rate=0.02).notes == ("kept epoch 1 of 1",)


@pytest.mark.slow
def test_two_replicas_of_a_strategy(python):
    code = """
import keras, numpy as np, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from bigmodel.callbacks import MagnitudePruning
from bigmodel.config import TrainConfig
from bigmodel.data import Data, as_data
from bigmodel.training import clone, fit
x = np.random.default_rng(0).normal(size=(256, 12)).astype("float32")
y = x[:, :3].argmax(axis=1)
model = keras.Sequential([keras.Input((12,)), keras.layers.Dense(20, "relu"), keras.layers.Dense(3, "softmax")])
model.compile(keras.optimizers.Adam(0.02), "sparse_categorical_crossentropy", metrics=["accuracy"])
teacher = clone(model)
data = as_data(Data(train=(x, y), validation=(x, y)))
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
config = TrainConfig(epochs=4, batch_size=32, learning_rate=0.02, strategy=strategy)
before = model.evaluate(x, y, verbose=0, return_dict=True)
result = fit(model, data, config, callbacks=[MagnitudePruning(0.5)], teacher=teacher)
after = model.evaluate(x, y, verbose=0, return_dict=True)
print(result.notes[0], after["accuracy"] > before["accuracy"], int((np.asarray(model.layers[0].kernel) == 0).sum()))
"""
    assert python(code).splitlines()[-1] == "trained on 2 replicas True 120"


def test_a_train_step_of_ones_own_is_what_trains(data):
    class Counting(keras.Model):
        def train_step(self, batch):
            self.steps.assign_add(1)
            return super().train_step(batch)

        @property
        def steps(self):
            if not hasattr(self, "_steps"):
                self._steps = keras.Variable(0, dtype="int32", trainable=False)
            return self._steps

    inputs = keras.Input((12,))
    model = Counting(inputs, layers.Dense(6, "softmax")(inputs))
    assert int(model.steps) == 0
    model.compile("adam", "sparse_categorical_crossentropy")
    fit(model, data, CONFIG, epochs=2)
    assert int(model.steps) == 20


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_a_stream_of_unknown_length_is_trained_with_a_rate_by_epoch(data):
    import tensorflow as tf

    x, y, _ = data.train.arrays()
    stream = tf.data.Dataset.from_tensor_slices((x, y)).filter(lambda x, y: y >= 0).batch(32)
    streamed = as_data(Data(train=stream, validation=data.validation))
    model = network()
    before = measured(model, data)
    result = fit(model, streamed, CONFIG, learning_rate=0.02)
    rates = result.history["learning_rate"]
    assert rates == pytest.approx([0.01 * (1 + np.cos(np.pi * epoch / 4)) for epoch in range(4)], rel=1e-5)
    assert measured(model, data)["loss"] < before["loss"]


def test_one_epoch_over_a_stream_of_unknown_length_reaches_the_end_of_its_schedules():
    x = np.random.default_rng(0).normal(size=(256, 12)).astype("float32")
    stream = tf.data.Dataset.from_generator(
        lambda: zip(x, x[:, :3].argmax(axis=1), strict=True),
        output_signature=(tf.TensorSpec((12,), tf.float32), tf.TensorSpec((), tf.int64)),
    ).batch(32)
    model = network()
    data = as_data(stream, model=model)
    assert int(data.train.batches(32).cardinality()) < 0
    fit(model, data, TrainConfig(epochs=1), callbacks=[MagnitudePruning(0.5)])
    assert int((np.asarray(model.layers[0].kernel) == 0).sum()) == 144
