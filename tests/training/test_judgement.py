"""Data judged by short trainings: what hurts is dropped, what helps stays, and the caller's model does not move."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from bigmodel.config import AugmentConfig, TrainConfig
from bigmodel.data import Data, as_data
from bigmodel.data.synthesis import synthesize
from bigmodel.errors import DataError
from bigmodel.evaluation import Metric
from bigmodel.training import choose_augmentation, judge_synthesis
from bigmodel.training.judgement import Score

TRAIN = TrainConfig(batch_size=32)


@pytest.fixture(scope="module")
def data() -> Data:
    """Bars in the upper or the lower half, at any column: a vertical flip changes the class, a horizontal one not."""
    rng = np.random.default_rng(0)
    y = np.arange(480) % 2
    x = rng.normal(0, 0.4, (480, 8, 8, 1))
    columns = rng.integers(0, 8, 480)
    for i in range(480):
        x[i, 4 * y[i] : 4 * y[i] + 4, columns[i]] += 1
    return as_data((x.astype("float32"), y), test_fraction=0)


@pytest.fixture(scope="module")
def model(data) -> keras.Model:
    keras.utils.set_random_seed(0)
    layers = [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(16, "relu")]
    model = keras.Sequential([*layers, keras.layers.Dense(2, "softmax")])
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(data.train.batches(32, shuffle=True), epochs=5, shuffle=False, verbose=0)
    return model


def test_auto_drops_the_flip_that_changes_the_class_and_keeps_the_other(model, data):
    before = model.get_weights()
    choice, again = (choose_augmentation(model, data, AugmentConfig(), train=TRAIN, seed=1) for _ in range(2))
    assert "flip_vertical" not in choice.config.transforms and "flip_horizontal" in choice.config.transforms
    none, flipped = choice.scores["none"], choice.scores["flip_vertical"]
    assert flipped.metric < none.metric and flipped.loss > none.loss
    assert any("flip_vertical dropped" in note for note in choice.notes)
    assert choice.notes[0].startswith("augmentation: ") and "flip_horizontal" in choice.notes[0].split(" kept of ")[0]
    assert choice == again
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert data.train.augmentation is None


def test_named_transforms_are_an_order_and_cost_nothing(model, data):
    config = AugmentConfig(["flip_vertical"])
    choice = choose_augmentation(model, data, config)
    assert (choice.config, choice.scores, choice.notes) == (config, {}, ())


def test_synthetic_samples_are_judged_by_the_validation_metric(model, data):
    good = synthesize(model, data, "interpolate", share=1.0)
    wrong = as_data(Data(train=(data.train.arrays()[0], 1 - data.train.arrays()[1]), validation=data.validation))
    fine, bad = (judge_synthesis(model, data, other, train=TRAIN) for other in (good, wrong))
    assert fine.plain == bad.plain and not bad.helps and bad.synthetic.metric < 0.8 < fine.synthetic.metric
    assert bad.note.startswith("synthetic samples do not help: validation accuracy ")
    assert fine.helps == (
        fine.synthetic.metric > fine.plain.metric
        or (fine.synthetic.metric == fine.plain.metric and fine.synthetic.loss < fine.plain.loss)
    )


def test_worse_is_a_worse_metric_and_a_clearly_higher_loss():
    up, down = Metric("accuracy", True), Metric("mae", False)
    none = Score(0.9, 1.0)
    assert Score(0.89, 1.1).is_worse(none, up) and Score(0.8, float("nan")).is_worse(none, up)
    assert not Score(0.8, 1.04).is_worse(none, up) and not Score(0.9, 2.0).is_worse(none, up)
    assert not Score(0.8, 1.1).is_worse(none, down) and Score(1.0, 1.1).is_worse(none, down)


def test_without_validation_there_is_nothing_to_judge_by(model, data):
    with pytest.raises(DataError, match="nothing to judge by"):
        choose_augmentation(model, Data(train=data.train, calibration=data.calibration), AugmentConfig())
