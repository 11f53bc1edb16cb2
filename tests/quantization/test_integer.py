"""Kernels in integers: the simulation of a file gives the answers of the runtime's kernels bit for bit."""

import keras
import numpy as np
import pytest
import small_networks
import tensorflow as tf
from keras import layers as L

from bigmodel.config import QuantizeConfig
from bigmodel.export.formats import FORMATS, Scaling
from bigmodel.graph import walk
from bigmodel.litert import LiteModel
from bigmodel.quantization.files import deploy
from bigmodel.quantization.integer import can_compute
from bigmodel.quantization.scalings import take_scalings
from bigmodel.quantization.simulation import quantized_layers, simulate

pytestmark = pytest.mark.usefixtures("in_process")

SHAPES = {"image": (9, 9, 6), "gray": (8, 8, 1), "sequence": (20, 5), "tokens": (6, 16), "even": (600,), "odd": (75,)}


def normed(layer, *after):
    return [layer, L.BatchNormalization(), *after]


# Of each kind of kernel one or more, with its input; numbers of channels that vectors of the machine do not divide.
KERNELS = {
    "strided": ("image", [L.Conv2D(8, 3, strides=2, padding="same", activation="relu")]),
    "normed": ("image", normed(L.Conv2D(5, 3, use_bias=False), L.ReLU(6.0))),
    "gray_image": ("gray", [L.Conv2D(7, 3, padding="same")]),
    "pointwise": ("image", normed(L.Conv2D(10, 1), L.ReLU())),
    "strided_pointwise": ("image", [L.Conv2D(9, 1, strides=2)]),
    "grouped": ("image", [L.Conv2D(6, 3, groups=2)]),
    "depthwise": ("image", normed(L.DepthwiseConv2D(3, padding="same"), L.ReLU())),
    "multiplied": ("image", [L.DepthwiseConv2D(3, depth_multiplier=3, strides=2)]),
    "scaled": ("image", [L.DepthwiseConv2D(1)]),
    "one_axis": ("sequence", normed(L.Conv1D(8, 3, padding="same"), L.ReLU())),
    "causal": ("sequence", [L.Conv1D(6, 3, padding="causal")]),
    "one_axis_depthwise": ("sequence", [L.DepthwiseConv1D(3)]),
    "long_rows": ("even", [L.Dense(12, activation="relu")]),  # more terms than float32 adds up exactly
    "normed_rows": ("even", normed(L.Dense(9, use_bias=False))),
    "odd_rows": ("odd", [L.Dense(30)]),
    "rows_of_a_sequence": ("tokens", [L.Dense(11)]),
}
# One op in static files only, and integers in those of 8 bits only.
DILATED = ("image", [L.Conv2D(6, 3, dilation_rate=2)])
TRANSPOSED = ("image", [L.Conv2DTranspose(12, 2, strides=2)])  # 8 channels at once, 4 one by one


def kernels_of(names):
    """A model of the kernels, each by itself, with an output for each, and random weights."""
    inputs = {name: keras.Input(shape, name=name) for name, shape in SHAPES.items()}
    outputs = {}
    for name, (source, links) in names.items():
        x = inputs[source]
        for link in links:
            x = type(link).from_config({**link.get_config(), "name": f"{name}_{type(link).__name__.lower()}"})(x)
        outputs[name] = L.Identity(name=name)(x)
    used = {source for source, _ in names.values()}
    model = keras.Model({name: tensor for name, tensor in inputs.items() if name in used}, outputs)
    return small_networks.randomised(model)


def deployed(model, path, format_name, samples=64, **settings):
    format_ = FORMATS[format_name]
    bits = "mixed" if format_.mixed else format_.bits
    config = QuantizeConfig(bits=bits, activations=format_.activations, method="post_training", **settings)
    simulation, _ = simulate(model, config)
    for layer in quantized_layers(simulation):
        layer.fix_scales()
    x = small_networks.samples(model, samples)
    (result,) = deploy(simulation, [(format_, path)], x)
    return result, x


def assert_equal(result, x, kinds):
    answers = LiteModel(result.written.path).predict(x)
    eager, in_a_graph = result.simulation(x), result.simulation.predict(x, verbose=0, batch_size=32)
    for kind in kinds:
        np.testing.assert_array_equal(eager[kind], answers[kind], err_msg=kind)
        np.testing.assert_array_equal(in_a_graph[kind], answers[kind], err_msg=f"{kind}, in a graph")


@pytest.mark.parametrize(
    ("format_name", "granularity"),
    [("dynamic_int8", "channel"), ("dynamic_int4", "channel"), ("dynamic_int2", "channel"), ("dynamic_int8", "tensor")],
)
def test_dynamic_kernels_give_the_answers_of_the_runtime_bit_for_bit(format_name, granularity, tmp_path):
    model = kernels_of(KERNELS)
    result, x = deployed(model, tmp_path / "kernels.tflite", format_name, granularity=granularity)
    assert all(result.written.exact.values()) and not result.written.missing
    assert_equal(result, x, KERNELS)


@pytest.mark.parametrize("format_name", ["static_int8", "static_int4"])
def test_static_kernels_give_the_codes_of_the_runtime(format_name, tmp_path):
    names = {**KERNELS, "dilated": DILATED} | ({"transposed": TRANSPOSED} if format_name == "static_int8" else {})
    result, x = deployed(kernels_of(names), tmp_path / "kernels.tflite", format_name)
    assert_equal(result, x, names)


def test_parts_of_different_ranges_are_joined_as_in_the_file(tmp_path):
    inputs = keras.Input((8, 8, 3))
    first = L.Conv2D(8, 3, padding="same", activation="relu")(inputs)
    second = L.UpSampling2D(2)(L.Conv2D(12, 3, strides=2, padding="same", activation="relu")(first))
    model = small_networks.randomised(keras.Model(inputs, L.Concatenate()([second, first])))
    result, x = deployed(model, tmp_path / "joined.tflite", "static_int8")
    answers = LiteModel(result.written.path).predict(x)
    np.testing.assert_array_equal(result.simulation(x), answers)
    np.testing.assert_array_equal(result.simulation.predict(x, verbose=0), answers)


def test_a_folded_normalisation_is_in_the_kernel_before_it(tmp_path):
    result, _ = deployed(kernels_of(KERNELS), tmp_path / "kernels.tflite", "dynamic_int8")
    folded = {layer.name for layer in walk(result.simulation) if type(layer) is L.Identity} - set(KERNELS)
    assert folded == {f"{name}_batchnormalization" for name, (_, links) in KERNELS.items() if len(links) > 1}
    for layer in quantized_layers(result.simulation):
        scaling = result.written.scalings[f"{layer.name}/kernel"]
        np.testing.assert_array_equal(np.ravel(layer.scales[0]), np.abs(np.float32(scaling.factors)))


def test_a_normalisation_of_two_kernels_stays(tmp_path):
    inputs, shared = keras.Input((8, 8, 3)), L.BatchNormalization()
    branches = [shared(L.Conv2D(4, 3, padding="same")(inputs)), shared(L.Conv2D(4, 1)(inputs))]
    model = small_networks.randomised(keras.Model(inputs, L.Add()(branches)))
    result, x = deployed(model, tmp_path / "shared.tflite", "dynamic_int8")
    assert any(isinstance(layer, L.BatchNormalization) for layer in walk(result.simulation))
    np.testing.assert_allclose(result.simulation(x), LiteModel(result.written.path).predict(x), atol=1e-5)


def test_other_numbers_than_the_layers_own_are_not_taken():
    model = small_networks.make("mlp")
    simulation, _ = simulate(model, QuantizeConfig(bits=8, activations="dynamic"))
    (name, scale, bias), *_ = (
        (layer.name, np.ravel(next(layer.grids())[3]), layer.layer.bias.numpy())
        for layer in quantized_layers(simulation)
    )
    own = Scaling(tuple(scale.tolist()), tuple(bias.tolist()))
    assert take_scalings(simulation, {f"{name}/kernel": own}) is not simulation
    for other in (
        Scaling(tuple((scale * 1.01).tolist()), own.biases),
        Scaling(own.factors, tuple((bias + 0.1).tolist())),
        Scaling(own.factors, own.biases, steps=(0.1, 0.1)),  # of a static kernel
    ):
        assert take_scalings(simulation, {f"{name}/kernel": other}) is simulation


def test_training_and_gradients_go_on_behind_a_file(tmp_path):
    model = small_networks.make("cnn")
    result, x = deployed(model, tmp_path / "cnn.tflite", "dynamic_int8")
    simulation, gradients = result.simulation, {}
    for training in (False, True):
        with tf.GradientTape() as tape:
            total = tf.reduce_mean(tf.square(simulation(x, training=training)))
        gradients[training] = tape.gradient(total, simulation.trainable_variables)
    for at_rest, trained in zip(gradients[False], gradients[True], strict=True):
        np.testing.assert_allclose(at_rest, trained, rtol=1e-3, atol=1e-4 * np.abs(trained).max())
    kernel = quantized_layers(simulation)[0].layer.kernel
    before = kernel.numpy()
    simulation.compile("sgd", "mse")
    simulation.fit(x, np.ones((len(x), 4)), verbose=0)
    assert not np.array_equal(kernel.numpy(), before)


def test_a_saved_simulation_gives_the_same_answers(tmp_path):
    model = small_networks.make("depthwise_separable")
    for name in ("dynamic_int8", "static_int8"):
        result, x = deployed(model, tmp_path / f"{name}.tflite", name)
        result.simulation.save(tmp_path / f"{name}.keras")
        again = keras.models.load_model(tmp_path / f"{name}.keras")
        np.testing.assert_array_equal(again.predict(x, verbose=0), result.simulation.predict(x, verbose=0))
        answers = LiteModel(result.written.path).predict(x)
        np.testing.assert_allclose(again.predict(x, verbose=0), answers, atol=1e-6)  # averages of floats in between


def test_layers_whose_order_is_not_known_are_not_computed():
    def built(layer, shape):
        layer.build(shape)
        return layer

    assert can_compute(built(L.Conv2D(2, 3), (None, 8, 8, 3)))
    assert not can_compute(built(L.Conv2D(2, 3, data_format="channels_first"), (None, 3, 8, 8)))
    assert not can_compute(built(L.Conv2D(2, 3, activity_regularizer="l2"), (None, 8, 8, 3)))
    assert not can_compute(built(L.Conv2D(2, 3, dtype="mixed_float16"), (None, 8, 8, 3)))
    assert not can_compute(built(L.EinsumDense("ab,bc->ac", 3), (None, 4)))


@pytest.mark.slow
@pytest.mark.parametrize("format_name", ["static_int8", "dynamic_int8", "dynamic_int4"])
def test_fifty_kernels_in_a_row_agree(format_name, tmp_path):
    network = keras.applications.MobileNetV2((32, 32, 3), alpha=0.35, weights=None, classes=10)
    result, x = deployed(small_networks.randomised(network), tmp_path / "deep.tflite", format_name)
    answers = LiteModel(result.written.path).predict(x)
    np.testing.assert_allclose(result.simulation.predict(x, verbose=0), answers, atol=1e-6)
