"""Small networks of what is several ops, or none that is integer, in a static file."""

from unittest import mock

import keras
import small_networks
from keras import layers as L
from small_networks import chain

INTEGER, PARTLY_FLOAT = {}, {}


def integer(build):
    INTEGER[build.__name__] = build
    return build


def partly_float(build):
    PARTLY_FLOAT[build.__name__] = build
    return build


@integer
def lone_normalisations():
    first = [L.BatchNormalization(), L.Conv2D(6, 3, activation="relu"), L.BatchNormalization(), L.ReLU()]
    second = [L.Conv2D(4, 3, padding="same"), L.GlobalAveragePooling2D(), L.BatchNormalization(), L.ReLU(), L.Dense(3)]
    return chain(*first, *second, shape=(8, 8, 3))


@integer
def dense_and_normalised_sequences():
    first = [L.Dense(8, activation="relu"), L.BatchNormalization(), L.Dense(6), L.BatchNormalization(), L.ReLU()]
    return chain(*first, L.Flatten(), L.Dense(3), shape=(5, 7))


@integer
def dilations():
    convolutions = [L.Conv1D(8, 3, padding="causal", dilation_rate=d, activation="relu") for d in (1, 2)]
    return chain(*convolutions, L.BatchNormalization(), L.GlobalMaxPooling1D(), L.Dense(3), shape=(16, 4))


@integer
def dilations_of_images():
    convolutions = [L.Conv2D(6, 3, dilation_rate=(1, 2), padding="same"), L.DepthwiseConv2D(3, dilation_rate=2)]
    return chain(*convolutions, L.GlobalMaxPooling2D(keepdims=True), L.Flatten(), L.Dense(3), shape=(9, 8, 3))


@integer
def averages():
    first = [L.Conv2D(6, 3, padding="same", activation="relu"), L.AveragePooling2D(2), L.Conv2D(6, 3)]
    return chain(*first, L.AveragePooling2D(2, padding="same"), L.Flatten(), L.Dense(3), shape=(12, 12, 2))


@integer
def averages_of_sequences():
    first = [L.Conv1D(6, 3, activation="relu"), L.AveragePooling1D(2), L.Conv1D(6, 3)]
    return chain(*first, L.GlobalAveragePooling1D(), L.Dense(3), shape=(16, 2))


@integer
def softmax_in_the_middle():
    inputs = keras.Input((6, 8))
    product = L.Multiply()([L.Dense(6, activation="softmax")(inputs), L.Dense(6)(inputs)])
    return keras.Model(inputs, L.Dense(3)(L.Flatten()(product)))


@integer
def arithmetic():
    inputs = keras.Input((8, 8, 4))
    x = L.Conv2D(8, 3, activation="relu")(L.Rescaling(0.5, offset=-0.5)(inputs))
    y = x[:, 1:5, 1:5, :] * L.Conv2D(8, 3)(x)
    z = L.Subtract()([y, L.Conv2D(8, 1)(y)])
    z = keras.ops.concatenate([z[..., :4], keras.ops.maximum(y[..., 4:], z[..., 4:])], axis=-1)
    return keras.Model(inputs, L.Dense(3)(L.Flatten()(z / 2.0 + 1.0)))


@integer
def repeated_model():
    layers = [L.Conv2D(4, 3, activation="relu"), L.Conv2D(4, 3), L.Flatten(), L.Dense(8)]
    tower = keras.Sequential([keras.Input((8, 8, 2)), *layers], name="tower")
    a, b = keras.Input((8, 8, 2), name="a"), keras.Input((8, 8, 2), name="b")
    return keras.Model({"a": a, "b": b}, L.Dense(3)(L.Subtract()([tower(a), tower(b)])))


@integer
def encoder_and_decoder():
    inputs = keras.Input((8, 8, 2))
    a = L.Conv2D(4, 3, padding="same", activation="relu")(inputs)
    b = L.Conv2D(8, 3, padding="same", activation="relu")(L.MaxPooling2D()(a))
    x = L.Concatenate()([a, L.UpSampling2D()(b), L.Conv2DTranspose(4, 2, strides=2)(b)])
    return keras.Model(inputs, L.Conv2D(3, 1)(L.ZeroPadding2D(1)(x)))


@integer
def inverted_residual():
    def normed(x, *after):
        x = L.BatchNormalization()(x)
        return after[0](x) if after else x

    inputs = keras.Input((8, 8, 6))
    x = normed(L.Conv2D(12, 1, use_bias=False)(inputs), L.ReLU(6.0))
    x = normed(L.DepthwiseConv2D(3, padding="same", use_bias=False)(x), L.ReLU(6.0))
    x = L.Add()([inputs, normed(L.Conv2D(6, 1, use_bias=False)(x))])
    return keras.Model(inputs, L.Dense(3, activation="softmax")(L.GlobalAveragePooling2D()(x)))


@integer
def linear_in_between():
    code = [L.Dense(6), L.BatchNormalization(), L.Dense(4), L.Dense(8, activation="relu")]
    return chain(L.Dense(12, activation="relu"), *code, L.Dense(3), shape=(10,))


@partly_float
def layer_normalisations():
    first = [L.Dense(8, activation="gelu"), L.LayerNormalization(), L.Dense(6, activation="relu")]
    return chain(*first, L.LayerNormalization(), L.Flatten(), L.Dense(3), shape=(5, 7))


@partly_float
def group_normalisation():
    first = [L.Conv2D(8, 3), L.GroupNormalization(2), L.ReLU(), L.Conv2D(8, 3)]
    return chain(*first, L.RMSNormalization(), L.Flatten(), L.Dense(3), shape=(8, 8, 3))


@partly_float
def attention():
    inputs = keras.Input((6, 8))
    x = L.Dense(8)(inputs)
    x = L.LayerNormalization()(L.Add()([x, L.MultiHeadAttention(2, 4)(x, x)]))
    x = L.LayerNormalization()(L.Add()([x, L.Dense(8)(L.Dense(16, activation="gelu")(x))]))
    return keras.Model(inputs, L.Dense(3)(L.GlobalAveragePooling1D()(x)))


@partly_float
def activations():
    first = [L.Conv2D(6, 3, activation="silu"), L.Conv2D(6, 3, activation="softplus"), L.Conv2D(6, 3), L.LeakyReLU()]
    return chain(*first, L.Conv2D(6, 1, activation="selu"), L.PReLU(), L.Flatten(), L.Dense(3), shape=(8, 8, 3))


NETWORKS = {**INTEGER, **PARTLY_FLOAT}


def make(name):
    """Builds a network with random weights."""
    with mock.patch.dict(small_networks.NETWORKS, {name: NETWORKS[name]}):  # one of the same name comes back after
        return small_networks.make(name)
