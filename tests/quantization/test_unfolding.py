"""The factors of a normalisation stay out of the kernels after it, of whatever kind: these stay on their grids."""

import keras
import numpy as np
import pytest
import small_networks
from keras import layers as L
from small_networks import chain, flat

from bigmodel.config import QuantizeConfig
from bigmodel.export.formats import FORMATS
from bigmodel.litert import LiteModel
from bigmodel.quantization.files import deploy
from bigmodel.quantization.simulation import quantized_layers, range_layers, simulate
from bigmodel.quantization.unfolding import multiply_factors_first

pytestmark = pytest.mark.usefixtures("in_process")


def einsum(equation, *output):
    def build():
        dense = L.EinsumDense(equation, output_shape=output, bias_axes=equation[-1])
        return chain(L.RMSNormalization(), dense, L.Flatten(), L.Dense(3), shape=(4, 6))

    return build


def before_attention(attention):
    def build():
        inputs = keras.Input((6, 8))
        normal = L.RMSNormalization()(inputs)
        x = inputs + attention()(normal, normal)
        x = x + L.Dense(8)(L.Dense(16, activation="relu")(L.RMSNormalization()(x)))
        return keras.Model(inputs, L.Dense(3)(L.GlobalAveragePooling1D()(x)))

    return build


class Block(L.Layer):
    """A layer that normalises within."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.normal, self.dense = L.RMSNormalization(), L.Dense(6)

    def build(self, shape):
        self.normal.build(shape)
        self.dense.build(shape)

    def call(self, x):
        return x + self.dense(self.normal(x))


NETWORKS = {
    "vectors": einsum("abc,cd->abd", 4, 5),
    "transposed": einsum("abc,dc->abd", 4, 5),
    "heads": einsum("abc,cde->abde", 4, 2, 5),
    "attention": before_attention(lambda: L.MultiHeadAttention(2, 4)),
    "grouped attention": before_attention(lambda: L.GroupQueryAttention(4, 4, 2)),
    "block": lambda: chain(Block(), L.Flatten(), L.Dense(3), shape=(4, 6)),
}


def make(name, monkeypatch):
    monkeypatch.setitem(small_networks.NETWORKS, name, NETWORKS[name])
    return small_networks.make(name)


@pytest.mark.parametrize("name", NETWORKS)
def test_kernels_after_a_root_mean_square_normalisation_stay_on_their_grids(name, monkeypatch, tmp_path):
    model = make(name, monkeypatch)
    simulation, _ = simulate(model, QuantizeConfig(bits=8, activations="dynamic"))
    for layer in quantized_layers(simulation):
        layer.fix_scales()
    x = small_networks.samples(model)
    orders = [(FORMATS[kind], tmp_path / f"{kind}.tflite") for kind in ("dynamic_int8", "static_int8")]
    for deployed in deploy(simulation, orders, x):
        assert deployed.written.missing == () and all(deployed.written.exact.values())
        (answer,), (expected,) = flat(LiteModel(deployed.written.path).predict(x)), flat(deployed.simulation(x))
        assert np.mean(answer.argmax(axis=-1) == expected.argmax(axis=-1)) >= 0.999
        ranges = range_layers(deployed.simulation)
        step = max(layer.scale for layer in ranges.values()) if ranges else 1e-3
        assert np.abs(answer - expected).mean() <= 0.05 * float(step)


@pytest.mark.parametrize("axis", [-1, (-2, -1)])
def test_the_order_of_the_two_multiplications_does_not_matter(axis):
    layer = L.RMSNormalization(axis=axis)
    network = chain(layer, shape=(4, 6))
    rng = np.random.default_rng(0)
    layer.scale.assign(rng.normal(size=layer.scale.shape))
    x = rng.normal(size=(8, 4, 6)).astype("float32")
    expected = np.asarray(network(x))
    multiply_factors_first(network)
    found = np.asarray(network(x))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
