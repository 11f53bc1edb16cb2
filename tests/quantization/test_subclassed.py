"""Subclassed models and layers made of layers: quantized where they are, in a copy, and whole again after saving."""

import keras
import numpy as np
import pytest
from keras import layers as L

import bigmodel as bm
from bigmodel.config import QuantizeConfig
from bigmodel.data import as_data
from bigmodel.errors import ModelError
from bigmodel.quantization.allocation import allot_bits, layer_bits, sensitivities
from bigmodel.quantization.simulation import grids, quantized_layers, simulate

pytestmark = pytest.mark.usefixtures("in_process")
RNG = np.random.default_rng(0)


@keras.saving.register_keras_serializable(package="tests")
class Block(L.Layer):
    """A layer with layers in attributes, in a list and shared between two attributes."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.attention, self.norm = L.MultiHeadAttention(2, 4), L.LayerNormalization()
        self.hidden = [L.Dense(8, activation="relu"), L.Dense(6)]
        self.again = self.hidden[1]

    def build(self, shape):
        self.attention.build(shape, shape)
        self.norm.build(shape)
        self.hidden[0].build(shape)
        self.hidden[1].build((*shape[:-1], 8))

    def call(self, inputs):
        x = inputs + self.attention(inputs, inputs)
        y = self.norm(x)
        for layer in self.hidden:
            y = layer(y)
        return x + y


@keras.saving.register_keras_serializable(package="tests")
class Net(keras.Model):
    def __init__(self, depth=1, **kwargs):
        super().__init__(**kwargs)
        self.depth = depth
        self.stem = keras.Sequential([L.Conv1D(6, 3, padding="same", activation="relu"), L.BatchNormalization()])
        self.blocks = [Block() for _ in range(depth)]
        self.pool, self.drop, self.head = L.GlobalAveragePooling1D(), L.Dropout(0.2), L.Dense(3, name="head")

    def call(self, inputs, training=False):
        x = self.stem(inputs, training=training)
        for block in self.blocks:
            x = block(x)
        return self.head(self.drop(self.pool(x), training=training))

    def get_config(self):
        return {**super().get_config(), "depth": self.depth}


WEIGHTS = {
    "stem/layers/0/kernel", "head/kernel", "blocks/0/hidden/0/kernel", "blocks/0/hidden/1/kernel",
    *(f"blocks/0/attention/{part}_dense/kernel" for part in ("query", "key", "value", "output")),
}  # fmt: skip


@pytest.fixture(scope="module")
def data():
    return RNG.normal(size=(64, 10, 4)).astype("float32"), np.arange(64) % 3


@pytest.fixture(scope="module")
def net(data):
    model = Net()
    model(data[0][:2])
    for variable in model.variables:
        if "seed" not in variable.path:
            values = RNG.normal(0, 0.4, variable.shape)
            variable.assign(np.abs(values) + 0.5 if "variance" in variable.path else values)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"])
    return model


def test_all_weights_inside_are_quantized_and_the_callers_model_stays(net):
    before = [w.tobytes() for w in net.get_weights()]
    simulation, skipped = simulate(net, QuantizeConfig(bits=4, activations="dynamic"))
    assert [w.tobytes() for w in net.get_weights()] == before
    assert {grid.path for grid in grids(simulation)} == WEIGHTS and skipped == ()


def test_where_and_bits_see_the_layers_inside(net):
    config = QuantizeConfig(bits={"head": 8}, where=lambda layer: isinstance(layer, L.Dense), activations="dynamic")
    simulation, skipped = simulate(net, config)
    assert {grid.path for grid in grids(simulation)} == {path for path in WEIGHTS if "head" in path or "hidden" in path}
    assert len(skipped) == 5 and all("`where`" in s.reason for s in skipped)


@pytest.mark.parametrize("method", ["post_training", "aware"])
def test_the_file_computes_what_was_simulated_and_the_saved_model_too(method, net, data, tmp_path):
    config = QuantizeConfig(bits=4, activations="dynamic", method=method)
    quantized = bm.quantize(net, data, config, train=bm.TrainConfig(epochs=1), verbose=0)
    expected = quantized.predict(data[0], verbose=0)
    answers = bm.LiteModel(bm.export_litert(quantized, tmp_path / "net.tflite")).predict(data[0])
    assert np.abs(answers - expected).mean() < 1e-5
    quantized.save(tmp_path / "net.keras")
    again = keras.models.load_model(tmp_path / "net.keras", compile=False)
    np.testing.assert_array_equal(again.predict(data[0], verbose=0), expected)


@pytest.mark.slow
def test_bits_are_allotted_to_the_layers_inside(net, data, tmp_path):
    def size_of(bits):
        config = QuantizeConfig(bits=bits, activations="dynamic", method="post_training")
        path = bm.export_litert(bm.quantize(net, data, config, verbose=0), tmp_path / "net.tflite")
        return path.stat().st_size

    least, most = size_of(2), size_of(8)
    size = int(0.4 * least + 0.6 * most)
    before = [w.tobytes() for w in net.get_weights()]
    bits = allot_bits(net, as_data(data, model=net), QuantizeConfig(bits="mixed", size=size))
    assert [w.tobytes() for w in net.get_weights()] == before
    parts = [net.stem.layers[0], net.head, *net.blocks[0].hidden]
    assert set(bits) == {*(part.name for part in parts), "query", "key", "value", "attention_output"}
    assert len(set(bits.values())) > 1 and size_of(bits) <= size
    simulation, _ = simulate(net, QuantizeConfig(bits=bits, activations="dynamic"))
    assert layer_bits(simulation) == bits


def test_the_sensitivity_of_an_inner_layer_is_that_of_its_weights_alone(net, data):
    (found,) = (
        s for s in sensitivities(net, data[0], QuantizeConfig(bits="mixed", activations="float")) if s.layer == "head"
    )
    kernel, expected = net.head.kernel.numpy(), np.asarray(net(data[0]))
    scale = np.abs(kernel).max(axis=0) / 127
    net.head.kernel.assign(np.rint(kernel / scale) * scale)
    moved = np.square(np.asarray(net(data[0])) - expected).mean() / expected.var()
    net.head.kernel.assign(kernel)
    # At 8 bits the least squared error clips hardly more than min-max.
    assert found.bytes[8] == kernel.size and found.distortion[8] == pytest.approx(moved, rel=0.5)


def test_bits_by_name_reach_the_layers_of_a_layer_of_ones_own():
    inputs = keras.Input((10, 6))
    block = Block()
    model = keras.Model(inputs, block(inputs))
    simulation, _ = simulate(model, QuantizeConfig(bits={block.hidden[0].name: 4}, activations="dynamic"))
    assert {grid.path: grid.bits for grid in grids(simulation) if grid.bits < 8} == {"hidden/0/kernel": 4}


def test_a_subclassed_model_may_stand_in_a_functional_one(net, data, tmp_path):
    inputs = keras.Input((10, 4))
    model = keras.Model(inputs, L.Dense(2, name="last")(L.Activation("tanh")(net(inputs))))
    simulation, _ = simulate(model, QuantizeConfig(bits=8, activations="dynamic"))
    assert len(quantized_layers(simulation)) == 2
    answers = bm.LiteModel(bm.export_litert(simulation, tmp_path / "a.tflite")).predict(data[0])
    assert np.abs(answers - simulation.predict(data[0], verbose=0)).mean() < 1e-5


def test_a_model_that_can_not_be_made_again_is_refused():
    class Own(keras.Model):
        def __init__(self, dense):
            super().__init__()
            self.dense = dense

        def call(self, inputs):
            return self.dense(inputs)

    model = Own(L.Dense(2))
    model(np.zeros((1, 3)))
    with pytest.raises(ModelError, match="can't be made again"):
        simulate(model, QuantizeConfig(bits=8))
