from __future__ import annotations

import keras
import pytest

from bigmodel.pruning import prunable

layers = keras.layers


class Block(keras.layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inner = layers.Dense(3, name="inner")
        self.norm = layers.LayerNormalization()

    def build(self, shape):
        self.scale_kernel = self.add_weight(shape=(2, 3), name="scale_kernel")
        self.inner.build(shape)
        self.norm.build((*shape[:-1], 3))
        self.built = True

    def call(self, x):
        return self.norm(self.inner(x))


class Listed(keras.layers.Layer):
    def build(self, shape):
        self.w = self.add_weight(shape=(shape[-1], 2), name="w")
        self.kernel = self.add_weight(shape=(2, 2), name="kernel")

    def get_prunable_weights(self):
        return [self.w]

    def call(self, x):
        return x @ self.w @ self.kernel


@pytest.mark.parametrize(
    ("layer", "shape", "names"),
    [
        (layers.Dense(2), (4,), ["kernel"]),
        (layers.Conv2D(2, 3), (8, 8, 1), ["kernel"]),
        (layers.Conv2DTranspose(2, 3), (8, 8, 1), ["kernel"]),
        (layers.SeparableConv2D(2, 3), (8, 8, 3), ["pointwise_kernel"]),
        (layers.DepthwiseConv2D(3), (8, 8, 3), []),
        (layers.BatchNormalization(), (4,), []),
        (layers.LSTM(3), (5, 2), ["kernel", "recurrent_kernel"]),
        (layers.Bidirectional(layers.GRU(3)), (5, 2), ["kernel", "recurrent_kernel"] * 2),
        (layers.TimeDistributed(layers.Dense(2)), (5, 2), ["kernel"]),
        (Block(), (4,), ["scale_kernel", "kernel"]),
        (Listed(), (4,), ["w"]),
    ],
    ids=lambda value: value.name if isinstance(value, keras.layers.Layer) else "",
)
def test_which_variables_are_kernels(layer, shape, names):
    model = keras.Sequential([keras.Input(shape), layer])
    assert [variable.name for _, variable in prunable(model)] == names


def test_attention_and_embedding():
    tokens = keras.Input((6,), dtype="int32")
    x = layers.Embedding(10, 8)(tokens)
    attention = layers.MultiHeadAttention(2, 4)
    model = keras.Model(tokens, attention(x, x))
    found = prunable(model)
    assert [variable.name for _, variable in found] == ["embeddings"] + ["kernel"] * 4
    assert all(layer is attention for layer, _ in found[1:])
    assert len(prunable(model, lambda layer: isinstance(layer, layers.MultiHeadAttention))) == 4


def test_an_explicit_where_decides_about_depthwise_kernels_too():
    model = keras.Sequential([keras.Input((8, 8, 3)), layers.DepthwiseConv2D(3), layers.SeparableConv2D(2, 3)])
    assert [variable.name for _, variable in prunable(model, lambda layer: True)] == [
        "kernel",
        "depthwise_kernel",
        "pointwise_kernel",
    ]


def test_nested_shared_and_subclassed_models_are_walked_into():
    shared = layers.Dense(4, name="shared")
    inner = keras.Sequential([keras.Input((4,)), shared, layers.Dense(4, name="own")], name="inner")
    inputs = keras.Input((4,))
    nested = keras.Model(inputs, layers.Dense(1, name="head")(inner(shared(inputs))))
    assert sorted(layer.name for layer, _ in prunable(nested)) == ["head", "own", "shared"]

    class Subclassed(keras.Model):
        def __init__(self):
            super().__init__()
            self.parts = [inner, layers.Dense(2, name="last")]

        def call(self, x):
            return self.parts[1](self.parts[0](x))

    model = Subclassed()
    model(keras.ops.zeros((1, 4)))
    assert sorted(layer.name for layer, _ in prunable(model)) == ["last", "own", "shared"]


def test_frozen_kernels_are_listed_on_request():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, trainable=False, name="base"), layers.Dense(2)])
    assert len(prunable(model)) == 1
    assert len(prunable(model, frozen=True)) == 2


def test_where_is_asked_once_for_each_layer_with_kernels():
    asked = []
    model = keras.Sequential([keras.Input((5, 2)), layers.LSTM(3, name="lstm"), layers.Dense(2, name="dense")])
    prunable(model, lambda layer: asked.append(layer.name))
    assert asked == ["lstm", "dense"]
