"""Few bits and mixed bits in the file: exact codes, the same answers as the simulation, and the bits by layer."""

import keras
import numpy as np
import pytest
import small_networks
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils
from small_networks import flat

from bigmodel.config import QuantizeConfig
from bigmodel.export.formats import FORMATS, format_of
from bigmodel.litert import LiteModel
from bigmodel.quantization.allocation import common_bits, layer_bits
from bigmodel.quantization.files import deploy
from bigmodel.quantization.simulation import grids, quantized_layers, simulate

pytestmark = pytest.mark.usefixtures("in_process")

INT2, INT4, INT8 = schema.TensorType.INT2, schema.TensorType.INT4, schema.TensorType.INT8


def simulated(model, bits, activations="dynamic"):
    simulation, skipped = simulate(model, QuantizeConfig(bits=bits, activations=activations))
    for layer in quantized_layers(simulation):
        layer.fix_scales()
    return simulation, skipped


def weight_types(path):
    model = flatbuffer_utils.read_model(str(path))
    types = [t.type for graph in model.subgraphs for t in graph.tensors if model.buffers[t.buffer].data is not None]
    return {kind for kind in types if kind in (INT2, INT4, INT8)}


# Rows of 32, 15 and 20 codes: a byte holds four of them, and rows that end within one have another kernel.
@pytest.mark.parametrize("bits", [2, 1])
@pytest.mark.parametrize("name", ["mlp", "dense_of_sequences", "two_inputs_two_outputs", "shared_layer"])
def test_two_bit_files_hold_the_codes_and_return_what_was_simulated(name, bits, tmp_path):
    model = small_networks.make(name)
    simulation, _ = simulated(model, bits)
    x = small_networks.samples(model)
    (deployed,) = deploy(simulation, [(format_of(bits, "dynamic"), tmp_path / "few.tflite")], x)
    assert all(deployed.written.exact.values()) and deployed.written.missing == ()
    assert INT2 in weight_types(deployed.written.path)
    for grid in grids(simulation):
        codes = set(np.unique(grid.codes))
        assert codes <= ({-1, 1} if grid.bits == 1 else {-1, 0, 1} if grid.bits == 2 else set(range(-7, 8)))
    for answer, expected in zip(flat(LiteModel(deployed.written.path).predict(x)), flat(simulation(x)), strict=True):
        difference = np.abs(answer - expected)
        assert difference.mean() <= 3e-5
        assert (difference > 1e-5).reshape(len(difference), -1).any(axis=1).mean() <= 0.1


def test_a_convolution_keeps_four_bits_and_says_so(tmp_path):
    model = small_networks.make("cnn")
    simulation, skipped = simulated(model, 2)
    assert list(layer_bits(simulation).values()) == [4, 4, 2]
    assert sum("no 2-bit Conv2D kernel" in one.reason for one in skipped) == 2
    assert common_bits(simulation) == 2
    x = small_networks.samples(model)
    (deployed,) = deploy(simulation, [(FORMATS["dynamic_int2"], tmp_path / "few.tflite")], x)
    assert weight_types(deployed.written.path) == {INT4, INT2} and all(deployed.written.exact.values())
    np.testing.assert_allclose(LiteModel(deployed.written.path).predict(x), simulation(x), atol=1e-4)


@pytest.mark.parametrize("activations", ["float", "dynamic", "static"])
def test_a_mixed_file_has_each_layers_own_bits(activations, tmp_path):
    model = small_networks.make("mlp")
    names = [layer.name for layer in model.layers if isinstance(layer, keras.layers.Dense)]
    bits = dict(zip(names, (4, 2, 8), strict=True))
    simulation, skipped = simulated(model, bits, "dynamic" if activations == "dynamic" else "float")
    assert layer_bits(simulation) == bits and skipped == () and common_bits(simulation) == "mixed"
    x = small_networks.samples(model)
    (deployed,) = deploy(simulation, [(format_of("mixed", activations), tmp_path / "mixed.tflite")], x)
    assert all(deployed.written.exact.values()) and deployed.written.missing == ()
    assert weight_types(deployed.written.path) == ({INT8, INT4, INT2} if activations == "dynamic" else {INT8, INT4})
    difference = np.abs(LiteModel(deployed.written.path).predict(x) - np.asarray(deployed.simulation(x)))
    assert difference.max() <= (3 / 256 if activations == "static" else 1e-4)  # a softmax has steps of 1/256


def test_bits_by_a_function_are_asked_of_each_layer():
    model = small_networks.make("cnn")
    simulation, _ = simulated(model, lambda layer: 4 if isinstance(layer, keras.layers.Conv2D) else 8)
    kinds = {type(layer.layer).__name__: bits for layer in quantized_layers(simulation) for bits in _bits(layer)}
    assert kinds == {"Conv2D": 4, "Dense": 8}
    assert common_bits(simulation) == "mixed"


def _bits(layer):
    return [quantization.bits for quantization in layer.quantized_weights.values()]


def test_bits_that_only_the_runtime_raised_are_not_mixed():
    simulation, _ = simulated(small_networks.make("depthwise_separable"), 4)
    assert set(layer_bits(simulation).values()) == {8, 4} and common_bits(simulation) == 4
