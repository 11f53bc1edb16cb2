"""Orders of few bits, of mixed ones and of wide activations, from the call to the file."""

from __future__ import annotations

import keras
import pytest

import bigmodel as bm

pytestmark = pytest.mark.slow

TRAIN = bm.TrainConfig(epochs=2, batch_size=64)


def run(trained, digits, **orders):
    return bm.compress_and_tune(trained, digits, prune=None, train=TRAIN, verbose=0, **orders)


def test_mixed_bits_keep_the_targets_size_and_the_report_names_them(trained, digits):
    names = [layer.name for layer in trained.layers if isinstance(layer, (keras.layers.Dense, keras.layers.Conv2D))]
    uniform = run(trained, digits, quantize=bm.QuantizeConfig(bits=8, activations="dynamic", method="post_training"))
    size = int(0.75 * uniform.report.final["size_bytes"])
    result = run(trained, digits, quantize="mixed", target=bm.Target(size=size, max_drop=0.05))
    final = result.report.final
    assert final["format"] == "dynamic_mixed" and final["size_bytes"] <= size and final["agreement"] >= 0.99
    bits = result.report.steps[-1]["bits"]
    assert set(bits) == set(names) and len(set(bits.values())) > 1


@pytest.mark.parametrize(
    ("quantize", "formats"),
    [(2, {"dynamic_int2"}), ("by name", {"weight_only_mixed", "dynamic_mixed", "static_mixed"})],
)
def test_other_bits_are_orders_too(quantize, formats, trained, digits):
    if quantize == "by name":
        last = trained.layers[-1].name if trained.layers[-1].weights else trained.layers[-2].name
        quantize = {last: 4}
    result = run(trained, digits, quantize=quantize, target=bm.Target(max_drop=0.2))
    assert {c["format"] for c in result.report.candidates if c["status"] != "failed"} == formats
    assert result.report.target_met


@pytest.mark.parametrize("method", ["post_training", "aware"])
def test_activations_of_16_bits_are_an_order(method, trained, digits):
    order = bm.QuantizeConfig(activations="static", activation_bits=16, method=method)
    result = run(trained, digits, quantize=order, target=bm.Target(max_drop=0.05))
    assert [c["format"] for c in result.report.candidates if c["status"] != "failed"] == ["static_int8_a16"]
    final = result.report.final
    assert final["format"] == "static_int8_a16" and final["agreement"] >= 0.999 and result.report.target_met
