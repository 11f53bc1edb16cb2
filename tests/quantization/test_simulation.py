"""Models turned into simulations and back: names, outputs, what is split, folded and left out, what is handed on."""

import keras
import numpy as np
import pytest
import small_networks
from keras import layers as L
from small_networks import NETWORKS, chain, flat

from bigmodel.config import QuantizeConfig
from bigmodel.graph import walk
from bigmodel.quantization import FakeQuantize, Quantized, is_simulation
from bigmodel.quantization.rebuild import Point
from bigmodel.quantization.simulation import (
    activations_of,
    canonical,
    grids,
    plain,
    quantized_layers,
    range_layers,
    simulate,
    taps,
    with_activations,
)

DYNAMIC = QuantizeConfig(bits=8, activations="dynamic")
RNG = np.random.default_rng(0)


def state(model):
    return model.get_config(), [w.tobytes() for w in model.get_weights()], [id(layer) for layer in model.layers]


def input_names(model):
    return [layer.name for layer in model.layers if isinstance(layer, L.InputLayer)]


QUICK = ("depthwise_separable", "residual", "two_inputs_two_outputs", "nested", "normalised_before_dense", "operators")


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in NETWORKS])
def test_names_outputs_and_the_callers_model_stay(name):
    model = small_networks.make(name)
    before = state(model)
    simulation, _ = simulate(model, DYNAMIC)
    assert state(model) == before
    assert simulation.name == model.name
    functional = keras.Model(model.inputs, model.outputs)
    assert input_names(simulation) == input_names(functional)
    assert simulation.output_names == functional.output_names
    x = small_networks.samples(model, 2)
    expected, outputs = model.predict(x, verbose=0), simulation.predict(x, verbose=0)
    assert keras.tree.map_structure(np.shape, outputs) == keras.tree.map_structure(np.shape, expected)
    folded = {layer.name for layer in walk(model)} - {layer.name for layer in walk(simulation)}
    assert bool(folded) == (name == "normalised_before_dense")


@pytest.mark.parametrize("name", ["mlp", "cnn", "residual", "lstm", "nested", "two_inputs_two_outputs", "shared_layer"])
def test_a_simulation_computes_as_the_float_model_of_its_grids(name):
    model = small_networks.make(name)
    simulation, _ = simulate(model, QuantizeConfig(bits=4, activations="float"))
    x = small_networks.samples(model, 8)
    back = plain(simulation)
    assert not is_simulation(back) and is_simulation(simulation) and not is_simulation(model)
    for expected, outputs, real in zip(flat(simulation(x)), flat(back(x)), flat(model(x)), strict=True):
        np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-5)
        assert np.abs(outputs - real).max() > 1e-3  # four bits show


def test_what_the_grid_holds_stays_through_every_form():
    simulation, _ = simulate(small_networks.make("cnn"), DYNAMIC)
    for layer in quantized_layers(simulation):
        layer.fix_scales()
    first = grids(simulation)
    static = with_activations(simulation, "static")
    for again in (
        grids(with_activations(static, "dynamic")),
        grids(static),
        grids(with_activations(simulation, "float")),
    ):
        for a, b in zip(first, again, strict=True):
            np.testing.assert_array_equal(a.codes, b.codes)
            np.testing.assert_array_equal(a.scale, b.scale)
    grid = next(g for g in first if g.codes.shape[1] == 27)
    kernel = plain(simulation).get_layer(grid.layer).kernel.numpy()
    np.testing.assert_array_equal(grid.codes.astype(np.float32) * grid.scale[:, None], kernel.reshape(27, 8).T)


@pytest.mark.parametrize("activations", ["float", "dynamic", "static"])
def test_it_says_how_it_treats_activations(activations):
    simulation, _ = simulate(small_networks.make("mlp"), DYNAMIC)
    name = quantized_layers(simulation)[0].name
    ranges = {Point(name, 0, 0): (0.0, 1.0)} if activations == "static" else None
    assert activations_of(with_activations(simulation, activations, ranges=ranges)) == activations


def test_a_range_stands_where_it_was_asked_for():
    simulation, _ = simulate(small_networks.make("shared_layer"), DYNAMIC)
    shared = quantized_layers(simulation)[0].name
    ranges = {Point(shared, 0, 0): (0.0, 1.0), Point(shared, 1, 0): (0.0, 2.0)}
    static = with_activations(simulation, "static", ranges=ranges)
    found = range_layers(static)
    assert {name: round(float(layer.high), 3) for name, layer in found.items()} == {
        f"{shared}_range": 1.0, f"{shared}_range_1": 2.0
    }  # fmt: skip
    x = small_networks.samples(static, 16)
    inner = {layer.name: layer for layer in quantized_layers(static)}
    h = found[f"{shared}_range"](inner[shared](x))
    h = found[f"{shared}_range_1"](inner[shared](h))
    (last,) = [layer for name, layer in inner.items() if name != shared]
    np.testing.assert_allclose(static(x), last(h), rtol=1e-6)


def test_losses_by_output_name_still_find_their_outputs():
    model = small_networks.make("two_inputs_two_outputs")
    simulation, _ = simulate(model, DYNAMIC)
    static = with_activations(simulation, "static", ranges={Point("kind_output", 0, 0): (0.0, 1.0)})
    x = small_networks.samples(model, 16)
    y = {"kind": np.arange(16) % 4, "size": np.zeros((16, 1))}
    for compiled in (simulation, static):
        compiled.compile(optimizer="sgd", loss={"kind": "sparse_categorical_crossentropy", "size": "mse"})
        assert np.isfinite(compiled.fit(x, y, verbose=0).history["loss"][0])
        assert set(compiled.predict(x, verbose=0)) == {"kind", "size"}


# --- canonical ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("arguments", [{}, {"strides": 2}, {"dilation_rate": 2}, {"depth_multiplier": 2}], ids=str)
def test_a_separable_convolution_is_its_two_convolutions(padding, arguments):
    model = chain(L.SeparableConv2D(5, 3, padding=padding, activation="relu", name="s", **arguments), shape=(9, 9, 3))
    model.layers[0].set_weights([RNG.normal(size=w.shape) for w in model.get_weights()])
    split = canonical(model)
    assert [layer.name for layer in split.layers[1:]] == ["s_depthwise", "s"]
    x = RNG.normal(size=(4, 9, 9, 3)).astype("float32")
    np.testing.assert_array_equal(split(x), model(x))


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("arguments", [{}, {"center": False}, {"scale": False}], ids=str)
def test_a_normalisation_is_folded_into_the_dense_layers_after_it(heads, arguments):
    inputs = keras.Input((6,))
    normal = L.BatchNormalization(name="norm", **arguments)(L.Dense(8, activation="relu")(inputs))
    outputs = [L.Dense(3, use_bias=i == 0, name=f"head{i}")(L.Dropout(0.5)(normal)) for i in range(heads)]
    model = keras.Model(inputs, outputs)
    for weight in model.weights:
        if "seed" not in weight.path:
            positive = "variance" in weight.path
            weight.assign(RNG.uniform(0.5, 2.0, weight.shape) if positive else RNG.normal(size=weight.shape))
    before = state(model)
    simulation, skipped = simulate(model, DYNAMIC)
    assert state(model) == before
    folded = [s for s in skipped if s.layer == "norm"]
    assert len(folded) == 1 and all(f"head{i}" in folded[0].reason for i in range(heads))
    assert "norm" not in {layer.name for layer in walk(simulation)}
    x = RNG.normal(size=(32, 6)).astype("float32")
    for a, b in zip(keras.tree.flatten(canonical(model)(x)), keras.tree.flatten(model(x)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "between",
    [[], [L.Dropout(0.5)], [L.BatchNormalization()], [L.Dense(6), L.BatchNormalization(), L.Dense(5)]],
    ids=len,
)
def test_a_bias_is_carried_through_the_fully_connected_layers_after_it(between):
    model = chain(L.Dense(8, name="first"), *between, L.Dense(3, use_bias=False, name="last"), shape=(6,))
    for weight in model.weights:
        if "seed" not in weight.path:
            positive = "variance" in weight.path
            weight.assign(RNG.uniform(0.5, 2.0, weight.shape) if positive else RNG.normal(size=weight.shape))
    before = state(model)
    plain = canonical(model)
    assert state(model) == before
    assert not next(layer for layer in plain.layers if isinstance(layer, L.Dense)).use_bias
    assert plain.get_layer("last").use_bias and plain.get_layer("last") is not model.get_layer("last")
    x = RNG.normal(size=(32, 6)).astype("float32")
    np.testing.assert_allclose(plain(x), model(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "after",
    [
        lambda x: L.Dense(3)(L.ReLU()(x)),
        lambda x: L.Add()([L.Dense(8)(x), x]),
        lambda x: [L.Dense(3)(x), x],
        lambda x: L.Activation("tanh")(x),
    ],
    ids=["activation between", "read twice", "an output too", "no dense"],
)
def test_a_normalisation_that_others_read_stays(after):
    inputs = keras.Input((6,))
    model = keras.Model(inputs, after(L.BatchNormalization(name="norm")(L.Dense(8)(inputs))))
    simulation, _ = simulate(model, DYNAMIC)
    assert "norm" in {layer.name for layer in walk(simulation)}


# --- skipped --------------------------------------------------------------------------------------------------------


def reasons(model, **config):
    return {s.layer: s.reason for s in simulate(model, QuantizeConfig(**config))[1]}


def test_what_is_not_as_asked_is_said_with_its_reason():
    model = chain(
        L.Conv2D(4, 3, name="a"), L.DepthwiseConv2D(3, name="b"), L.Flatten(), L.Reshape((36, 4)),
        L.LSTM(3, name="c"), L.SpectralNormalization(L.Dense(3), name="d"), L.Dense(2, name="e"), shape=(10, 10, 3),
    )  # fmt: skip
    found = reasons(model, bits=2, activations="dynamic", where=lambda layer: layer.name != "e")
    assert set(found) == {"a", "b", "d", "e"}
    assert "no 2-bit Conv2D" in found["a"] and "4 bits" in found["a"]
    assert "no 2-bit DepthwiseConv2D" in found["b"] and "8 bits" in found["b"]
    assert "stays float" in found["d"] and "SpectralNormalization" in found["d"]
    assert "`where`" in found["e"]


def test_kernels_inside_a_layer_stay_dynamic_in_a_static_file_and_that_is_said():
    model = chain(L.LSTM(4, name="lstm"), L.Dense(2), shape=(5, 3))
    assert "run time" in reasons(model, bits=8, activations="static")["lstm"]
    assert reasons(model, bits=8, activations="dynamic") == reasons(model, bits=8, activations="float") == {}


def test_where_sees_the_layers_of_the_canonical_model():
    model = chain(L.SeparableConv2D(4, 3, name="s"), shape=(8, 8, 3))
    simulation, _ = simulate(model, QuantizeConfig(bits=8, where=lambda layer: layer.name == "s_depthwise"))
    assert [layer.name for layer in quantized_layers(simulation)] == ["s_depthwise"]


# --- grids and taps -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mlp", "depthwise_separable", "embedding", "lstm"])
def test_grids_are_codes_by_channel_in_the_files_order(name):
    simulation, _ = simulate(small_networks.make(name), DYNAMIC)
    variables = {(q.name, path): (v, w) for q in quantized_layers(simulation) for path, v, w, _ in q.grids()}
    found = grids(simulation)
    assert {(g.layer, g.path) for g in found} == set(variables)
    for grid in found:
        variable, quantization = variables[grid.layer, grid.path]
        w = variable.numpy()
        axes = [axis % w.ndim for axis in quantization.axes]
        channels = int(np.prod([w.shape[axis] for axis in axes], dtype=int))
        assert grid.codes.dtype == np.int8 and grid.scale.shape == (channels,) and len(grid.codes) == channels
        assert np.abs(grid.codes).max() <= 127
        by_channel = np.moveaxis(w, axes, range(len(axes))).reshape(channels, -1)
        assert np.abs(grid.codes * grid.scale[:, None] - by_channel).max() <= grid.scale.max() / 2 * (1 + 1e-5)


def test_taps_are_the_float_tensors_of_a_model_nested_ones_included():
    model = small_networks.make("nested")
    points, tapped = taps(model)
    names = [point.name for point in points]
    backbone = next(layer for layer in model.layers if isinstance(layer, keras.Sequential))
    assert {layer.name for layer in backbone.layers} <= set(names) and "backbone" not in names
    x = small_networks.samples(model, 4)
    values = dict(zip(names, tapped(x), strict=True))
    np.testing.assert_array_equal(values[model.layers[-1].name], model(x))
    np.testing.assert_array_equal(values[backbone.layers[-1].name], backbone(x))


def test_points_of_a_nested_model_called_twice_are_those_that_a_rebuild_sees():
    inner = chain(L.Dense(4, name="inside"), shape=(4,))
    inputs = keras.Input((4,))
    model = keras.Model(inputs, L.Dense(2, name="last")(inner(inner(inputs))))
    points, _ = taps(model)
    assert [p for p in points if p.name == "inside"] == [Point("inside", 0, 0)]
    ranges = dict.fromkeys(points, (-1.0, 1.0))
    static = with_activations(simulate(model, DYNAMIC)[0], "static", ranges=ranges)
    assert "inside_range" in range_layers(static)
    assert np.isfinite(static(np.ones((2, 4), "float32"))).all()


def test_integer_tensors_are_not_tapped():
    simulation, _ = simulate(small_networks.make("embedding"), DYNAMIC)
    points, _ = taps(plain(simulation))
    assert not any(point.name.startswith("input") for point in points)


def test_removed_layers_pass_on_and_both_kinds_of_layer_are_found():
    simulation, _ = simulate(small_networks.make("mlp"), DYNAMIC)
    first = quantized_layers(simulation)[0]
    static = with_activations(simulation, "static", ranges={Point(first.name, 0, 0): (0.0, 1.0)})
    assert {type(layer) for layer in walk(static)} >= {Quantized, FakeQuantize}
    again = with_activations(static, "dynamic")
    assert not range_layers(again)
    x = small_networks.samples(static, 8)
    np.testing.assert_array_equal(again(x), simulation(x))
