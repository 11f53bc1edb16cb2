"""Training with the rounding in place: learned scales and ranges, few bits, what compiles the step, and what stays."""

import keras
import numpy as np
import pytest

from bigmodel.callbacks import KeepClusters, KeepZeros
from bigmodel.config import QuantizeConfig, TrainConfig
from bigmodel.data import as_data, load_digits
from bigmodel.export.formats import FORMATS
from bigmodel.litert import LiteModel
from bigmodel.quantization import quantize_aware
from bigmodel.quantization.files import deploy
from bigmodel.quantization.simulation import grids, quantized_layers, range_layers

pytestmark = pytest.mark.usefixtures("in_process")

TRAIN = TrainConfig(epochs=3, batch_size=64)


@pytest.fixture(scope="module")
def digits():
    train, test = ((x.reshape(len(x), -1).astype("float32") / x.max(), y) for x, y in load_digits())
    return as_data(train, test_fraction=0), test


@pytest.fixture(scope="module")
def trained(digits):
    keras.utils.set_random_seed(0)
    layers = keras.layers
    model = keras.Sequential([keras.Input((64,)), layers.Dense(24, activation="relu"), layers.Dense(10)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(5e-3), loss, metrics=["accuracy"])
    x, y, _ = digits[0].train.arrays()
    model.fit(x, y, epochs=12, verbose=0)
    return model


def aware(model, data, *, train=TRAIN, callbacks=(), seed=0, **config):
    config = QuantizeConfig(**{"activations": "dynamic", **config})
    return quantize_aware(model, data, config, train=train, callbacks=callbacks, seed=seed)[0]


def accuracy(model, test):
    return float((np.asarray(model(test[0])).argmax(axis=1) == test[1]).mean())


def test_distillation_holds_the_network_to_its_float_self_where_labels_lead_away(trained, digits):
    x, y, _ = digits[0].train.arrays()
    misled = as_data((x, (y + 1) % 10), test_fraction=0)
    kept = []
    for share in (None, 0.0, 1.0):
        train = TrainConfig(epochs=4, batch_size=32, learning_rate=0.02, distillation=share)
        kept.append(accuracy(aware(trained, misled, bits=4, train=train), digits[1]))
    assert kept[0] == kept[1] < kept[2] - 0.1


@pytest.mark.parametrize(
    ("clipping", "bits", "most"),
    [("min_max", 4, 0.01), ("learned", 4, 0.01), ("min_max", 2, 0.03), ("learned", 2, 0.03), ("min_max", 1, 0.06)],
)
def test_few_bits_come_close_to_float(bits, most, clipping, trained, digits, tmp_path):
    simulation = aware(trained, digits[0], bits=bits, clipping=clipping)
    assert accuracy(trained, digits[1]) - accuracy(simulation, digits[1]) <= most
    name = "dynamic_int4" if bits == 4 else "dynamic_int2"
    (deployed,) = deploy(simulation, [(FORMATS[name], tmp_path / "few.tflite")], None)
    assert all(deployed.written.exact.values()) and deployed.written.missing == ()
    np.testing.assert_allclose(
        LiteModel(deployed.written.path).predict(digits[1][0]), simulation(digits[1][0]), atol=1e-4
    )


def test_learned_scales_leave_where_they_start_and_are_fixed_at_the_end(trained, digits, tmp_path):
    simulation = aware(trained, digits[0], bits=4, clipping="learned")
    for layer in quantized_layers(simulation):
        assert layer.fixed and all(not np.any(change) for change in layer.changes)
        ((_, variable, quantization, scale),) = layer.grids()
        assert np.abs(np.asarray(scale) / np.asarray(quantization.min_max_scale(variable.value)) - 1).max() > 1e-3
    simulation.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras", compile=False)
    np.testing.assert_array_equal(again(digits[1][0]), simulation(digits[1][0]))
    repeated = aware(trained, digits[0], bits=4, clipping="learned")
    for a, b in zip(simulation.get_weights(), repeated.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_clipping_by_the_least_error_stays_where_it_was_found(trained, digits):
    simulation = aware(trained, digits[0], bits=4, clipping="mse")
    for layer, source in zip(quantized_layers(simulation), trained.layers, strict=True):
        ((_, _, _, scale),) = layer.grids()
        widest = np.abs(source.kernel.numpy()).max(axis=0) / 7
        assert (np.asarray(scale)[0] <= widest * 1.0001).all() and (np.asarray(scale)[0] < 0.99 * widest).any()


def test_learned_ranges_reach_the_file(trained, digits, tmp_path):
    ranges = {}
    for observer in ("mse", "learned"):
        simulation = aware(trained, digits[0], bits=4, activations="static", observer=observer)
        assert all(layer.fixed for layer in range_layers(simulation).values())
        ranges[observer] = {name: float(layer.scale) for name, layer in range_layers(simulation).items()}
    assert any(abs(ranges["learned"][name] / scale - 1) > 1e-3 for name, scale in ranges["mse"].items())
    samples = digits[0].calibration.arrays()[0]
    (deployed,) = deploy(simulation, [(FORMATS["static_int4"], tmp_path / "learned.tflite")], samples)
    hidden = next(name for name in range_layers(simulation) if name.startswith("dense") and "output" not in name)
    assert deployed.written.ranges[hidden][0] == pytest.approx(float(range_layers(simulation)[hidden].scale), rel=1e-6)
    assert accuracy(trained, digits[1]) - accuracy(simulation, digits[1]) <= 0.01


@pytest.mark.parametrize("clipping", ["min_max", "learned", "mse"])
@pytest.mark.parametrize("bits", [4, 2])
def test_pruned_weights_have_the_code_zero(bits, clipping, trained, digits):
    pruned = keras.models.clone_model(trained)
    pruned.set_weights(trained.get_weights())
    pruned.compile(keras.optimizers.Adam(5e-3), trained.loss, metrics=["accuracy"])
    kernel = pruned.layers[0].kernel
    kernel.assign(kernel * (np.abs(kernel) > np.quantile(np.abs(kernel), 0.6)))
    zeros = kernel.numpy().T == 0
    one = TrainConfig(epochs=1, batch_size=64)
    simulation = aware(
        pruned, digits[0], train=one, bits=bits, clipping=clipping, callbacks=[KeepZeros(), KeepClusters()]
    )
    assert zeros.mean() > 0.59 and (grids(simulation)[0].codes[zeros] == 0).all()


def test_mixed_bits_are_allotted_before_the_training(trained, digits):
    simulation = aware(trained, digits[0], bits="mixed")  # halfway between the files of 8 and of 4 bits
    assert [q.bits for layer in quantized_layers(simulation) for q in layer.quantized_weights.values()] == [4, 8]


@pytest.mark.parametrize("settings", [{"jit_compile": True}, {"run_eagerly": True}], ids=str)
def test_the_step_computes_the_same_however_it_is_compiled(settings, trained, digits):
    config = {"bits": 4, "activations": "static", "clipping": "learned", "observer": "learned", "delay": 4, "freeze": 8}
    one = TrainConfig(epochs=1, batch_size=128)
    results = []
    for how in ({}, settings):
        model = keras.models.clone_model(trained)
        model.set_weights(trained.get_weights())
        model.compile(keras.optimizers.SGD(0.05), trained.loss, metrics=["accuracy"], **how)
        results.append(aware(model, digits[0], train=one, **config).get_weights())
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-3)


def test_it_trains_in_half_precision(trained, digits):
    train = TrainConfig(epochs=1, batch_size=64, precision="mixed_bfloat16")
    config = {"bits": 4, "activations": "static", "clipping": "learned", "observer": "learned"}
    simulation = aware(trained, digits[0], train=train, **config)
    assert {layer.compute_dtype for layer in quantized_layers(simulation)} == {"float32"}
    assert accuracy(trained, digits[1]) - accuracy(simulation, digits[1]) <= 0.03


@pytest.mark.slow
def test_learned_scales_and_ranges_train_on_two_replicas_as_on_one(python):
    code = """
import keras, numpy as np, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from bigmodel.quantization.layers import FakeQuantize, Quantized
from bigmodel.quantization.table import WeightQuantization
x = np.random.default_rng(0).normal(size=(64, 6)).astype("float32")
y = np.arange(64) % 3

def trained():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,))
    dense = keras.layers.Dense(3)
    dense.build((None, 6))
    ranged = FakeQuantize(learned=True)
    ranged.set_range(-2.0, 2.0)
    outputs = Quantized(dense, weights={"kernel": WeightQuantization(4, (-1,))}, learned=True)(ranged(inputs))
    model = keras.Model(inputs, outputs)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.5), loss)
    before = model.get_weights()
    model.fit(x, y, batch_size=32, epochs=2, shuffle=False, verbose=0)
    return before, model.get_weights()

before, one = trained()
with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
    _, two = trained()
moved = sum(bool(np.any(a != b)) for a, b in zip(before, one))
print(moved, max(float(np.abs(a - b).max()) for a, b in zip(one, two)) < 1e-3)
"""
    assert python(code).splitlines()[-1] == "4 True"
