"""The file is the truth: for a table of networks and every format, it holds and returns what was simulated."""

import keras
import numpy as np
import pytest
import small_networks
from small_networks import ACTIVATIONS, NETWORKS, flat

from bigmodel.config import QuantizeConfig
from bigmodel.export.formats import FORMATS
from bigmodel.litert import LiteModel
from bigmodel.quantization.files import deploy
from bigmodel.quantization.simulation import quantized_layers, range_layers, simulate

# One network of each kind of kernel, at 4 bits of those that have others there; all of them, and all activations, run
# with -m slow.
QUICK = (
    "mlp", "cnn", "depthwise_separable", "conv1d", "causal_dilated", "residual", "embedding", "lstm", "nested",
    "two_inputs_two_outputs", "normalised_before_dense", "free_image_size", "einsum", "transposed", "attention",
    "cells", "root_mean_squares", "operator_between", "linear_in_between",
)  # fmt: skip
QUICK_4_BITS = ("mlp", "cnn", "depthwise_separable", "embedding", "transposed")
CASES = [
    pytest.param(name, bits, marks=[] if name in quick else pytest.mark.slow)
    for bits, quick in ((8, QUICK), (4, QUICK_4_BITS))
    for name in (*NETWORKS, *ACTIVATIONS)
]

# In a static file their loops stay dynamic.
RECURRENT = {"lstm", "gru", "simple_rnn", "bidirectional", "cells", "lstm_by_gates"}
# A static file of these has 8-bit tensors within what is one layer in Keras (a normalisation that nothing takes up, an
# activation of several ops, a bias added apart), or averages of four codes, halfway between two as often as not.
ROUNDED_WITHIN = {
    "causal_dilated", "dilated", "dense_of_sequences", "pooling", "gelu", "silu", "softplus", "elu", "selu",
}  # fmt: skip

pytestmark = pytest.mark.usefixtures("in_process")


def orders(folder, bits):
    narrow = [f for f in FORMATS.values() if f.activation_bits == 8]  # see test_wide_activations.py for the other
    formats = [f for f in narrow if f.bits == bits or (bits == 8 and f.bits == 16)]
    return [(format_, folder / f"{format_.name}.tflite") for format_ in formats]


def simulated(name, bits):
    model = small_networks.make(name)
    simulation, _ = simulate(model, QuantizeConfig(bits=bits, activations="dynamic"))
    for layer in quantized_layers(simulation):
        layer.fix_scales()
    return model, simulation


def step_of_outputs(simulation):
    """The step of each output of a static file, by the simulation's last ranges."""
    ranges = range_layers(simulation)
    names = {name: [f"{name}_output_range", f"{name}_range"] for name in simulation.output_names}
    found = [ranges[r] for candidates in names.values() for r in candidates if r in ranges]
    return max(float(layer.scale) for layer in found or ranges.values())  # some activations have no integer kernel


@pytest.mark.parametrize(("name", "bits"), CASES)
def test_a_file_holds_and_returns_what_was_simulated(name, bits, tmp_path):
    model, simulation = simulated(name, bits)
    x = small_networks.samples(model)
    floats = flat(model(x))
    for deployed in deploy(simulation, orders(tmp_path, bits), x):
        written = deployed.written
        format_ = FORMATS[written.format]
        if format_.quantized:
            assert set(written.exact) == {
                f"{q.name}/{path}" for q in quantized_layers(simulation) for path, *_ in q.grids()
            }
            assert all(written.exact.values()) and written.missing == ()
        answers = flat(LiteModel(written.path).predict(x))
        for answer, expected, real in zip(answers, flat(deployed.simulation(x)), floats, strict=True):
            difference = np.abs(answer - expected)
            if format_.bits == 16:
                assert difference.mean() < 3e-4  # half precision has 11 bits
            elif format_.activations == "static" and name in ROUNDED_WITHIN:
                assert difference.mean() <= 1.5 * np.abs(answer - real).mean()
            elif format_.activations == "static":
                step = step_of_outputs(deployed.simulation) * 1.001
                assert difference.mean() <= 0.15 * step and difference.max() <= 3 * step
                assert name in RECURRENT or (difference > 0.5 * step).mean() <= 0.15
            else:
                assert difference.mean() <= 3e-5
                # A value halfway between two codes can fall either way by the order of a sum; all else is equal.
                changed = (difference > 1e-5).reshape(len(difference), -1).any(axis=1)
                assert changed.mean() <= 0.1


def test_integers_in_and_out_are_those_of_the_float_io(tmp_path):
    model, simulation = simulated("cnn", 8)
    x = small_networks.samples(model)
    order = [(FORMATS["static_int8"], tmp_path / "io.tflite")]
    (deployed,) = deploy(simulation, order, x, io="int8")
    lite = LiteModel(deployed.written.path)
    assert [lite.inputs[0].dtype, lite.outputs[0].dtype] == ["int8", "int8"]
    step = lite.outputs[0].scale
    ranges = range_layers(deployed.simulation)
    assert (
        float(ranges["input_layer_range"].scale) == pytest.approx(lite.inputs[0].scale)
        if ("input_layer_range" in ranges)
        else any(float(r.scale) == pytest.approx(lite.inputs[0].scale) for r in ranges.values())
    )
    difference = np.abs(lite.predict(x) - deployed.simulation.predict(x, verbose=0))
    assert difference.max() <= step * 1.001 and (difference > step / 2).mean() < 0.05
    order = [(FORMATS["static_int8"], tmp_path / "float.tflite")]
    (with_floats,) = deploy(simulation, order, x)
    np.testing.assert_allclose(LiteModel(with_floats.written.path).predict(x), lite.predict(x), atol=step * 1.001)


def test_trained_ranges_reach_the_file(tmp_path):
    model, simulation = simulated("mlp", 8)
    x = small_networks.samples(model)
    order = [(FORMATS["static_int8"], tmp_path / "a.tflite")]
    (first,) = deploy(simulation, order, x)
    hidden = next(name for name in range_layers(first.simulation) if name.startswith("dense") and "output" not in name)
    range_layers(first.simulation)[hidden].set_range(0.0, 1.5)
    (second,) = deploy(first.simulation, order, x)
    scale, zero_point = second.written.ranges[hidden]
    assert scale == pytest.approx(1.5 / 255, rel=1e-6) and zero_point == -128
    assert float(range_layers(second.simulation)[hidden].scale) == pytest.approx(scale)


def test_the_given_simulation_is_not_changed(tmp_path):
    model, simulation = simulated("cnn", 8)
    before, config = simulation.get_weights(), simulation.get_config()
    deploy(simulation, orders(tmp_path, 8), small_networks.samples(model))
    assert simulation.get_config() == config
    for old, new in zip(before, simulation.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_a_layer_that_stays_float_is_float_in_every_format(tmp_path):
    model = small_networks.make("cnn")
    simulation, skipped = simulate(
        model, QuantizeConfig(bits=8, activations="dynamic", where=lambda layer: isinstance(layer, keras.layers.Dense))
    )
    assert len([s for s in skipped if "where" in s.reason]) == 2
    x = small_networks.samples(model)
    from ai_edge_litert.interpreter import Interpreter

    for deployed in deploy(simulation, orders(tmp_path, 8), x):
        if FORMATS[deployed.written.format].quantized:
            assert len(deployed.written.exact) == 1
            tensors = Interpreter(str(deployed.written.path)).get_tensor_details()
            kernels = [t for t in tensors if tuple(t["shape"]) in {(8, 3, 3, 3), (6, 3, 3, 8)}]
            assert kernels and all(t["dtype"] is np.float32 for t in kernels)
