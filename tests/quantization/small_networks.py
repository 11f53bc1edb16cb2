"""Small networks of everything the table of layers knows, with random weights, biases and statistics."""

import keras
import numpy as np
from keras import layers as L

from bigmodel.export.formats import FORMATS
from bigmodel.graph import walk

NETWORKS = {}
COUNT = 256


def network(build):
    NETWORKS[build.__name__] = build
    return build


def chain(*links, shape, dtype="float32"):
    return keras.Sequential([keras.Input(shape, dtype=dtype), *links])


@network
def mlp():
    noise = [L.GaussianNoise(0.1), L.Dropout(0.5)]
    return chain(
        L.Dense(32, activation="relu"), *noise, L.Dense(15, activation="relu6"), L.Dense(5, activation="softmax"),
        shape=(20,),
    )  # fmt: skip


@network
def cnn():
    first = [L.Conv2D(8, 3, use_bias=False), L.BatchNormalization(), L.ReLU(), L.MaxPooling2D(2)]
    second = [L.Conv2D(6, 3, padding="same", activation="relu"), L.GlobalAveragePooling2D()]
    return chain(*first, *second, L.Dense(4), shape=(12, 12, 3))


@network
def depthwise_separable():
    def normed(layer):
        return [layer, L.BatchNormalization(), L.ReLU(6.0)]

    return chain(
        *normed(L.Conv2D(8, 3, strides=2, padding="same")), *normed(L.DepthwiseConv2D(3, padding="same")),
        *normed(L.Conv2D(12, 1)), L.SeparableConv2D(8, 3, activation="relu"), L.GlobalAveragePooling2D(), L.Dense(4),
        shape=(16, 16, 3),
    )  # fmt: skip


@network
def conv1d():
    return chain(
        L.Conv1D(8, 5, padding="same", activation="relu"), L.MaxPooling1D(2), L.Conv1D(12, 3, strides=2), L.ReLU(),
        L.Conv1D(6, 1), L.Flatten(), L.Dense(3), shape=(24, 4),
    )  # fmt: skip


@network
def causal_dilated():
    convolutions = [L.Conv1D(8, 3, padding="causal", dilation_rate=d, activation="relu") for d in (1, 2, 4)]
    return chain(*convolutions, L.GlobalAveragePooling1D(), L.Dense(3), shape=(24, 4))


@network
def residual():
    inputs = keras.Input((10, 10, 3))
    x = L.Conv2D(8, 3, padding="same", activation="relu")(inputs)
    y = L.BatchNormalization()(L.Conv2D(8, 3, padding="same")(x))
    y = L.ReLU()(L.Add()([x, y]))
    z = L.Conv2D(4, 3, padding="same", activation="relu")(y)
    return keras.Model(inputs, L.Dense(4)(L.Flatten()(L.Concatenate()([y, z]))))


@network
def embedding():
    convolved = [L.Conv1D(8, 3, activation="relu"), L.GlobalMaxPooling1D()]
    return chain(L.Embedding(30, 8), *convolved, L.Dense(3, activation="sigmoid"), shape=(12,), dtype="int32")


@network
def lstm():
    return chain(L.LSTM(8), L.Dense(3), shape=(6, 4))


@network
def gru():
    return chain(L.GRU(8), L.Dense(3), shape=(6, 4))


@network
def simple_rnn():
    return chain(L.SimpleRNN(8), L.Dense(3), shape=(6, 4))


@network
def two_inputs_two_outputs():
    a, b = keras.Input((8,), name="a"), keras.Input((6, 6, 2), name="b")
    x = L.Dense(8, activation="relu")(a)
    y = L.Flatten()(L.Conv2D(4, 3, activation="relu")(b))
    kind = L.Dense(4, name="kind", activation="softmax")(L.Concatenate()([x, y]))
    return keras.Model({"a": a, "b": b}, {"kind": kind, "size": L.Dense(1, name="size")(x)})


@network
def nested():
    features = [L.Conv2D(6, 3, activation="relu"), L.Conv2D(6, 3), L.ReLU()]
    backbone = keras.Sequential([keras.Input((8, 8, 3)), *features], name="backbone")
    inputs = keras.Input((8, 8, 3))
    return keras.Model(inputs, L.Dense(3)(L.GlobalAveragePooling2D()(backbone(inputs))))


@network
def strided_1x1():
    pointwise = [L.Conv2D(6, 1, strides=2, activation="relu"), L.Conv2D(8, 1, activation="relu")]
    return chain(*pointwise, L.Flatten(), L.Dense(3), shape=(8, 8, 4))


@network
def grouped():
    return chain(
        L.Conv2D(8, 3, groups=2, activation="relu"), L.Conv2D(8, 1, groups=4), L.Flatten(), L.Dense(3), shape=(8, 8, 4)
    )


@network
def dilated():
    return chain(
        L.Conv2D(8, 3, dilation_rate=2, activation="relu"), L.Conv2D(6, 3, dilation_rate=(1, 2), padding="same"),
        L.DepthwiseConv2D(3, dilation_rate=2), L.Flatten(), L.Dense(3), shape=(12, 11, 3),
    )  # fmt: skip


@network
def depth_multiplier():
    depthwise = [L.DepthwiseConv2D(3, depth_multiplier=3, activation="relu"), L.DepthwiseConv2D(3, strides=2)]
    return chain(*depthwise, L.Flatten(), L.Dense(3), shape=(9, 9, 2))


@network
def dense_of_sequences():
    return chain(L.Dense(8, activation="relu"), L.Dense(6), L.Flatten(), L.Dense(3), shape=(5, 7))


@network
def pooling():
    return chain(
        L.Conv2D(6, 3, padding="same", activation="relu"), L.AveragePooling2D(2), L.Conv2D(6, 3, activation="relu"),
        L.MaxPooling2D(2, padding="same"), L.GlobalMaxPooling2D(), L.Dense(3), shape=(12, 12, 2),
    )  # fmt: skip


@network
def normalised_before_dense():
    noise = [L.Dropout(0.3), L.BatchNormalization()]
    return chain(L.BatchNormalization(), L.Dense(8, activation="relu"), *noise, L.Dense(3), shape=(6,))


@network
def linear_in_between():
    return chain(L.Dense(12), L.Dropout(0.5), L.Dense(6), L.Dense(8, activation="relu"), L.Dense(3), shape=(10,))


@network
def root_mean_squares():
    inputs = keras.Input((6, 8))
    x = inputs + L.Dense(8)(L.Dense(12, activation="relu")(L.RMSNormalization()(inputs)))
    return keras.Model(inputs, L.Dense(3)(L.RMSNormalization()(L.GlobalAveragePooling1D()(x))))


@network
def operator_between():
    inputs = keras.Input((6,))
    return keras.Model(inputs, L.Dense(3)(L.Dense(8, activation="relu")(inputs) * 1.5))


@network
def squeeze_and_excite():
    inputs = keras.Input((8, 8, 4))
    x = L.Conv2D(6, 3, activation="relu")(inputs)
    gate = L.Reshape((1, 1, 6))(L.Dense(6, activation="sigmoid")(L.GlobalAveragePooling2D()(x)))
    return keras.Model(inputs, L.Dense(3)(L.Flatten()(L.Multiply()([x, gate]))))


@network
def padded_and_rescaled():
    upsampled = [L.ZeroPadding2D(1), L.Conv2D(6, 3, activation="relu"), L.UpSampling2D(2), L.Conv2D(4, 2, strides=2)]
    return chain(L.Rescaling(0.5), *upsampled, L.Flatten(), L.Dense(3), shape=(6, 6, 3))


@network
def operators():
    inputs = keras.Input((6,))
    x = L.Dense(6, activation="relu")(inputs)
    return keras.Model(inputs, L.Dense(2)(keras.ops.tanh(x + L.Dense(6)(x) * 0.5)))


@network
def shared_layer():
    dense, inputs = L.Dense(6, activation="relu"), keras.Input((6,))
    return keras.Model(inputs, L.Dense(2)(dense(dense(inputs))))


@network
def free_image_size():
    return chain(L.Conv2D(6, 3, activation="relu"), L.GlobalAveragePooling2D(), L.Dense(3), shape=(None, None, 3))


@network
def transposed():
    first = [L.Conv2D(4, 3, activation="relu"), L.Conv2DTranspose(3, 3, strides=2)]
    return chain(*first, L.GlobalAveragePooling2D(), L.Dense(2), shape=(6, 6, 2))


@network
def transposed1d():
    return chain(L.Conv1DTranspose(4, 3, strides=2, activation="relu"), L.Flatten(), L.Dense(2), shape=(6, 3))


@network
def volumes():
    convolutions = [L.Conv3D(4, 3, activation="relu"), L.Conv3DTranspose(3, 2)]
    return chain(*convolutions, L.Flatten(), L.Dense(2), shape=(5, 5, 5, 2))


@network
def separable1d():
    convolutions = [L.DepthwiseConv1D(3, depth_multiplier=2, activation="relu"), L.SeparableConv1D(5, 3)]
    return chain(*convolutions, L.Flatten(), L.Dense(3), shape=(9, 3))


@network
def einsum():
    heads = L.EinsumDense("abc,cde->abde", output_shape=(6, 3, 7), bias_axes="de")
    joined = L.EinsumDense("abde,def->abf", output_shape=(6, 9), bias_axes="f", activation="relu")
    mixed = L.EinsumDense("abc,bd->adc", output_shape=(4, 9))
    placed = L.EinsumDense("abc,bcd->abd", output_shape=(4, 5))
    return chain(heads, joined, mixed, placed, L.Flatten(), L.Dense(3), shape=(6, 8))


@network
def attention():
    inputs = keras.Input((6, 8))
    x = L.LayerNormalization()(inputs + L.MultiHeadAttention(2, 4)(inputs, inputs))
    x = x + L.GroupQueryAttention(4, 4, 2)(x, x)
    return keras.Model(inputs, L.Dense(3)(L.GlobalAveragePooling1D()(x)))


@network
def bidirectional():
    rnns = [L.Bidirectional(L.GRU(6, return_sequences=True)), L.Bidirectional(L.LSTM(5))]
    return chain(*rnns, L.Dense(3), shape=(6, 4))


@network
def cells():
    first = L.RNN([L.LSTMCell(6), L.GRUCell(5)], return_sequences=True)
    return chain(first, L.GRU(6, reset_after=False), L.Dense(3), shape=(6, 4))


@network
def lstm_by_gates():
    return chain(L.LSTM(12, implementation=1), L.Dense(3), shape=(6, 9))


@network
def convolved_state():
    return chain(L.ConvLSTM2D(4, 3), L.Flatten(), L.Dense(2), shape=(4, 6, 6, 2))


@network
def convolved_state1d():
    return chain(L.ConvLSTM1D(4, 3), L.Flatten(), L.Dense(2), shape=(4, 6, 2))


@network
def convolved_state3d():
    return chain(L.ConvLSTM3D(3, 2), L.Flatten(), L.Dense(2), shape=(3, 4, 4, 4, 2))


@network
def distributed():
    steps = [L.Conv2D(4, 3, activation="relu"), L.Flatten(), L.Dense(6)]
    return chain(*map(L.TimeDistributed, steps), L.GlobalAveragePooling1D(), shape=(4, 6, 6, 2))


def with_activation(name):
    return chain(L.Dense(16, activation=name), L.Dense(3, activation=name), shape=(10,))


ACTIVATIONS = ("softmax", "sigmoid", "tanh", "gelu", "elu", "silu", "leaky_relu", "hard_sigmoid", "softplus", "selu")


def make(name):
    """Builds a network by name and gives it random weights: fresh ones hide what normalisations and biases do."""
    return randomised(NETWORKS[name]() if name in NETWORKS else with_activation(name))


def randomised(model):
    """Gives a model random weights, in place, and returns it."""
    rng = np.random.default_rng(0)
    for layer in walk(model):
        for variable in layer.weights:
            kind, shape = variable.path.split("/")[-1], variable.shape
            if kind == "moving_variance":
                variable.assign(rng.uniform(0.5, 2.0, shape))
            elif kind in ("gamma", "scale"):  # of either sign: a folded channel may be negated
                variable.assign(rng.uniform(0.5, 1.5, shape) * rng.choice([-1, 1], shape))
            elif "seed" not in kind:
                fan_in = np.prod(shape[:-1])
                variable.assign(rng.normal(0, 1 / np.sqrt(fan_in) if len(shape) > 1 else 0.3, shape))
    return model


def samples(model, count=COUNT, seed=1):
    """Random inputs in the structure that the model takes; free sizes are 8."""
    rng = np.random.default_rng(seed)

    def one(tensor):
        shape = (count, *(8 if size is None else size for size in tensor.shape[1:]))
        if tensor.dtype == "int32":
            return rng.integers(0, 30, shape).astype("int32")
        return rng.normal(size=shape).astype("float32")

    return keras.tree.map_structure(one, model.inputs[0] if isinstance(model, keras.Sequential) else model.input)


def flat(outputs):
    """Outputs of a model or a file as a list."""
    return [np.asarray(value) for value in (outputs.values() if isinstance(outputs, dict) else [outputs])]


def dynamic(bits):
    """The file format of these bits that finds ranges at run time."""
    return FORMATS[f"dynamic_int{bits}"]
