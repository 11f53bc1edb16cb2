"""Mixed bits: what a layer costs, the best choice within a size, and the file that keeps it."""

import itertools

import keras
import numpy as np
import pytest

from bigmodel.config import QuantizeConfig
from bigmodel.data import as_data
from bigmodel.errors import ArgumentError
from bigmodel.export.formats import FORMATS
from bigmodel.quantization.allocation import (
    Sensitivity,
    _best_choice,
    allot_bits,
    sensitivities,
    with_allotted_bits,
)
from bigmodel.quantization.files import deploy
from bigmodel.quantization.simulation import quantized_layers, simulated

pytestmark = pytest.mark.usefixtures("in_process")

MIXED = QuantizeConfig(bits="mixed", activations="dynamic")


@pytest.fixture(scope="module")
def model():
    """The first layer gets hundreds of inputs that hardly matter, the second decides."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((240,)),
            layers.Dense(40, activation="relu", name="large"),
            layers.Dense(40, activation="relu", name="middle"),
            layers.Dense(10, activation="softmax", name="head"),
        ]
    )
    head = model.get_layer("head").kernel
    head.assign(head * 6.0)
    return model


@pytest.fixture(scope="module")
def data(model):
    x = np.random.default_rng(0).normal(size=(300, 240)).astype("float32")
    return as_data(x, model=model, labels=False, validation_fraction=0, test_fraction=0)


def size_of(model, data, bits, path):
    simulation, _ = simulated(model, QuantizeConfig(bits=bits, activations="dynamic"))
    for layer in quantized_layers(simulation):
        layer.fix_scales()
    (deployed,) = deploy(simulation, [(FORMATS["dynamic_mixed"], path)], data.calibration.arrays()[0])
    return deployed.written.path.stat().st_size


def test_fewer_bits_distort_more_and_cost_what_they_take(model, data):
    found = sensitivities(model, data.calibration.arrays()[0][:128], MIXED)
    assert [s.layer for s in found] == ["large", "middle", "head"]
    for s, count in zip(found, (240 * 40, 40 * 40, 400), strict=True):
        assert s.bytes == {8: count, 4: count // 2, 2: count // 4}
        assert s.distortion[8] < 0.1 * s.distortion[4] < s.distortion[2]


def test_the_distortion_is_the_divergence_with_this_layer_alone_at_its_bits(model, data):
    x = data.calibration.arrays()[0][:128]
    found = sensitivities(model, x, QuantizeConfig(bits="mixed", activations="float"))
    by_hand = keras.models.clone_model(model)
    by_hand.set_weights(model.get_weights())
    kernel = by_hand.get_layer("head").kernel
    weights = kernel.numpy()
    scale = np.abs(weights).max(axis=0) / 127
    kernel.assign(np.rint(weights / scale) * scale)
    before, after = (np.asarray(m(x), np.float64) for m in (model, by_hand))
    expected = (before * np.log(before / after)).sum(axis=1).mean()
    # At 8 bits the least squared error clips hardly more than min-max.
    assert found[-1].distortion[8] == pytest.approx(expected, rel=0.5)
    assert set(found[0].bytes) == {8, 4}  # two bits have dynamic kernels alone


def test_the_choice_is_the_best_of_all_within_the_room():
    rng = np.random.default_rng(1)
    found = [
        Sensitivity(str(i), dict(zip((8, 4, 2), sorted(rng.random(3)), strict=True)), {8: 4 * n, 4: 2 * n, 2: n})
        for i, n in enumerate(rng.integers(5, 60, 5))
    ]
    everything = list(itertools.product((8, 4, 2), repeat=5))
    least, most = (sum(s.bytes[bits] for s in found) for bits in (2, 8))
    for room in np.linspace(least, most, 7).astype(int):
        chosen = _best_choice(found, int(room))
        costs = {
            bits: sum(s.distortion[b] for s, b in zip(found, bits, strict=True))
            for bits in everything
            if sum(s.bytes[b] for s, b in zip(found, bits, strict=True)) <= room
        }
        assert tuple(chosen.values()) == min(costs, key=costs.get)


@pytest.mark.parametrize(
    "share", [pytest.param(0.15, marks=pytest.mark.slow), 0.5, pytest.param(0.8, marks=pytest.mark.slow)]
)
def test_the_file_keeps_the_size_and_uses_it(share, model, data, tmp_path):
    least, most = (size_of(model, data, bits, tmp_path / "end.tflite") for bits in (2, 8))
    size = int(least + share * (most - least))
    bits = allot_bits(model, data, QuantizeConfig(bits="mixed", size=size))
    reached = size_of(model, data, bits, tmp_path / "mixed.tflite")
    assert reached <= size and len(set(bits.values())) > 1
    richer = [{**bits, name: 2 * b} for name, b in bits.items() if b < 8]
    assert all(size_of(model, data, more, tmp_path / "more.tflite") > size for more in richer)


def test_without_a_size_it_is_halfway_and_the_config_then_names_the_layers(model, data):
    config = with_allotted_bits(model, data, MIXED)
    assert set(config.bits) == {"large", "middle", "head"} and config.size is None
    assert config.bits["large"] == 4 and config.bits["head"] == 8
    other = QuantizeConfig(bits=4)
    assert with_allotted_bits(model, None, other) is other


def test_a_size_below_the_smallest_file_names_it(model, data):
    with pytest.raises(ArgumentError, match="can't be reached") as caught:
        allot_bits(model, data, QuantizeConfig(bits="mixed", size=2000))
    assert "fewest bits" in caught.value.expected


def test_bits_can_not_be_allotted_without_samples(model):
    with pytest.raises(ArgumentError, match="without data") as caught:
        allot_bits(model, None, MIXED)
    assert "dict by layer name" in caught.value.fix
