"""The metric per group and share, against models with the channels really removed; and the choice for a cost."""

import json
import math
import re
from xml.etree import ElementTree

import keras
import numpy as np
import pytest
from keras import layers
from networks import sequential_cnn, vit
from reference import randomise, samples

from bigmodel.config import PruneConfig, TrainConfig
from bigmodel.data import Data, as_data
from bigmodel.errors import ArgumentError
from bigmodel.evaluation import evaluate_model
from bigmodel.pruning import Sensitivity, prune_model, sensitivity
from bigmodel.pruning.channels import (
    CostModel,
    choose_channels,
    choose_for_cost,
    find_channels,
    remove_channels,
    score_channels,
)
from bigmodel.pruning.channels.sensitivity import _Probe


@pytest.mark.parametrize(
    "network", [sequential_cnn, pytest.param(vit, marks=pytest.mark.slow)], ids=lambda network: network.__name__
)
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


# --- the cache ------------------------------------------------------------------------------------------------------


@pytest.fixture
def small():
    """A network with two groups, and data for it."""
    model = randomise(keras.Sequential([keras.Input((4,)), layers.Dense(8, name="a"), layers.Dense(6, name="b")]))
    model.add(layers.Dense(2, name="head"))
    model.compile("sgd", "mse")
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 4)).astype("float32"), rng.normal(size=(40, 2)).astype("float32")
    return model, Data(train=(x, y), validation=(x, y))


@pytest.fixture
def measured_groups(monkeypatch):
    """The names of the groups that are measured, each time one is; "" for the whole model."""
    names = []
    measure = _Probe.metric

    def metric(self, group=None, keep=None):
        names.append("" if group is None else group.name)
        return measure(self, group, keep)

    monkeypatch.setattr(_Probe, "metric", metric)
    return names


def test_the_same_call_again_measures_nothing(small, measured_groups, tmp_path):
    model, data = small
    first = sensitivity(model, data, shares=(0.5,), cache=tmp_path / "folder" / "cache.json")
    assert measured_groups == ["", "a", "b"]
    assert sensitivity(model, data, shares=(0.5,), cache=tmp_path / "folder" / "cache.json") == first
    assert measured_groups == ["", "a", "b"]
    assert first == sensitivity(model, data, shares=(0.5,))
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["cache.json"]


def test_a_measurement_that_was_cut_off_goes_on_with_the_group_it_was_at(small, measured_groups, monkeypatch, tmp_path):
    model, data = small
    whole = sensitivity(model, data, shares=(0.25, 0.5))
    measure = _Probe.metric

    def cut_off(self, group=None, keep=None):
        if group is not None and group.name == "b":
            raise KeyboardInterrupt
        return measure(self, group, keep)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(_Probe, "metric", cut_off)
        sensitivity(model, data, shares=(0.25, 0.5), cache=tmp_path / "cache.json")
    measured_groups.clear()
    assert sensitivity(model, data, shares=(0.25, 0.5), cache=tmp_path / "cache.json") == whole
    assert measured_groups == ["b", "b"]


def other_weights(model, data):
    model.get_layer("head").bias.assign([1.0, 2.0])
    return {}


def other_samples(model, data):
    return {"seed": 1, "samples": 20}


@pytest.mark.parametrize(
    "change",
    [
        other_weights,
        other_samples,
        lambda model, data: {"shares": (0.25,)},
        lambda model, data: {"criterion": "l1"},
        lambda model, data: {"criterion": lambda group: np.arange(group.size)},
    ],
    ids=["weights", "samples", "shares", "criterion", "function"],
)
def test_a_cache_of_another_measurement_is_replaced(small, measured_groups, tmp_path, change):
    model, data = small
    settings = {"shares": (0.5,), "cache": tmp_path / "cache.json"}
    sensitivity(model, data, **settings)
    settings.update(change(model, data))
    measured_groups.clear()
    again = sensitivity(model, data, **settings)
    assert measured_groups == ["", "a", "b"]
    assert again == sensitivity(model, data, **{**settings, "cache": None})


def test_more_layers_only_measure_those_that_are_new(small, measured_groups, tmp_path):
    model, data = small
    sensitivity(model, data, shares=(0.5,), where=lambda layer: layer.name == "a", cache=tmp_path / "cache.json")
    assert set(sensitivity(model, data, shares=(0.5,), cache=tmp_path / "cache.json").values) == {"a", "b"}
    assert measured_groups == ["", "a", "b"]


@pytest.mark.parametrize("text", ["", "[]", '{"values": {}}', "\x80 no JSON"])
def test_a_file_of_another_kind_is_not_overwritten(small, tmp_path, text):
    path = tmp_path / "other.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ArgumentError, match=r"other\.json"):
        sensitivity(*small, cache=path)
    assert path.read_text(encoding="utf-8") == text


@pytest.mark.parametrize("shares", [(), (0.0,), (1.0,), (0.5, 0.25), (0.5, 0.5)])
def test_shares_that_can_not_be_measured_are_refused(small, shares):
    with pytest.raises(ArgumentError, match="shares"):
        sensitivity(*small, shares=shares)


# --- shown, written, used -------------------------------------------------------------------------------------------


def measurement(groups=3):
    values = {f"block{number}<a&b>": (0.9 - number / 100, 0.8 - number / 100) for number in range(groups)}
    return Sensitivity("accuracy", 0.92, True, (0.25, 0.5), values)


def test_a_rise_of_a_loss_counts_relative_and_what_is_no_number_counts_as_lost():
    whole = Sensitivity("loss", 0.5, False, (0.25, 0.5), {"a": (0.54, 0.56), "b": (0.4, math.nan), "c": (0.6, 0.5)})
    assert whole.largest_shares(0.1) == {"a": 0.25, "b": 0.25, "c": 0.0}
    assert str(whole).splitlines()[2].split() == ["b", "0.4000", "nan"]


def test_a_measurement_survives_json():
    whole = measurement()
    assert Sensitivity.from_dict(json.loads(json.dumps(whole.to_dict()))) == whole
    for change in ({"version": 2}, {"more": 1}):
        with pytest.raises(ArgumentError, match="not a Sensitivity"):
            Sensitivity.from_dict({**whole.to_dict(), **change})


@pytest.mark.parametrize("groups", [0, 1, 40])
def test_the_plot_has_a_panel_for_each_group_the_most_sensitive_first(groups, tmp_path):
    whole = measurement(groups)
    drawing = ElementTree.fromstring(whole.plot(tmp_path / "plot.svg").read_text(encoding="utf-8"))
    svg = "{http://www.w3.org/2000/svg}"
    titles = [text.find(f"{svg}title").text for text in drawing.iter(f"{svg}text") if text.get("class") == "name"]
    assert titles == list(reversed(whole.values))
    assert sum(line.get("class") == "reference" for line in drawing.iter(f"{svg}line")) == groups
    assert len(list(drawing.iter(f"{svg}circle"))) == 2 * groups
    width, height = float(drawing.get("width")), float(drawing.get("height"))
    for panel in drawing.findall(f"{svg}g"):
        x, y = map(float, re.findall(r"[\d.]+", panel.get("transform")))
        points = [tuple(map(float, p.split(","))) for p in panel.find(f"{svg}polyline").get("points").split()]
        assert all(0 <= x + dx <= width and 0 <= y + dy <= height for dx, dy in points)
        (line,) = [line for line in panel.iter(f"{svg}line") if line.get("class") == "reference"]
        heights = [dy for _, dy in points]
        assert heights[0] == float(line.get("y1")) and heights == sorted(heights)  # from the baseline down


@pytest.mark.parametrize("show", [Sensitivity.to_html, Sensitivity._repr_html_], ids=["page", "notebook"])
def test_the_page_shows_every_figure_and_loads_nothing(show):
    text = show(measurement())
    assert all(f'<td class="num">{value:.4f}</td>' in text for row in measurement().values.values() for value in row)
    assert "block0&lt;a&amp;b&gt;" in text and "<a&b>" not in text and "accuracy 0.9200" in text
    assert not re.search(r"(src|href)=|url\(|@import", text)


def test_a_model_is_pruned_by_the_shares_that_were_measured_to_be_free(small):
    model, data = small
    for name, gone in (("a", 2), ("b", 3)):  # so many channels that nothing reads
        layer = model.get_layer({"a": "b", "b": "head"}[name])
        kernel = layer.kernel.numpy()
        kernel[:gone] = 0.0
        layer.kernel.assign(kernel)
    x = data.train[0]
    labelled = (x, model.predict(x, verbose=0) + 0.01)  # a loss of 1e-4, which everything that is read would raise
    data = Data(train=labelled, validation=labelled)
    reads = {"a": model.get_layer("b").kernel, "b": model.get_layer("head").kernel}

    def worth(group):
        return np.abs(reads[group.name].numpy()).sum(axis=-1)

    shares = sensitivity(model, data, shares=(0.25, 0.5, 0.75), criterion=worth).largest_shares(max_drop=1e-3)
    assert shares == {"a": 0.25, "b": 0.5}
    config = PruneConfig(sparsity=shares, granularity="channel", criterion=worth)
    smaller = prune_model(model, data, config, train=TrainConfig(epochs=0))
    assert [layer.units for layer in smaller.layers if hasattr(layer, "units")] == [6, 3, 2]
    np.testing.assert_allclose(smaller.predict(x, verbose=0), model.predict(x, verbose=0), rtol=1e-4, atol=1e-4)
