"""The metric per group and share, against models with the channels really removed; and the choice for a cost."""

import keras
import numpy as np
import pytest
from keras import layers
from networks import sequential_cnn, vit
from reference import randomise, samples

from bigmodel.data import Data, as_data
from bigmodel.errors import ArgumentError
from bigmodel.evaluation import evaluate_model
from bigmodel.pruning.channels import (
    CostModel,
    choose_channels,
    choose_for_cost,
    find_channels,
    remove_channels,
    score_channels,
    sensitivity,
)


@pytest.mark.parametrize("network", [sequential_cnn, vit], ids=lambda network: network.__name__)
def test_values_are_those_of_models_without_the_channels(network):
    model = randomise(network())
    model.compile("sgd", "mse", metrics=["mae"])
    x = samples(model, 40)
    outputs = model.output_shape[-1]
    y = np.random.default_rng(0).normal(size=(40, outputs)).astype("float32")
    data = as_data(Data(train=(x, y), validation=(x, y)), model=model)
    before = model.get_weights()
    measured = sensitivity(model, data, shares=(0.5,))
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))
    assert measured.metric == "mae" and not measured.higher_is_better
    channels = find_channels(model)
    scores = score_channels(model, channels, "l2")
    assert set(measured.values) == {group.name for group in channels.groups}
    for name, (value,) in measured.values.items():
        smaller = remove_channels(model, choose_channels(channels, scores, {name: 0.5}), channels=channels)
        expected = evaluate_model(smaller, data.validation, like=model).metric
        assert value == pytest.approx(expected, rel=1e-4)
    assert measured.baseline == pytest.approx(evaluate_model(model, data.validation).metric)
    assert str(measured).splitlines()[0].startswith("mae") and len(str(measured).splitlines()) == 2 + len(
        channels.groups
    )


@pytest.mark.parametrize("bound", [{"macs": 0.4}, {"parameters": 0.6}, {"macs": 0.5, "parameters": 0.5}])
@pytest.mark.parametrize("ranking", ["layer", "global"])
def test_the_choice_for_a_cost_meets_it_and_not_by_much(bound, ranking):
    x = keras.Input((16, 16, 3))
    y = x
    for width in (32, 48, 64):
        y = layers.Conv2D(width, 3, padding="same", activation="relu")(y)
    model = keras.Model(x, layers.Dense(10)(layers.GlobalAveragePooling2D()(y)))
    channels = find_channels(model)
    costs = CostModel(model, channels)
    keep = choose_for_cost(channels, score_channels(model, channels, "l2"), costs, ranking=ranking, **bound)
    whole, left = costs.after({}), costs.after(keep)
    used = {"macs": left.macs / whole.macs, "parameters": left.parameters / whole.parameters}
    assert all(used[name] <= share for name, share in bound.items())
    assert max(used[name] / share for name, share in bound.items()) > 0.9


def test_scores_per_cost_let_the_dear_channels_go_first():
    x = keras.Input((16, 16, 3))
    y = layers.Conv2D(8, 3, padding="same", activation="relu", name="dear")(x)
    y = layers.GlobalAveragePooling2D()(layers.Conv2D(8, 3, strides=8, activation="relu", name="cheap")(y))
    model = keras.Model(x, layers.Dense(2)(y))
    channels = find_channels(model)
    costs = CostModel(model, channels)
    scores = {"dear": np.arange(8.0) + 1, "cheap": np.arange(8.0) + 0.5}
    plain = choose_for_cost(channels, scores, costs, macs=0.7)
    per_cost = choose_for_cost(channels, scores, costs, macs=0.7, per_cost=True)
    assert "cheap" in plain and "cheap" not in per_cost
    assert int(per_cost["dear"].sum()) >= int(plain["dear"].sum()) - 1


def test_a_cost_out_of_reach_is_refused():
    model = sequential_cnn()
    channels = find_channels(model)
    scores, costs = score_channels(model, channels, "l2"), CostModel(model, channels)
    for bound in ({"macs": 1e-4}, {}):
        with pytest.raises(ArgumentError, match="can't be reached"):
            choose_for_cost(channels, scores, costs, **bound)
