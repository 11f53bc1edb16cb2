from __future__ import annotations

import copy
import gc
import itertools
import pickle
import weakref

import keras
import numpy as np
import pytest

from bigmodel.callbacks import KeepZeros, MagnitudePruning
from bigmodel.errors import ArgumentError, ModelError
from bigmodel.pruning import magnitude_mask, prunable, sparsity_of

SPARSITY = 0.8
SIZES = (600, 120)  # 20 x 30 and 30 x 4
X = np.random.default_rng(0).normal(size=(256, 20)).astype("float32")
Y = np.random.default_rng(1).integers(0, 4, 256)


def network(optimizer="adam", constraint=None, **compiled):
    keras.utils.set_random_seed(0)
    hidden = keras.layers.Dense(30, activation="relu", kernel_constraint=constraint)
    model = keras.Sequential([keras.Input((20,)), hidden, keras.layers.Dense(4, activation="softmax", dtype="float32")])
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"], **compiled)
    return model


def train(model, *callbacks, epochs=3, **arguments):
    return model.fit(X, Y, batch_size=32, epochs=epochs, verbose=0, callbacks=list(callbacks), **arguments)


def kernels(model):
    return [np.asarray(layer.kernel) for layer in model.layers if hasattr(layer, "kernel")]


def zeros(model):
    return [int((kernel == 0).sum()) for kernel in kernels(model)]


def asked(sparsity=SPARSITY):
    return [round(sparsity * size) for size in SIZES]


def restoring():
    # Training accuracy is highest at first, when nothing is pruned yet: the worst case to restore.
    return keras.callbacks.EarlyStopping("loss", mode="max", patience=10, restore_best_weights=True)


COMPILED = {
    "plain": {},
    "jit_compile": {"jit_compile": True},
    "steps_per_execution": {"steps_per_execution": 3},
    "gradient accumulation": {"optimizer": lambda: keras.optimizers.Adam(gradient_accumulation_steps=3)},
    "weight averaging": {"optimizer": lambda: keras.optimizers.Adam(use_ema=True, ema_momentum=0.9)},
    "overwriting average": {"optimizer": lambda: keras.optimizers.Adam(use_ema=True, ema_overwrite_frequency=5)},
    "run_eagerly": {"run_eagerly": True},
    "momentum and decay": {"optimizer": lambda: keras.optimizers.SGD(0.1, momentum=0.9, weight_decay=1e-3)},
}


@pytest.mark.parametrize("name", COMPILED)
def test_kernels_hold_exact_zeros_after_fit_however_the_model_is_compiled(name):
    settings = {key: value() if callable(value) else value for key, value in COMPILED[name].items()}
    model = network(**settings)
    train(model, epochs=1)  # The step has been traced before.
    callback = MagnitudePruning(SPARSITY, frequency=3)
    before = kernels(model)
    train(model, callback)
    assert zeros(model) == asked()
    assert all((new != old).any() for new, old in zip(kernels(model), before, strict=True))
    train(model, epochs=1)  # The masks are gone from the step again.
    assert zeros(model) == [0, 0]
    train(model, callback)  # One instance, a second fit.
    assert zeros(model) == asked()


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float16", "bfloat16"])
def test_kernels_hold_exact_zeros_in_every_precision(policy):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        model = network()
    finally:
        keras.config.set_dtype_policy(before)
    train(model, MagnitudePruning(SPARSITY, frequency=3))
    assert zeros(model) == asked()


def test_masks_act_within_the_step_and_only_grow():
    class Watch(keras.callbacks.Callback):
        def __init__(self):
            super().__init__()
            self.seen = []

        def on_train_batch_end(self, batch, logs=None):
            self.seen.append([kernel == 0 for kernel in kernels(self.model)])

    model, watch = network(), Watch()
    train(model, MagnitudePruning(SPARSITY, begin_step=4, end_step=16, frequency=2), watch)
    assert not any(zero.any() for step in watch.seen[:4] for zero in step)
    for earlier, later in itertools.pairwise(watch.seen):
        assert all((new >= old).all() for old, new in zip(earlier, later, strict=True))
    # After 10 finished steps the schedule stands at half of its way: 1 - (1 - 6 / 12) ** 3.
    assert [int(zero.sum()) for zero in watch.seen[10]] == [round(SPARSITY * 0.875 * size) for size in SIZES]
    assert [int(zero.sum()) for zero in watch.seen[16]] == asked()


def test_pruning_at_once_equals_pruning_before_training():
    model, reference = network(), network()
    masks = [magnitude_mask(kernel, SPARSITY) for kernel in kernels(reference)]
    for layer, mask in zip(reference.layers, masks, strict=True):
        layer.kernel.assign(layer.kernel * mask)
    train(model, MagnitudePruning(SPARSITY, schedule="constant"), shuffle=False)
    train(reference, KeepZeros(), shuffle=False)
    for ours, theirs, mask in zip(kernels(model), kernels(reference), masks, strict=True):
        np.testing.assert_array_equal(ours, theirs)
        np.testing.assert_array_equal(ours != 0, mask)


def test_no_sparsity_equals_plain_training_bit_for_bit():
    model, plain = network(), network()
    train(model, MagnitudePruning(0.0), shuffle=False)
    train(plain, shuffle=False)
    for ours, theirs in zip(model.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("position", ["before", "after"])
def test_restored_weights_are_pruned_wherever_early_stopping_stands(position):
    model = network()
    stopping, pruning = restoring(), MagnitudePruning(SPARSITY, frequency=2)
    train(model, *((stopping, pruning) if position == "before" else (pruning, stopping)))
    assert stopping.best_weights is not None
    assert zeros(model) == asked()


def test_a_history_of_the_callers_own_may_stand_anywhere():
    for callbacks in (
        [keras.callbacks.History(), MagnitudePruning(SPARSITY)],
        [MagnitudePruning(SPARSITY), keras.callbacks.History()],
    ):
        model = network()
        train(model, *callbacks)
        assert zeros(model) == asked()
        assert [layer.kernel.constraint for layer in model.layers] == [None, None]


def test_a_fit_that_stops_before_its_schedule_ends_still_ends_pruned():
    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.stop_training = True

    model = network()
    train(model, Stop(), MagnitudePruning(SPARSITY))
    assert zeros(model) == asked()


def test_checkpoints_written_on_the_way_are_plain_and_masked(tmp_path):
    model = network()
    saver = keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.keras")
    train(model, MagnitudePruning(SPARSITY, frequency=2), saver)
    saved = keras.models.load_model(tmp_path / "3.keras")
    assert zeros(saved) == asked()
    assert len(saved.variables) == len(network().variables)


def test_the_model_is_as_before_but_for_its_weights():
    limit = keras.constraints.MaxNorm(1.0)
    model = network(constraint=limit)
    names = [variable.path for variable in model.variables]
    train(model, MagnitudePruning(SPARSITY))
    assert [layer.kernel.constraint for layer in model.layers] == [limit, None]
    assert [variable.path for variable in model.variables] == names
    assert "on_train_end" not in vars(model.history)
    copy.deepcopy(model.history.history), pickle.dumps(model.history.history)
    assert model.layers[0].kernel_constraint is limit


def test_the_callers_constraint_acts_together_with_the_masks():
    model = network(optimizer=keras.optimizers.SGD(1.0), constraint=keras.constraints.MaxNorm(0.5))
    train(model, MagnitudePruning(SPARSITY))
    assert zeros(model) == asked()
    assert np.linalg.norm(kernels(model)[0], axis=0).max() <= 0.5 + 1e-5


class Failure(Exception):
    pass


class Fail(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        raise Failure


@pytest.mark.parametrize("again", ["the same callback", "another callback"])
def test_a_fit_that_raised_leaves_nothing_behind_in_the_next(again):
    limit = keras.constraints.MaxNorm(1.0)
    model = network(constraint=limit)
    callback = MagnitudePruning(SPARSITY)
    with pytest.raises(Failure):
        train(model, callback, Fail())
    if again == "another callback":
        callback = MagnitudePruning(0.25)
    train(model, callback)
    assert [layer.kernel.constraint for layer in model.layers] == [limit, None]
    assert zeros(model) == asked(callback.sparsity)
    train(model, epochs=1)
    assert zeros(model) == [0, 0]


def test_copies_are_independent_before_and_after_a_fit():
    callback = MagnitudePruning(SPARSITY, where=lambda layer: True, frequency=3)
    first, second = network(), network()
    early = copy.deepcopy(callback)
    train(first, callback)
    late = copy.deepcopy(callback)
    assert late.where is callback.where and late.frequency == 3
    for clone in (early, late):
        train(second, clone)
        assert zeros(second) == asked()
    gone = weakref.ref(first)
    del first, callback
    gc.collect()
    assert gone() is None  # The copy holds on to no model of its original's.


def test_two_callbacks_share_a_fit():
    model = network()
    hidden, head = model.layers
    train(
        model,
        MagnitudePruning(0.9, where=lambda layer: layer is hidden),
        MagnitudePruning(0.5, where=lambda layer: layer is head),
    )
    assert zeros(model) == [540, 60]
    train(model, KeepZeros(), MagnitudePruning(0.95, where=lambda layer: layer is hidden))
    assert zeros(model) == [570, 60]
    assert [layer.kernel.constraint for layer in model.layers] == [None, None]


def test_pruning_goes_on_from_the_zeros_that_are_there():
    model = network()
    train(model, MagnitudePruning(0.5))
    before = [kernel == 0 for kernel in kernels(model)]
    train(model, MagnitudePruning(SPARSITY, frequency=2))
    assert zeros(model) == asked()
    assert all((now >= then).all() for now, then in zip([k == 0 for k in kernels(model)], before, strict=True))


def test_a_kernel_that_starts_as_zeros_is_trained():
    model = network()
    model.layers[1].kernel.assign(np.zeros((30, 4)))
    train(model, MagnitudePruning(SPARSITY))
    assert zeros(model) == asked()


def test_frozen_layers_are_left_alone_unless_asked_for():
    model = network()
    model.layers[0].trainable = False
    model.compile("adam", "sparse_categorical_crossentropy")
    train(model, MagnitudePruning(SPARSITY))
    assert zeros(model) == [0, asked()[1]]
    train(model, MagnitudePruning(SPARSITY, frozen=True))
    assert zeros(model) == asked()


def test_shared_layers_nested_and_subclassed_models():
    shared = keras.layers.Dense(20, activation="relu")
    inner = keras.Sequential([keras.Input((20,)), shared, keras.layers.Dense(20)])
    inputs = keras.Input((20,))
    functional = keras.Model(inputs, keras.layers.Dense(4, activation="softmax")(inner(shared(inputs))))

    class Subclassed(keras.Model):
        def __init__(self):
            super().__init__()
            self.body, self.head = functional, keras.layers.Dense(4, activation="softmax")

        def call(self, x):
            return self.head(self.body(x))

    for model in (functional, Subclassed()):
        model.compile("adam", "sparse_categorical_crossentropy")
        train(model, MagnitudePruning(SPARSITY))
        found = prunable(model)
        assert len(found) == (3 if model is functional else 4)
        for _, kernel in found:
            assert int((np.asarray(kernel) == 0).sum()) == round(SPARSITY * np.asarray(kernel).size)


@pytest.mark.filterwarnings("ignore:Your input ran out of data")  # Keras says so when it learns the length.
def test_a_stream_of_unknown_length():
    import tensorflow as tf

    def stream():
        for start in range(0, 256, 32):
            yield X[start : start + 32], Y[start : start + 32]

    signature = (tf.TensorSpec((None, 20)), tf.TensorSpec((None,), tf.int64))
    data = tf.data.Dataset.from_generator(stream, output_signature=signature)
    model = network()
    with pytest.raises(ArgumentError, match="unknown length"):
        model.fit(data, epochs=1, verbose=0, shuffle=False, callbacks=[MagnitudePruning(SPARSITY)])
    pruning = MagnitudePruning(SPARSITY, frequency=2)
    model.fit(data, epochs=4, verbose=0, shuffle=False, callbacks=[pruning])
    assert zeros(model) == asked() and pruning.settled


def test_a_fit_that_starts_at_a_later_epoch_has_the_whole_schedule():
    class Zeros(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.first = getattr(self, "first", None) or sum(zeros(self.model))

    model, watch = network(), Zeros()
    train(model, epochs=2)
    train(model, MagnitudePruning(SPARSITY, frequency=1), watch, epochs=5, initial_epoch=2)
    assert zeros(model) == asked()
    assert 0 < watch.first < sum(asked())


def test_settled_says_when_the_sparsity_is_reached():
    class Watch(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            states.append(pruning.settled)

    states: list[bool] = []
    pruning = MagnitudePruning(SPARSITY)
    assert not pruning.settled
    train(network(), pruning, Watch(), epochs=6)
    assert states == [False, False, False, True, True, True]


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"sparsity": 1.0}, "sparsity"),
        ({"sparsity": -0.1}, "sparsity"),
        ({"sparsity": 0.5, "schedule": "cubic"}, "schedule"),
        ({"sparsity": 0.5, "begin_step": -1}, "begin_step"),
        ({"sparsity": 0.5, "begin_step": 5, "end_step": 4}, "end_step"),
        ({"sparsity": 0.5, "frequency": 0}, "frequency"),
        ({"sparsity": 0.5, "schedule": "constant", "end_step": 4}, "end_step"),
        ({"sparsity": 0.5, "schedule": lambda step: 1.0, "begin_step": 4}, "begin_step"),
    ],
)
def test_arguments_that_contradict_are_refused(arguments, name):
    with pytest.raises(ArgumentError, match=name):
        MagnitudePruning(**arguments)


def test_a_schedule_that_does_not_fit_into_the_training_is_refused_before_it():
    model = network()
    before = model.get_weights()
    with pytest.raises(ArgumentError, match="24 steps"):
        train(model, MagnitudePruning(SPARSITY, end_step=1000))
    assert all((new == old).all() for new, old in zip(model.get_weights(), before, strict=True))


def test_a_model_without_kernels_is_refused():
    with pytest.raises(ModelError, match="no kernel"):
        train(network(), MagnitudePruning(SPARSITY, where=lambda layer: False))


def test_a_schedule_of_ones_own():
    model = network()
    pruning = MagnitudePruning(SPARSITY, schedule=lambda step: min(step / 12, 1.0), frequency=4)
    train(model, pruning)
    assert zeros(model) == asked()


def test_keep_zeros_acts_on_pruned_kernels_alone():
    model = network()
    pruned = kernels(model)[0] * magnitude_mask(kernels(model)[0], 0.6)
    model.layers[0].kernel.assign(pruned)
    model.layers[1].kernel.assign(np.zeros((30, 4)))
    train(model, KeepZeros(), restoring())
    np.testing.assert_array_equal(kernels(model)[0] == 0, pruned == 0)
    assert sparsity_of(kernels(model)[1]) < 1
    assert [layer.kernel.constraint for layer in model.layers] == [None, None]


@pytest.mark.slow
def test_two_replicas_of_a_strategy(python):
    code = """
import keras, numpy as np, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from bigmodel.callbacks import KeepZeros, MagnitudePruning
x = np.random.default_rng(0).normal(size=(128, 20)).astype("float32")
y = np.random.default_rng(1).integers(0, 4, 128)
with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(30), keras.layers.Dense(4, activation="softmax")])
    model.compile("adam", "sparse_categorical_crossentropy")
model.fit(x, y, batch_size=32, verbose=0)
for callbacks in ([MagnitudePruning(0.8, frequency=2)], [KeepZeros()], []):
    model.fit(x, y, batch_size=32, epochs=3, verbose=0, callbacks=callbacks)
    replicas = [np.asarray(v) for v in model.layers[0].kernel.value.values]
    print(len(replicas), bool((replicas[0] == replicas[1]).all()), [int((r == 0).sum()) for r in replicas])
"""
    lines = python(code).splitlines()[-3:]
    assert lines == ["2 True [480, 480]", "2 True [480, 480]", "2 True [0, 0]"]
