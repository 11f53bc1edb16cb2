"""Post-training as a whole: what its methods gain in a trained network, what they leave alone, and what is reported."""

import keras
import numpy as np
import pytest

from bigmodel.config import QuantizeConfig
from bigmodel.data import as_data, load_digits
from bigmodel.errors import ArgumentError
from bigmodel.export.formats import format_of
from bigmodel.quantization import deploy, quantize_post_training
from bigmodel.quantization.distortion import Judge
from bigmodel.quantization.observers import BY_EXTREMES, OBSERVERS
from bigmodel.quantization.simulation import grids, quantized_layers, range_layers

pytestmark = pytest.mark.usefixtures("in_process")
layers = keras.layers
PLAIN = {"clipping": "min_max", "rounding": "nearest", "equalization": False, "bias_correction": False}


@pytest.fixture(scope="module")
def data():
    (x, y), _ = load_digits()
    return as_data((x[:1000, ..., None].astype("float32") / 16, y[:1000]), test_fraction=0)


@pytest.fixture(scope="module")
def trained(data):
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((8, 8, 1))
    x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(12, 3, padding="same", use_bias=False)(x)))
    x = layers.ReLU()(layers.BatchNormalization()(layers.DepthwiseConv2D(3, padding="same")(x)))
    x = layers.Conv2D(16, 3, strides=2, activation="relu", name="strided")(x)
    model = keras.Model(inputs, layers.Dense(10, name="head")(layers.Flatten()(x)))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(5e-3), loss, metrics=["accuracy"])
    model.fit(*data.train.arrays()[:2], epochs=3, verbose=0)
    kernel = model.get_layer("strided").kernel
    kernel.assign(kernel * (np.abs(kernel.numpy()) > np.quantile(np.abs(kernel.numpy()), 0.5)))  # pruned
    return model


@pytest.fixture(scope="module")
def judge(trained, data):
    return Judge(trained, data.calibration.arrays()[0])


def made(trained, data, bits=4, activations="dynamic", **settings):
    config = QuantizeConfig(bits=bits, activations=activations, method="post_training", **settings)
    return quantize_post_training(trained, data, config)


@pytest.fixture(scope="module")
def automatic(trained, data):
    before = [weight.copy() for weight in trained.get_weights()]
    quantization = made(trained, data)
    for a, b in zip(before, trained.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    return quantization


def test_each_method_lowers_the_distortion_of_four_bits(trained, data, judge):
    plain = judge.distortion(made(trained, data, **PLAIN).simulation)
    adaptive = judge.distortion(made(trained, data, **{**PLAIN, "rounding": "adaptive"}).simulation)
    corrected = judge.distortion(made(trained, data, **{**PLAIN, "bias_correction": True}).simulation)
    assert adaptive < 0.3 * plain and corrected < plain


def test_auto_keeps_what_measures_better_and_says_so(automatic, trained, data, judge):
    chosen = automatic.chosen
    assert set(chosen["distortion"]) == {"plain", *PLAIN} and chosen["rounding"] == "adaptive"
    kept = [name for name in PLAIN if chosen[name] != PLAIN[name]]
    assert min(chosen["distortion"].values()) == min(chosen["distortion"][name] for name in kept)
    plain = judge.distortion(made(trained, data, **PLAIN).simulation)
    assert chosen["distortion"]["plain"] == pytest.approx(plain)
    assert judge.distortion(automatic.simulation) < 0.3 * plain


def test_codes_are_on_the_grid_reach_the_file_exactly_and_pruned_weights_stay_zero(automatic, trained, tmp_path):
    for layer in quantized_layers(automatic.simulation):
        ((_, variable, quantization, scale),) = layer.grids()
        steps = np.asarray(variable) / np.asarray(scale)
        np.testing.assert_allclose(steps, np.rint(steps), atol=1e-4)
        assert np.abs(np.rint(steps)).max() <= 2 ** (quantization.bits - 1) - 1
    zeros = np.moveaxis(trained.get_layer("strided").kernel.numpy() == 0, -1, 0).reshape(16, -1)
    (grid,) = [grid for grid in grids(automatic.simulation) if grid.layer == "strided"]
    assert (grid.codes[zeros] == 0).all() and zeros.mean() > 0.4
    (deployed,) = deploy(automatic.simulation, [(format_of(4, "dynamic"), tmp_path / "model.tflite")], None)
    assert deployed.written.exact and all(deployed.written.exact.values())


def test_post_training_is_the_same_each_time(automatic, trained, data):
    again = made(trained, data)
    assert again.chosen == automatic.chosen
    for a, b in zip(again.simulation.get_weights(), automatic.simulation.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_at_eight_bits_plain_grids_do(trained, data):
    chosen = made(trained, data, bits=8).chosen
    assert list(chosen["distortion"]) == ["plain"] and chosen["distortion"]["plain"] < 1e-3
    assert {name: chosen[name] for name in PLAIN} == PLAIN


def test_orders_are_carried_out_without_measuring(trained, data):
    orders = {"clipping": "mse", "rounding": "adaptive", "equalization": True, "bias_correction": True}
    chosen = made(trained, data, **orders).chosen
    assert chosen == {**orders, "distortion": {}}


def test_without_data_the_grids_of_few_bits_have_the_least_squared_error(trained):
    assert made(trained, None, activations="float").chosen["clipping"] == "mse"
    assert made(trained, None, bits=8, activations="float").chosen["clipping"] == "min_max"
    with pytest.raises(ArgumentError, match="calibration samples") as caught:
        made(trained, None, activations="float", rounding="adaptive")
    assert caught.value.fix


def test_nested_models_and_several_inputs_are_gone_through_too():
    generator = np.random.default_rng(0)
    inner = keras.Sequential([keras.Input((6,)), layers.Dense(16, activation="relu", name="inside")], name="inner")
    inputs = {"a": keras.Input((6,), name="a"), "b": keras.Input((6,), name="b")}
    x = layers.Concatenate()([inner(inputs["a"]), layers.Dense(16, activation="relu", name="beside")(inputs["b"])])
    model = keras.Model(inputs, layers.Dense(3, name="head")(x))
    mix = generator.normal(size=(6, 6)) + 1  # independent inputs would leave nothing to gain
    samples = {name: (generator.uniform(size=(200, 6)) @ mix).astype("float32") for name in inputs}
    unlabelled = as_data(samples, model=model, labels=False, validation_fraction=0, test_fraction=0)
    plain, adaptive = made(model, unlabelled, **PLAIN), made(model, unlabelled, **{**PLAIN, "rounding": "adaptive"})
    assert adaptive.skipped == ()
    for a, b in zip(grids(plain.simulation), grids(adaptive.simulation), strict=True):
        assert a.layer == b.layer and not (a.codes == b.codes).all()
    judge = Judge(model, samples)
    assert judge.distortion(adaptive.simulation) < judge.distortion(plain.simulation)


def test_weights_that_share_few_values_go_on_sharing_them(trained, data):
    clustered = keras.models.clone_model(trained)
    clustered.set_weights(trained.get_weights())
    kernel = clustered.get_layer("head").kernel
    kernel.assign(np.round(kernel.numpy() * 4) / 4)
    quantization = made(clustered, data, bits=8, rounding="adaptive")
    assert "share few values" in {s.layer: s.reason for s in quantization.skipped}["head"]
    (grid,) = [grid for grid in grids(quantization.simulation) if grid.layer == "head"]
    assert all(len(np.unique(codes)) <= len(np.unique(kernel.numpy())) for codes in grid.codes)


def test_layers_that_are_no_single_product_are_named(data):
    shared = layers.Dense(6, activation="relu", name="shared")
    x = inputs = keras.Input((8, 6))
    x = layers.LSTM(5, name="lstm")(shared(shared(x)))
    model = keras.Model(inputs, layers.Dense(2, name="head")(x))
    samples = np.random.default_rng(0).normal(size=(40, 8, 6)).astype("float32")
    unlabelled = as_data(samples, model=model, labels=False, validation_fraction=0, test_fraction=0)
    skipped = {s.layer: s.reason for s in made(model, unlabelled, rounding="adaptive").skipped}
    assert "more than once" in skipped["shared"] and "LSTM" in skipped["lstm"] and "head" not in skipped


@pytest.mark.parametrize("observer", OBSERVERS)
def test_static_ranges_are_those_of_the_observer(observer, trained, data):
    simulation = made(trained, data, bits=8, activations="static", observer=observer).simulation
    x = data.calibration.arrays()[0]
    first = next(layer for name, layer in range_layers(simulation).items() if name.startswith("input"))
    if observer in BY_EXTREMES:
        batches = [(0.0, float(x[i : i + 32].max())) for i in range(0, len(x), 32)]
        assert float(first.high.value) == pytest.approx(BY_EXTREMES[observer](batches)[1])
    else:
        assert 0.0 < float(first.high.value) <= x.max()


def test_the_observer_is_chosen_by_measurement_where_ranges_matter(trained, data):
    chosen = made(trained, data, bits=8, activations="static").chosen
    assert chosen["observer"] == min(chosen["observers"], key=chosen["observers"].get)
