"""Spaces: what they declare, under which conditions, and what a trial understands."""

from __future__ import annotations

import itertools

import keras
import keras_tuner
import pytest

from bigmodel.config import QuantizeConfig, Target, TrainConfig, TuneConfig
from bigmodel.errors import ArgumentError
from bigmodel.tuning import VALUES, Bounds, joint_space, training_space
from bigmodel.tuning.settings import channels_config, check_values, quantize_config, train_config, zeros_config
from bigmodel.tuning.space import bounds_of, checked, space_of


def declared(space, bounds, **values):
    hp = keras_tuner.HyperParameters()
    hp.values |= values
    return space(hp, bounds)


def test_every_value_of_the_ready_made_spaces_is_one_that_trials_understand():
    values = declared(joint_space, Bounds(has_dropout=True, from_start=True), bits=4, optimizer="adamw")
    assert set(values) <= set(VALUES)
    assert {"optimizer", "learning_rate", "dropout", "initializer", "augmentation", "channels", "bits"} <= set(values)


def test_values_of_a_condition_that_does_not_hold_are_missing():
    bounds = Bounds()
    assert "weight_decay" in declared(training_space, bounds, optimizer="adamw")
    assert "weight_decay" not in declared(training_space, bounds, optimizer="sgd")
    assert "clipping" in declared(joint_space, bounds, bits=4)
    assert "clipping" not in declared(joint_space, bounds, bits=8)


def test_what_was_ordered_is_not_looked_for():
    values = declared(joint_space, Bounds(fixed=("bits", "sparsity", "channels")))
    assert not {"bits", "sparsity", "channels", "clipping"} & set(values)


def test_a_space_of_ones_own_is_checked():
    with pytest.raises(ArgumentError, match="learnrate"):
        space_of(TuneConfig(space=lambda hp: {"learnrate": 1.0}), Bounds())(keras_tuner.HyperParameters())
    assert checked({"bits": 4, "clipping": None}) == {"bits": 4}
    with pytest.raises(ArgumentError, match="bits=5"):
        check_values({"bits": 5})


def test_values_go_into_the_configs_of_the_steps():
    values = {"channels": 0.25, "sparsity": 0.5, "bits": 4, "clipping": "mse", "epochs": 3, "batch_size": 16}
    assert zeros_config(values).sparsity == 0.5
    config = quantize_config(values)
    assert (config.bits, config.clipping, config.method, config.activations) == (4, "mse", "aware", "dynamic")
    train = train_config(TrainConfig(), values, times=2)
    assert (train.epochs, train.batch_size, train.learning_rate) == (6, 16, None)
    assert train.distillation is None and train_config(TrainConfig(), {"distillation": 0.0}).distillation == 0.0
    assert train.patience is None  # half of the epochs that there are
    assert train_config(TrainConfig(epochs=4, patience=3), {"epochs": 10}).patience == 8  # 3 of 4, of 10
    assert zeros_config({}) is quantize_config({"bits": 16}) is None


def test_more_goes_where_more_is_saved():
    hidden = [keras.layers.Dense(width, name=f"d{width}") for width in (256, 128, 64)]
    model = keras.Sequential([keras.Input((784,)), *hidden, keras.layers.Dense(10)])
    gone = channels_config(model, {"channels": 0.1}).sparsity
    assert gone["d256"] > gone["d128"] > gone["d64"] > 0
    equal = [keras.layers.Dense(50, name=name) for name in "abc"]
    model = keras.Sequential([keras.Input((50,)), *equal, keras.layers.Dense(50)])
    gone = channels_config(model, {"channels": 0.25}).sparsity
    assert gone["a"] == gone["b"] == gone["c"] > 0.5


@pytest.mark.parametrize("share", [0.02, 0.1, 0.3, 0.9])
def test_channels_go_until_the_parameters_are_few_enough(share):
    hidden = [keras.layers.Dense(width, name=f"d{width}") for width in (60, 40, 9)]
    model = keras.Sequential([keras.Input((50,)), *hidden, keras.layers.Dense(3)])
    config = channels_config(model, {"channels": share})
    kept = [round(width * (1 - config.sparsity.get(f"d{width}", 0.0))) for width in (60, 40, 9)]
    widths = [50, *kept, 3]
    parameters = sum((a + 1) * b for a, b in itertools.pairwise(widths))
    narrowest = sum((a + 1) * b for a, b in itertools.pairwise([50, 8, 8, 8, 3]))
    assert parameters <= max(share * model.count_params(), narrowest)
    assert min(kept) >= 8 and abs(kept[0] / 60 - max(kept[1], 8) / 40) < 1 / 40 + 8 / 60
    assert channels_config(model, {"channels": 1.0}) is None


def test_an_order_of_bits_keeps_its_other_settings():
    ordered = QuantizeConfig(4, method="post_training", rounding="nearest")
    config = quantize_config({"bits": 4, "activations": "float"}, ordered)
    assert (config.method, config.rounding, config.activations) == ("post_training", "nearest", "float")


def test_sensitivity_tells_the_least_share_of_channels(trained, data):
    bounds = bounds_of(trained, data, Target(), TrainConfig(), channels=True, seed=0)
    strict = bounds_of(trained, data, Target(), TrainConfig(), channels=False, seed=0)
    assert 0.01 <= bounds.least_channels <= 0.25 and strict.least_channels == 1.0
    assert not bounds.has_dropout and not bounds.from_start
