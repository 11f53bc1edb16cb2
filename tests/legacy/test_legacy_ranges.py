"""Layers that stay float between quantized ones: the ranges of what they give are learned."""

from __future__ import annotations

import numpy as np
import pytest
import tf_keras
from legacy_networks import digits_network
from tf_keras import layers

import bigmodel as bm
from bigmodel.evaluation import agreement
from bigmodel.legacy import network_in
from bigmodel.legacy.shell import shell
from bigmodel.legacy.steps import quantize_aware


@pytest.fixture(scope="module")
def between(digits):
    """A trained network with an operator, and with a layer that `where` leaves out, between two quantized layers."""
    reference = digits_network()
    image = tf_keras.Input((8, 8, 1), name="image")
    y = layers.Dense(32, activation="relu", name="one")(layers.Flatten(name="flat")(image))
    y = layers.Dense(32, activation="relu", name="two")(y * 1.5)
    y = layers.Dense(32, activation="relu", name="left")(y)
    model = tf_keras.Model(image, layers.Dense(10, name="head")(y))
    model.compile(reference.optimizer, reference.loss, metrics=["accuracy"])
    model.fit(*digits.train, epochs=4, batch_size=64, verbose=0)
    return model


@pytest.fixture(scope="module")
def made(between, digits):
    inside = shell(between)
    data = bm.as_data(digits, model=inside)
    config = bm.QuantizeConfig(where=lambda layer: layer.name != "left")
    return quantize_aware(inside, data, config, train=bm.TrainConfig(epochs=1))


@pytest.mark.slow
def test_the_file_computes_what_was_trained(made, between, digits, tmp_path):
    network = network_in(made[0])
    path = bm.export_litert(network, tmp_path / "between.tflite")
    file, model = (bm.evaluate(one, digits.test, like=between) for one in (path, made[0]))
    assert agreement(model, file) >= 0.99  # one or two of 445 samples lie within a step of a tie
    scale = np.abs(model.outputs).max()
    np.testing.assert_allclose(file.outputs, model.outputs, rtol=0, atol=0.02 * scale)
    read = {op.name: op.activation for op in bm.evaluation.inspect_file(path).ops}
    assert read["MUL"] == "int8"


def test_what_stays_float_is_told_and_the_identities_are_not(made):
    network, skipped = network_in(made[0]), made[1]
    left = [row["layer"] for row in skipped]
    assert len(left) == 2 and left[0].startswith("tf.math.multiply") and left[1] == "left"
    ranges = [layer.name for layer in network.layers if layer.name.endswith("_range")]
    assert ranges == [f"quant_{name}_range" for name in left]
