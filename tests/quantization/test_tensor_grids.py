"""One scale for a whole weight: in the simulation, in training, and in the file."""

import keras
import numpy as np
import pytest
import small_networks
from ai_edge_litert.tools import flatbuffer_utils
from keras import layers as L

from bigmodel.config import QuantizeConfig, TrainConfig
from bigmodel.data import as_data
from bigmodel.export.formats import format_of
from bigmodel.litert import LiteModel
from bigmodel.quantization import LayerRule, deploy, quantize_aware, quantize_post_training
from bigmodel.quantization.clipping import mse_scale
from bigmodel.quantization.simulation import grids, quantized_layers, simulate
from bigmodel.quantization.table import WeightQuantization

pytestmark = pytest.mark.usefixtures("in_process")
# What tensorflow-model-optimization and the converter make of 784-256-128-64-10: one scale for each weight.
TOOLKIT_BYTES = 247_920


def ordered(bits=8, activations="dynamic", **settings):
    return QuantizeConfig(bits=bits, activations=activations, granularity="tensor", **settings)


def fixed(model, config):
    simulation, skipped = simulate(model, config)
    for layer in quantized_layers(simulation):
        layer.fix_scales()
    return simulation, {s.layer: s.reason for s in skipped}


def written(simulation, samples, folder, bits=8, activations="dynamic"):
    (deployed,) = deploy(simulation, [(format_of(bits, activations), folder / "model.tflite")], samples)
    assert all(deployed.written.exact.values()) and not deployed.written.missing
    return deployed


def weight_scales(path):
    """How many scales each quantized constant of two axes and more has in a file."""
    model = flatbuffer_utils.read_model(str(path))
    return [
        len(tensor.quantization.scale)
        for graph in model.subgraphs
        for tensor in graph.tensors
        if len(tensor.shape) > 1 and tensor.quantization and model.buffers[tensor.buffer].data is not None
    ]


def agreement(deployed, samples):
    """The largest and the mean difference of file and simulation, in parts of the largest output."""
    file = small_networks.flat(LiteModel(deployed.written.path).predict(samples))
    simulated = small_networks.flat(deployed.simulation.predict(samples, verbose=0))
    differences = [np.abs(a - b) / np.abs(b).max() for a, b in zip(file, simulated, strict=True)]
    return max(d.max() for d in differences), max(d.mean() for d in differences)


@pytest.mark.parametrize("activations", ["dynamic", "static"])
def test_a_multilayer_perceptron_is_smaller_than_the_toolkits_and_agrees(activations, tmp_path):
    keras.utils.set_random_seed(0)
    sizes = (256, 128, 64)
    model = keras.Sequential(
        [keras.Input((784,)), *(L.Dense(n, activation="relu") for n in sizes), L.Dense(10, activation="softmax")]
    )
    for layer in model.layers:  # biases of zeros are left out of a file
        layer.bias.assign(np.linspace(-0.2, 0.2, layer.units))
    samples = small_networks.samples(model)
    simulation, skipped = fixed(model, ordered(activations=activations))
    deployed = written(simulation, samples, tmp_path, activations=activations)
    assert deployed.written.path.stat().st_size < TOOLKIT_BYTES
    assert not skipped and weight_scales(deployed.written.path) == [1, 1, 1, 1]
    file = LiteModel(deployed.written.path).predict(samples)
    assert (file.argmax(axis=1) == deployed.simulation.predict(samples, verbose=0).argmax(axis=1)).all()
    assert agreement(deployed, samples)[1] < 1e-5


@pytest.mark.parametrize(
    ("name", "bits", "activations"),
    [("odd", 8, "dynamic"), ("odd", 4, "dynamic"), ("convolutions", 8, "dynamic"), ("convolutions", 8, "static"),
     ("lstm", 8, "dynamic"), ("attention", 8, "dynamic")],
)  # fmt: skip
def test_simulation_and_file_agree(name, bits, activations, tmp_path):
    if name == "odd":
        links = [L.Dense(33, activation="relu"), L.Dense(5)]
        model = small_networks.chain(*links, shape=(21,))
    elif name == "convolutions":
        links = [L.Conv2D(8, 3, activation="relu"), L.Conv2D(6, 1, activation="relu"), L.Conv2D(6, 3, groups=2)]
        model = small_networks.chain(*links, L.Flatten(), L.Dense(4), shape=(10, 10, 3))
    else:
        model = small_networks.make(name)
    samples = small_networks.samples(model)
    simulation, _ = fixed(model, ordered(bits, activations))
    deployed = written(simulation, samples, tmp_path, bits, activations)
    assert set(weight_scales(deployed.written.path)) == {1}
    assert agreement(deployed, samples)[1] < 2e-5


def test_what_takes_no_single_scale_keeps_its_channels_and_is_told(tmp_path):
    links = [L.DepthwiseConv2D(3, name="depthwise"), L.Conv2D(6, 3, use_bias=False, name="scaled")]
    rest = [L.BatchNormalization(), L.Conv2D(5, 1, name="plain"), L.GlobalAveragePooling2D(), L.Dense(4, name="head")]
    model = small_networks.chain(*links, *rest, shape=(8, 8, 3))
    simulation, skipped = fixed(model, ordered())
    sizes = {grid.layer: grid.scale.size for grid in grids(simulation)}
    assert sizes == {"depthwise": 3, "scaled": 6, "plain": 1, "head": 1}
    assert "for each channel" in skipped["depthwise"] and "normalisation" in skipped["scaled"]
    assert set(skipped) == {"depthwise", "scaled"}
    written(simulation, small_networks.samples(model), tmp_path)
    _, coarse = fixed(small_networks.chain(L.Dense(4, name="head"), shape=(8,)), ordered(2))
    assert "2 bits" in coarse["head"]


def test_a_rule_says_at_which_bits_its_kernel_takes_one_scale():
    rule = LayerRule({"kernel": (-1,)}, inputs=None, bits=(8, 4), tensor_bits=(8,))
    found = {bits: rule.weight_quantization(bits, granularity="tensor")["kernel"] for bits in (8, 4)}
    assert found[8].scale_shape((3, 5)) == (1, 1) and found[4].scale_shape((3, 5)) == (1, 5)
    assert WeightQuantization(**found[8].to_dict()) == found[8]


def test_the_scale_of_least_error_is_that_of_all_weights_as_one_channel():
    weights = np.random.default_rng(0).standard_t(4, size=(3, 3, 20, 5)).astype("float32")
    whole = mse_scale(weights, WeightQuantization(4, (-1,), "tensor"))
    assert whole.shape == (1, 1, 1, 1)
    np.testing.assert_array_equal(
        whole.ravel(), mse_scale(weights.reshape(-1, 1), WeightQuantization(4, (-1,))).ravel()
    )


@pytest.fixture(scope="module")
def uneven():
    """A network whose channels differ by a factor of 100, with a normalisation; and data for it."""
    keras.utils.set_random_seed(0)
    spread = np.geomspace(0.1, 10, 16)
    first, second = L.Conv2D(16, 3, name="first"), L.Dense(5, name="head")
    normalisation = L.BatchNormalization()
    model = small_networks.chain(first, normalisation, L.ReLU(), L.GlobalAveragePooling2D(), second, shape=(8, 8, 2))
    first.kernel.assign(first.kernel * spread)
    normalisation.gamma.assign(np.linspace(0.5, 2.0, 16))
    second.kernel.assign(second.kernel / spread[:, None])
    model.compile(keras.optimizers.Adam(1e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    x = small_networks.samples(model, 400)
    return model, as_data((x, np.asarray(model(x)).argmax(axis=1)), test_fraction=0)


def test_equalization_makes_one_scale_do(uneven, tmp_path):
    model, data = uneven
    quantization = quantize_post_training(model, data, ordered(method="post_training"))
    tried = quantization.chosen["distortion"]
    assert list(tried)[:2] == ["plain", "equalization"]
    assert quantization.chosen["equalization"] and tried["equalization"] < 0.1 * tried["plain"]
    assert [grid.scale.size for grid in grids(quantization.simulation)] == [1, 1] and not quantization.skipped
    written(quantization.simulation, data.calibration.arrays()[0], tmp_path)


@pytest.mark.parametrize("clipping", ["min_max", "learned"])
def test_a_trained_scale_reaches_the_file(clipping, tmp_path):
    keras.utils.set_random_seed(0)
    model = small_networks.chain(L.Dense(12, activation="relu"), L.Dense(4), shape=(10,))
    model.compile(keras.optimizers.Adam(1e-2), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    x = small_networks.samples(model)
    data = as_data((x, x[:, :4].argmax(axis=1)), test_fraction=0)
    config = ordered(4, method="aware", clipping=clipping)
    simulation, _ = quantize_aware(model, data, config, train=TrainConfig(epochs=1, batch_size=64))
    assert all(layer.scales[0].shape == (1, 1) for layer in quantized_layers(simulation))
    deployed = written(simulation, x, tmp_path, 4)
    assert weight_scales(deployed.written.path) == [1, 1]
    assert agreement(deployed, x)[1] < 1e-5
