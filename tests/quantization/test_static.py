"""A static file returns the codes of its simulation, whatever the network is made of, and says what is not integer."""

import keras
import numpy as np
import pytest
import small_networks
import static_networks
from small_networks import flat
from static_networks import INTEGER, NETWORKS

from bigmodel.config import QuantizeConfig
from bigmodel.export.formats import FORMATS
from bigmodel.litert import LiteModel
from bigmodel.quantization.affine import as_convolution, find_affine
from bigmodel.quantization.files import deploy
from bigmodel.quantization.flat import laid_out
from bigmodel.quantization.simulation import quantized_layers, range_layers, simulate, with_activations
from bigmodel.quantization.single_ops import single_ops

QUICK = (
    "lone_normalisations",
    "dilations",
    "averages",
    "arithmetic",
    "repeated_model",
    "attention",
    "linear_in_between",
)
SLOW = tuple(name for name in NETWORKS if name not in QUICK)
# A transposed convolution's kernel rounds twice on the way to a code; the bias of a layer that is called twice is
# rounded for each call anew.
LESS_EXACT = {"encoder_and_decoder", "repeated_model"}

pytestmark = pytest.mark.usefixtures("in_process")


def simulated(model, bits=8):
    simulation, _ = simulate(model, QuantizeConfig(bits=bits, activations="static"))
    for layer in quantized_layers(simulation):
        layer.fix_scales()
    return simulation


def written(model, path, io):
    x = small_networks.samples(model)
    (deployed,) = deploy(simulated(model), [(FORMATS["static_int8"], path)], x, io=io)
    return x, deployed


def output_step(simulation):
    ranges, name = range_layers(simulation), simulation.output_names[0]
    return float(next(ranges[key] for key in (f"{name}_output_range", f"{name}_range") if key in ranges).scale)


@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_a_static_file_returns_the_codes_of_its_simulation(name, tmp_path):
    io = "int8" if name in INTEGER else "float"
    x, deployed = written(static_networks.make(name), tmp_path / "static.tflite", io)
    lite = LiteModel(deployed.written.path)
    (answer,), (expected,) = flat(lite.predict(x)), flat(deployed.simulation(x))
    step, difference = output_step(deployed.simulation), np.abs(answer - expected)
    assert difference.mean() <= (0.05 if name in LESS_EXACT else 0.01) * step
    assert difference.max() <= 3.001 * step
    if name not in LESS_EXACT:
        assert np.mean(answer.argmax(axis=-1) == expected.argmax(axis=-1)) >= 0.996  # one sample of 256 may be a tie
    assert deployed.written.missing == () and all(deployed.written.exact.values())
    if name in INTEGER:
        assert deployed.written.float_ops == {} and deployed.written.dynamic == ()
        assert {tensor.dtype for tensor in (*lite.inputs, *lite.outputs)} == {"int8"}
    else:
        assert deployed.written.float_ops


def test_a_file_names_its_float_ops_and_dynamic_weights(tmp_path):
    _, deployed = written(static_networks.make("attention"), tmp_path / "static.tflite", "float")
    assert {"SOFTMAX", "RSQRT", "BATCH_MATMUL"} <= set(deployed.written.float_ops)
    assert len(deployed.written.dynamic) == 4
    assert all("attention" in name for name in deployed.written.dynamic)


@pytest.mark.parametrize("name", ["dense_and_normalised_sequences", "dilations", "dilations_of_images", "arithmetic"])
def test_a_network_in_single_ops_computes_the_same(name):
    model = static_networks.make(name)
    x = small_networks.samples(model)
    np.testing.assert_allclose(single_ops(model)(x), model(x), atol=2e-5)


def test_repeated_pixels_and_largest_values_are_single_ops():
    layers = [keras.layers.UpSampling2D((2, 3)), keras.layers.GlobalMaxPooling2D(keepdims=True)]
    x = np.random.default_rng(0).normal(size=(2, 4, 5, 3)).astype("float32")
    for layer in layers:
        model = keras.Sequential([keras.Input((4, 5, 3)), layer])
        new = single_ops(model)
        assert new is not model
        np.testing.assert_array_equal(new(x), model(x))


def test_a_network_of_single_ops_comes_back_as_it_is():
    model = small_networks.make("mlp")
    assert single_ops(model) is model and laid_out(model) is model


@pytest.mark.parametrize("shape", [(7,), (5, 7), (4, 5, 7)])
def test_a_lone_normalisation_is_a_convolution(shape):
    layer = keras.layers.BatchNormalization()
    model = keras.Sequential([keras.Input(shape), layer])
    rng = np.random.default_rng(0)
    for variable in layer.variables:
        variable.assign(rng.uniform(0.5, 2.0, variable.shape))
    (place,) = find_affine(model).values()
    x = rng.normal(size=(3, *shape)).astype("float32")
    y = x
    for link in as_convolution(layer, place):
        y = link(y)
    np.testing.assert_allclose(y, layer(x), rtol=1e-5, atol=1e-5)


def test_a_normalisation_that_a_kernel_takes_up_stays():
    layers = [keras.layers.Conv2D(3, 2), keras.layers.Dropout(0.5), keras.layers.BatchNormalization()]
    assert find_affine(keras.Sequential([keras.Input((4, 4, 2)), *layers])) == {}
    layers = [keras.layers.Conv2D(3, 2, activation="relu"), keras.layers.BatchNormalization()]
    assert len(find_affine(keras.Sequential([keras.Input((4, 4, 2)), *layers]))) == 1


def test_a_repeated_model_is_laid_out_with_shared_layers():
    model = static_networks.make("repeated_model")
    new = laid_out(model)
    x = small_networks.samples(model)
    np.testing.assert_array_equal(new(x), model(x))
    assert new.count_params() == model.count_params()
    assert not any(isinstance(layer, keras.Model) for layer in new.layers)


def test_biases_of_the_simulation_lie_on_the_files_grid(tmp_path):
    _, deployed = written(small_networks.make("mlp"), tmp_path / "static.tflite", "float")
    ranges, layers = range_layers(deployed.simulation), quantized_layers(deployed.simulation)
    first = layers[0]
    inputs = next(layer for name, layer in ranges.items() if name.startswith("input"))
    steps = np.asarray(first.layer.bias) / (float(inputs.scale) * np.asarray(first.scales[0]).reshape(-1))
    np.testing.assert_allclose(steps, np.round(steps), atol=2e-3)


def sequence_of(units):
    return [keras.layers.EinsumDense("abc,cd->abd", (4, units), bias_axes="d"), keras.layers.Flatten()]


@pytest.mark.parametrize(
    ("shape", "first"),
    [
        ((16,), [keras.layers.Dense(15, activation="relu")]),
        ((15,), [keras.layers.Dense(8, activation="relu")]),
        ((4, 7), sequence_of(5)),
        ((4, 8), sequence_of(6)),
    ],
    ids=["15 outputs", "15 inputs", "odd einsum", "even einsum"],
)
def test_fully_connected_kernels_of_4_bits_round_as_their_rows_of_codes_end(shape, first, tmp_path, monkeypatch):
    """A byte holds two codes: a kernel of the runtime's own takes rows that end within one, and rounds twice."""
    monkeypatch.setitem(
        small_networks.NETWORKS, "rows", lambda: small_networks.chain(*first, keras.layers.Dense(3), shape=shape)
    )
    model = small_networks.make("rows")
    simulation, x = simulated(model, bits=4), small_networks.samples(model)
    (deployed,) = deploy(simulation, [(FORMATS["static_int4"], tmp_path / "static.tflite")], x)
    assert deployed.written.float_ops == {}
    difference = np.abs(LiteModel(deployed.written.path).predict(x) - np.asarray(deployed.simulation(x)))
    assert difference.mean() <= 0.005 * output_step(deployed.simulation)


def test_static_and_dynamic_files_of_one_simulation_each_have_their_own(tmp_path):
    model = static_networks.make("lone_normalisations")
    simulation, x = simulated(model), small_networks.samples(model)
    orders = [
        (FORMATS[name], tmp_path / f"{name}.tflite") for name in ("dynamic_int8", "static_int8", "weight_only_int8")
    ]
    dynamic, static, stored = deploy(simulation, orders, x)
    assert [d.written.format for d in (dynamic, static, stored)] == [format_.name for format_, _ in orders]
    for deployed in (dynamic, stored):
        difference = np.abs(LiteModel(deployed.written.path).predict(x) - np.asarray(deployed.simulation(x)))
        assert np.median(difference) < 1e-5
        assert any(isinstance(layer, keras.layers.BatchNormalization) for layer in deployed.simulation.layers)
    assert len(static.written.exact) == len(quantized_layers(with_activations(simulation, "static")))
