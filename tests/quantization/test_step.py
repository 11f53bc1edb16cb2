"""The step's two methods: what they change, what training with the rounding in place is worth, and what it keeps."""

import keras
import numpy as np
import pytest

from bigmodel.callbacks import KeepZeros
from bigmodel.config import QuantizeConfig, TrainConfig
from bigmodel.data import as_data, load_digits
from bigmodel.errors import ModelError
from bigmodel.quantization import quantize_aware, quantize_post_training
from bigmodel.quantization.simulation import grids, quantized_layers, range_layers

pytestmark = pytest.mark.usefixtures("in_process")


@pytest.fixture(scope="module")
def digits():
    """Data to train on, and a test set, both as rows of 64 values."""
    train, test = ((x.reshape(len(x), -1).astype("float32") / x.max(), y) for x, y in load_digits())
    return as_data(train, test_fraction=0), test


@pytest.fixture(scope="module")
def trained(digits):
    keras.utils.set_random_seed(0)
    layers = keras.layers
    model = keras.Sequential([keras.Input((64,)), layers.Dense(12, activation="relu"), layers.Dense(10)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(5e-3), loss, metrics=["accuracy"])
    x, y, _ = digits[0].train.arrays()
    model.fit(x, y, epochs=12, verbose=0)
    first = model.layers[0].kernel
    first.assign(first * (np.abs(first.numpy()) > np.quantile(np.abs(first.numpy()), 0.3)))  # pruned
    return model


def state(model):
    return [w.tobytes() for w in model.get_weights()], [np.asarray(v).tobytes() for v in model.optimizer.variables]


def trained_aware(trained, data, **config):
    train = TrainConfig(epochs=3, batch_size=64, learning_rate=None)
    return quantize_aware(trained, data, QuantizeConfig(**config), train=train, callbacks=[KeepZeros()])


@pytest.mark.parametrize("activations", ["float", "dynamic", "static"])
def test_post_training_fixes_min_max_scales_and_changes_nothing_of_the_callers(activations, trained, digits):
    before = state(trained)
    config = QuantizeConfig(bits=8, activations=activations)
    made = quantize_post_training(trained, digits[0], config)
    simulation, skipped = made.simulation, made.skipped
    again = quantize_post_training(trained, digits[0], config).simulation
    assert state(trained) == before and skipped == ()
    assert simulation.compiled and simulation.metrics_names == trained.metrics_names
    assert all(layer.fixed for layer in quantized_layers(simulation))
    for grid, layer in zip(grids(simulation), trained.layers, strict=True):
        np.testing.assert_allclose(grid.scale, np.abs(layer.kernel.numpy()).max(axis=0) / 127, rtol=1e-6)
    for a, b in zip(simulation.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert bool(range_layers(simulation)) == (activations == "static")


def test_static_ranges_are_those_of_the_calibration_samples(trained, digits):
    simulation = quantize_post_training(trained, digits[0], QuantizeConfig(bits=8, activations="static")).simulation
    x, _, _ = digits[0].calibration.arrays()
    first = next(layer for name, layer in range_layers(simulation).items() if name.startswith("input"))
    assert float(first.scale) == pytest.approx((x.max() - min(x.min(), 0)) / 255, rel=1e-6)


def test_training_with_four_bits_in_place_is_better_than_rounding_afterwards(trained, digits):
    after = quantize_post_training(trained, digits[0], QuantizeConfig(bits=4, activations="dynamic")).simulation
    aware, _ = trained_aware(trained, digits[0], bits=4, activations="dynamic")
    losses = [model.evaluate(*digits[1], verbose=0)[0] for model in (after, aware)]
    assert losses[1] < 0.95 * losses[0]
    assert all(layer.fixed for layer in quantized_layers(aware))
    assert [np.abs(grid.codes).max() for grid in grids(aware)] == [7, 7]


def test_zeros_of_a_pruned_model_stay_zero_through_training(trained, digits):
    before = state(trained)
    aware, _ = trained_aware(trained, digits[0], bits=8, activations="dynamic")
    assert state(trained) == before
    zeros = trained.layers[0].kernel.numpy().T == 0
    assert zeros.mean() > 0.25
    assert (grids(aware)[0].codes[zeros] == 0).all()


def test_ranges_move_in_training_and_stand_still_after_it(trained, digits):
    start = quantize_post_training(trained, digits[0], QuantizeConfig(bits=8, activations="static")).simulation
    aware, _ = trained_aware(trained, digits[0], bits=8, activations="static")
    ranges, first = range_layers(aware), range_layers(start)
    assert set(ranges) == set(first)
    hidden = next(name for name in ranges if not name.startswith("input") and "output" not in name)
    assert float(ranges[hidden].high) != float(first[hidden].high)
    assert float(ranges[hidden].scale) == pytest.approx(float(ranges[hidden].high) / 255, rel=1e-5)
    assert all(layer.fixed for layer in ranges.values())
    weights = aware.get_weights()
    aware(digits[1][0], training=True)
    for a, b in zip(weights, aware.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_model_without_a_layer_to_quantize_is_refused(digits):
    model = keras.Sequential([keras.Input((64,)), keras.layers.Rescaling(2.0)])
    with pytest.raises(ModelError, match="no layer to quantize") as caught:
        quantize_post_training(model, digits[0], QuantizeConfig(bits=8))
    assert caught.value.fix
