from __future__ import annotations

import keras
import numpy as np
import pytest

from bigmodel.callbacks import Distillation
from bigmodel.config import TrainConfig
from bigmodel.data import Data, as_data
from bigmodel.errors import ArgumentError, ModelError
from bigmodel.training import clone, fit
from bigmodel.training.distillation import SOFT_SHARE, TEMPERATURE

layers = keras.layers
X = np.random.default_rng(0).normal(size=(64, 5)).astype("float32")
INTS = (np.arange(64) % 3).astype("int32")
WEIGHTS = np.linspace(0.1, 2.0, 64).astype("float32")


def network(units, activation, loss, seed):
    keras.utils.set_random_seed(seed)
    model = keras.Sequential([keras.Input((5,)), layers.Dense(units, activation, kernel_regularizer="l2")])
    model.compile(keras.optimizers.SGD(0.1), loss)
    return model


def softmax(logits):
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def logits_of(model):
    kernel, bias = model.get_weights()
    return X.astype("float64") @ kernel + bias


def divergence(teacher, student):
    p, q = softmax(teacher / TEMPERATURE), softmax(student / TEMPERATURE)
    return np.sum(p * np.log(p / q), axis=-1) * TEMPERATURE**2


def binary(teacher, student):
    p, z = 1 / (1 + np.exp(-teacher / TEMPERATURE)), student / TEMPERATURE
    return np.mean(np.logaddexp(0, z) - p * z, axis=-1) * TEMPERATURE**2


def squared(teacher, student):
    return np.mean((teacher - student) ** 2, axis=-1)


CASES = {
    "softmax": (3, "softmax", "sparse_categorical_crossentropy", INTS, divergence),
    "logits": (3, None, keras.losses.SparseCategoricalCrossentropy(from_logits=True), INTS, divergence),
    "sigmoid": (1, "sigmoid", "binary_crossentropy", INTS[:, None] % 2, binary),
    "logit": (1, None, keras.losses.BinaryCrossentropy(from_logits=True), INTS[:, None] % 2, binary),
    "regression": (2, None, "mse", X[:, :2], squared),
}


@pytest.mark.parametrize("weight", [None, WEIGHTS], ids=["plain", "weighted"])
@pytest.mark.parametrize("name", CASES)
def test_the_loss_is_the_compiled_one_and_the_teachers_by_its_formula(name, weight):
    units, activation, loss, labels, formula = CASES[name]
    student, teacher = network(units, activation, loss, 1), network(units, activation, loss, 2)
    hard = student.evaluate(X, labels, sample_weight=weight, verbose=0, batch_size=64, return_dict=True)["loss"]
    soft = np.mean(formula(logits_of(teacher), logits_of(student)) * (1 if weight is None else weight))
    expected = (1 - SOFT_SHARE) * hard + SOFT_SHARE * soft
    student.optimizer.learning_rate = 0.0
    split = (X, labels) if weight is None else (X, labels, weight)
    settings = {"batch_size": 64, "validation_data": split, "callbacks": [Distillation(teacher)], "verbose": 0}
    history = student.fit(X, labels, sample_weight=weight, **settings).history
    assert history["loss"][0] == pytest.approx(expected, rel=1e-4)
    assert history["val_loss"][0] == pytest.approx(hard, rel=1e-4)  # it sees the compiled loss alone


def test_the_student_is_a_plain_model_afterwards_and_the_teacher_unchanged():
    student, teacher = network(*CASES["softmax"][:3], 1), network(*CASES["softmax"][:3], 2)
    before, trainable = teacher.get_weights(), teacher.trainable
    student.fit(X, INTS, callbacks=[Distillation(teacher)], verbose=0)
    assert "compute_loss" not in vars(student)
    assert teacher.trainable is trainable
    assert all((a == b).all() for a, b in zip(teacher.get_weights(), before, strict=True))
    assert len(student.layers) == 1
    reference = clone(student)
    for model in (student, reference):
        model.fit(X, INTS, verbose=0, shuffle=False)
    np.testing.assert_allclose(student.get_weights()[0], reference.get_weights()[0], rtol=1e-6)


def test_without_labels_of_its_own_it_comes_closer_to_the_teacher():
    student, teacher = network(*CASES["softmax"][:3], 1), network(*CASES["softmax"][:3], 2)
    labels = teacher.predict(X, verbose=0).argmax(axis=-1)
    data = as_data(Data(train=(X, labels), validation=(X, labels)))
    before = divergence(logits_of(teacher), logits_of(student)).mean()
    config = TrainConfig(epochs=5, batch_size=16, learning_rate=0.3, distillation=0.5)
    result = fit(student, data, config, teacher=teacher)
    assert divergence(logits_of(teacher), logits_of(student)).mean() < 0.7 * before
    assert f"distilled from {teacher.name}" in result.notes


def test_the_teachers_share_falls_to_zero_over_the_training():
    student, teacher = network(*CASES["softmax"][:3], 1), network(*CASES["softmax"][:3], 2)
    student.optimizer.learning_rate = 0.0
    hard = student.evaluate(X, INTS, verbose=0, batch_size=64)
    soft = divergence(logits_of(teacher), logits_of(student)).mean()
    shares = [0.8 * (1 - step / 4) for step in range(4)]
    expected = [(1 - share) * hard + share * soft for share in shares]
    told = Distillation(teacher, share=0.8)
    for _ in range(2):  # a second training of the same optimizer starts anew
        losses = student.fit(X, INTS, batch_size=64, epochs=4, callbacks=[told], verbose=0).history["loss"]
        np.testing.assert_allclose(losses, expected, rtol=1e-4)
    student.optimizer.iterations.assign(2)  # one that goes on does not
    settings = {"batch_size": 64, "epochs": 4, "callbacks": [told], "verbose": 0}
    losses = student.fit(X, INTS, initial_epoch=2, **settings).history["loss"]
    np.testing.assert_allclose(losses, expected[2:], rtol=1e-4)


@pytest.mark.parametrize(("ordered", "default", "is_used"), [(None, 0.0, False), (None, 0.5, True), (0.0, 0.5, False)])
def test_the_config_decides_before_the_step(ordered, default, is_used):
    student, teacher = network(*CASES["softmax"][:3], 1), network(*CASES["softmax"][:3], 2)
    config = TrainConfig(epochs=1, distillation=ordered)
    result = fit(student, as_data((X, INTS)), config, teacher=teacher, distillation=default)
    assert (f"distilled from {teacher.name}" in result.notes) is is_used


def test_a_distance_of_ones_own_takes_the_place():
    class Squared(Distillation):
        def soft_loss(self, targets, predictions, sample_weight):
            return 100 * keras.ops.mean(keras.ops.square(targets[0] - predictions[0]))

    student, teacher = network(*CASES["softmax"][:3], 1), network(*CASES["softmax"][:3], 2)
    expected = 100 * np.mean((teacher.predict(X, verbose=0) - student.predict(X, verbose=0)) ** 2)
    loss = student.fit(X, INTS, batch_size=64, callbacks=[Squared(teacher, share=1.0)], verbose=0).history["loss"][0]
    assert loss == pytest.approx(expected, rel=1e-4)


def test_after_a_training_that_broke_off_the_loss_comes_back():
    class Stop(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            raise KeyboardInterrupt

    student, teacher = network(*CASES["softmax"][:3], 1), network(*CASES["softmax"][:3], 2)
    told = Distillation(teacher)
    with pytest.raises(KeyboardInterrupt):
        student.fit(X, INTS, callbacks=[told, Stop()], verbose=0)
    told.release()
    assert "compute_loss" not in vars(student)


def test_two_teachers_teach_one_model_and_leave_it():
    student = network(*CASES["softmax"][:3], 1)
    teachers = [network(*CASES["softmax"][:3], seed) for seed in (2, 3)]
    hard = student.evaluate(X, INTS, verbose=0, batch_size=64)
    parts = [divergence(logits_of(teacher), logits_of(student)).mean() for teacher in teachers]
    callbacks = [Distillation(teacher) for teacher in teachers]
    loss = student.fit(X, INTS, batch_size=64, callbacks=callbacks, verbose=0).history["loss"][0]
    assert loss == pytest.approx((hard + parts[0]) / 4 + parts[1] / 2, rel=1e-4)
    student.optimizer.learning_rate = 0.0
    hard = student.evaluate(X, INTS, verbose=0, batch_size=64)
    assert student.fit(X, INTS, batch_size=64, verbose=0).history["loss"][0] == pytest.approx(hard, rel=1e-4)


def test_a_teacher_of_other_outputs_is_refused_before_the_training():
    student = network(*CASES["softmax"][:3], 1)
    for teacher in (student, network(*CASES["regression"][:3], 2)):
        with pytest.raises(ModelError, match="Fix"):
            student.fit(X, INTS, callbacks=[Distillation(teacher)], verbose=0)
    for settings in ({"share": 1.5}, {"temperature": 0.0}, {"share": "half"}):
        with pytest.raises(ArgumentError, match=next(iter(settings))):
            Distillation(student, **settings)
