"""Static files with activations of 16 bits: what they hold, what they return, and on which roads they come about."""

import keras
import numpy as np
import pytest
import small_networks
import static_networks
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils
from small_networks import flat
from static_networks import INTEGER, NETWORKS

import bigmodel as bm
from bigmodel.config import QuantizeConfig, TrainConfig
from bigmodel.data import as_data
from bigmodel.errors import ArgumentError
from bigmodel.export.formats import FORMATS
from bigmodel.quantization import quantize_aware, quantize_post_training
from bigmodel.quantization.files import deploy
from bigmodel.quantization.simulation import activation_bits_of, plain, quantized_layers, range_layers, simulate

ROADS = ("mlp", "depthwise_separable")
QUICK = (*ROADS, "lone_normalisations", "averages", "arithmetic", "inverted_residual", "attention")
SLOW = tuple(name for name in ("cnn", "conv1d", "residual", "embedding", *NETWORKS) if name not in QUICK)
WIDE = {"activations": "static", "activation_bits": 16}

pytestmark = pytest.mark.usefixtures("in_process")


def make(name):
    return static_networks.make(name) if name in NETWORKS else small_networks.make(name)


def written(name, folder, *formats):
    model = make(name)
    simulation, _ = simulate(model, QuantizeConfig(activations="static"))
    for layer in quantized_layers(simulation):
        layer.fix_scales()
    x = small_networks.samples(model)
    orders = [(FORMATS[format_], folder / f"{format_}.tflite") for format_ in formats]
    return x, flat(plain(simulation)(x))[0], deploy(simulation, orders, x)


def output_step(simulation):
    ranges, name = range_layers(simulation), simulation.output_names[0]
    return float(next(ranges[key] for key in (f"{name}_output_range", f"{name}_range") if key in ranges).scale)


@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_a_file_returns_what_was_simulated(name, tmp_path):
    x, _, (deployed,) = written(name, tmp_path, "static_int8_a16")
    answer, expected = flat(bm.LiteModel(deployed.written.path).predict(x))[0], flat(deployed.simulation(x))[0]
    assert np.mean(answer.argmax(axis=-1) == expected.argmax(axis=-1)) >= 0.999
    assert np.abs(answer - expected).mean() <= 0.7 * output_step(deployed.simulation)
    assert deployed.written.missing == () and all(deployed.written.exact.values())
    if name in (*ROADS, *INTEGER):
        assert deployed.written.float_ops == {} and deployed.written.dynamic == ()


def test_activations_are_of_16_bits_around_zero_and_biases_of_64(tmp_path):
    _, _, (deployed,) = written("depthwise_separable", tmp_path, "static_int8_a16")
    model = flatbuffer_utils.read_model(str(deployed.written.path))
    (graph,) = model.subgraphs
    stored = {t.type for t in graph.tensors if t.quantization is not None and model.buffers[t.buffer].data is not None}
    computed = [t for t in graph.tensors if t.quantization is not None and model.buffers[t.buffer].data is None]
    types = [t.type for t in computed if t.type != schema.TensorType.FLOAT32]
    assert set(types) == {schema.TensorType.INT16} and stored >= {schema.TensorType.INT8, schema.TensorType.INT64}
    assert all(list(t.quantization.zeroPoint) == [0] for t in computed if t.type == schema.TensorType.INT16)


@pytest.mark.parametrize("name", ["mlp", "averages"])
def test_they_are_much_closer_to_float_activations_than_those_of_8_bits(name, tmp_path):
    x, real, files = written(name, tmp_path, "static_int8", "static_int8_a16")
    narrow, wide = (np.abs(flat(bm.LiteModel(d.written.path).predict(x))[0] - real).mean() for d in files)
    assert wide <= narrow / 50


def test_a_kernel_that_is_off_by_many_steps_stays_float_and_is_named(tmp_path):
    _, _, (deployed,) = written("gelu", tmp_path, "static_int8_a16")
    assert deployed.written.float_ops == {"GELU": 2}


@pytest.fixture(scope="module")
def trained():
    model = small_networks.make("depthwise_separable")
    model.compile("sgd", "mse", metrics=["mse"])
    x = small_networks.samples(model)
    return model, as_data((x, model.predict(x, verbose=0)))


@pytest.mark.parametrize("method", ["post_training", "aware"])
def test_both_methods_take_them(method, trained, tmp_path):
    model, data = trained
    config = QuantizeConfig(method=method, **WIDE)
    if method == "aware":
        simulation, _ = quantize_aware(model, data, config, train=TrainConfig(epochs=1))
    else:
        simulation = quantize_post_training(model, data, config).simulation
    assert activation_bits_of(simulation) == 16 and {layer.bits for layer in range_layers(simulation).values()} == {16}
    x = data.train.arrays()[0]
    path = bm.export_litert(simulation, tmp_path / "wide.tflite", data=x)
    model = flatbuffer_utils.read_model(str(path))
    assert schema.TensorType.INT16 in {tensor.type for tensor in model.subgraphs[0].tensors}
    (deployed,) = deploy(simulation, [(FORMATS["static_int8_a16"], tmp_path / "same.tflite")], x)
    answer, expected = bm.LiteModel(path).predict(x), deployed.simulation(x)
    assert np.abs(answer - expected).mean() <= 0.1 * output_step(deployed.simulation)
    deployed.simulation.save(tmp_path / "wide.keras")
    again = keras.models.load_model(tmp_path / "wide.keras", compile=False)
    np.testing.assert_array_equal(again(x), expected)


def test_integers_at_the_ends_are_of_8_bits_alone(trained, tmp_path):
    model, data = trained
    with pytest.raises(ArgumentError, match="io can't be used"):
        bm.export_litert(model, tmp_path / "a.tflite", format="static_int8_a16", io="int8", data=data)
