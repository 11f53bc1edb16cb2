"""Small networks, one for each way in which channels travel."""

import keras
from keras import layers, ops


def mlp():
    x = keras.Input((6,))
    y = layers.Dense(16, activation="gelu", name="a")(x)
    y = layers.Dropout(0.2)(y)
    y = layers.Dense(12, activation="sigmoid", name="b")(y)
    return keras.Model(x, layers.Dense(3, activation="softmax", name="head")(y))


def sequential_cnn():
    return keras.Sequential(
        [
            keras.Input((8, 8, 2)),
            layers.Conv2D(8, 3, padding="same", use_bias=False),
            layers.BatchNormalization(),
            layers.PReLU(shared_axes=[1, 2]),
            layers.MaxPooling2D(),
            layers.SeparableConv2D(12, 3, padding="same", depth_multiplier=2, activation="swish"),
            layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2),
            layers.ZeroPadding2D(1),
            layers.PReLU(),
            layers.Conv2D(6, 3, activation="sigmoid", name="flattened"),
            layers.Flatten(),
            layers.Dense(10, activation="relu"),
            layers.Dense(4),
        ]
    )


def grouped_cnn():
    x = keras.Input((8, 8, 4))
    y = layers.Conv2D(8, 1, activation="relu", name="in")(x)
    y = layers.Conv2D(16, 3, groups=2, padding="same", activation="relu", name="few_groups")(y)
    y = layers.GroupNormalization(8, name="norm")(y)
    y = layers.Conv2D(32, 3, groups=8, padding="same", activation="relu", name="many_groups")(y)
    y = layers.Conv2D(32, 3, groups=32, padding="same", name="depthwise")(y)
    return keras.Model(x, layers.Dense(3, name="head")(layers.GlobalAveragePooling2D()(y)))


def squeeze_excite():
    x = keras.Input((8, 8, 3))
    y = layers.Conv2D(16, 3, padding="same", activation="relu", name="conv")(x)
    s = layers.GlobalAveragePooling2D()(y)
    s = layers.Reshape((1, 1, 16))(s)
    s = layers.Conv2D(8, 1, activation="relu", name="squeeze")(s)
    s = layers.Conv2D(16, 1, activation="sigmoid", name="excite")(s)
    y = layers.Multiply()([y, s])
    z = layers.Conv2D(16, 1, name="project")(y)
    y = layers.Add()([y, z])
    gate = layers.Conv2D(1, 1, activation="sigmoid", name="gate")(y)
    return keras.Model(x, layers.Dense(3, name="head")(layers.GlobalMaxPooling2D()(y * gate)))


def unet():
    x = keras.Input((8, 8, 1))
    a = layers.Conv2D(8, 3, padding="same", activation="relu", name="down1")(x)
    b = layers.Conv2D(12, 3, padding="same", activation="relu", name="down2")(layers.MaxPooling2D()(a))
    c = layers.Conv2D(16, 3, padding="same", activation="relu", name="bottom")(layers.AveragePooling2D(2)(b))
    y = layers.Conv2DTranspose(12, 2, strides=2, name="up2")(c)
    y = layers.Concatenate()([y, b])
    y = layers.Conv2D(10, 3, padding="same", activation="relu", name="merge2")(y)
    y = layers.UpSampling2D(interpolation="bilinear")(y)
    y = layers.Concatenate()([y, a, x])
    return keras.Model(x, layers.Conv2D(2, 1, name="head")(y))


def vit():
    x = keras.Input((8, 8, 3))
    y = layers.Conv2D(16, 4, strides=4, name="patches")(x)
    y = layers.Reshape((4, 16))(y)
    for block in range(2):
        n = layers.LayerNormalization()(y)
        y = layers.Add()([y, layers.MultiHeadAttention(4, 6, value_dim=5, name=f"attention{block}")(n, n)])
        n = layers.LayerNormalization()(y)
        n = layers.Dense(32, activation="gelu", name=f"expand{block}")(n)
        y = layers.Add()([y, layers.Dense(16, name=f"contract{block}")(n)])
    y = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(y))
    return keras.Model(x, layers.Dense(3, name="head")(y))


def sequence():
    tokens = keras.Input((12,), dtype="int32")
    y = layers.Embedding(10, 8, mask_zero=False, name="embed")(tokens)
    y = layers.Conv1D(12, 3, padding="causal", activation="relu", name="conv")(y)
    y = layers.Bidirectional(layers.LSTM(6, return_sequences=True), name="both")(y)
    y = layers.GRU(8, return_sequences=True, name="gru")(y)
    y = layers.GroupQueryAttention(4, 4, 2, name="attend")(y, y)
    y = layers.TimeDistributed(layers.Dense(10, activation="tanh"), name="steps")(y)
    return keras.Model(tokens, layers.Dense(2, name="head")(layers.LSTM(5, name="last")(y)))


def masked_sequence():
    tokens = keras.Input((None,), dtype="int32")
    y = layers.Embedding(10, 8, mask_zero=True, name="embed")(tokens)
    y, h, c = layers.LSTM(8, return_sequences=True, return_state=True, name="encode")(y)
    y = layers.LSTM(8, return_sequences=True, name="decode")(y, initial_state=[h, c])
    y = layers.SimpleRNN(6, return_sequences=True, name="simple")(y)
    y = layers.Attention(name="attend")([y, y])
    return keras.Model(tokens, layers.Dense(2, name="head")(layers.GlobalAveragePooling1D()(y)))


def two_in_two_out():
    image, numbers = keras.Input((8, 8, 1), name="image"), keras.Input((5,), name="numbers")
    a = layers.Conv2D(8, 3, activation="relu", name="conv")(image)
    a = layers.Flatten()(a)
    b = layers.Dense(6, activation="relu", name="dense")(numbers)
    y = layers.Concatenate()([a, numbers, b])
    y = layers.Dense(12, activation="relu", name="trunk")(y)
    left = layers.Dense(2, name="left")(layers.Dense(6, activation="elu", name="pre_left")(y))
    return keras.Model({"image": image, "numbers": numbers}, {"left": left, "right": layers.Dense(1, name="right")(y)})


def transfer():
    inner = keras.Input((None, None, 3), name="inner")
    y = layers.Conv2D(8, 3, padding="same", name="stem")(inner)
    y = layers.BatchNormalization(name="norm")(y)
    y = layers.ReLU(name="relu")(y)
    base = keras.Model(inner, layers.Conv2D(12, 3, activation="relu", name="top")(y), name="base")
    base.trainable = False
    neck = keras.Sequential([keras.Input((12,)), layers.Dense(10, activation="relu"), layers.Dense(8)], name="neck")
    x = keras.Input((8, 8, 3))
    y = layers.GlobalAveragePooling2D()(base(x * 0.5, training=False))
    return keras.Model(x, layers.Dense(2, name="head")(neck(y)))


def shared_layer():
    a, b = keras.Input((6,), name="a"), keras.Input((6,), name="b")
    first, shared = layers.Dense(8, activation="relu", name="first"), layers.Dense(10, activation="relu", name="shared")
    left = shared(first(a))
    right = shared(layers.Dense(8, activation="relu", name="other")(b))
    return keras.Model([a, b], layers.Dense(2, name="head")(layers.Subtract()([left, right])))


def op_nodes():
    x = keras.Input((8, 8, 3))
    y = layers.Conv2D(16, 3, padding="same", name="conv")(x)
    y = ops.relu(y) * 2.0 + 1.0
    left, right = y[..., :8], y[..., 8:]
    y = ops.concatenate([ops.sigmoid(left) * right, right], axis=-1)
    p, q, r = ops.split(y, [4, 10], axis=-1)
    y = ops.concatenate([r, p, q], axis=-1)
    y = ops.transpose(y, (0, 3, 1, 2))
    y = ops.mean(y, axis=(2, 3))
    y = ops.expand_dims(y, 1)
    y = layers.Dense(12, activation="relu", name="dense")(ops.squeeze(y, 1))
    return keras.Model(x, layers.Dense(2, name="head")(-y))


def hand_written_attention():
    x = keras.Input((5, 8))
    q, k, v = (layers.Dense(12, name=name)(x) for name in ("query", "key", "value"))
    q, k, v = (ops.transpose(ops.reshape(t, (-1, 5, 3, 4)), (0, 2, 1, 3)) for t in (q, k, v))
    scores = ops.softmax(ops.matmul(q, ops.swapaxes(k, -1, -2)) * 0.5)
    y = ops.reshape(ops.transpose(ops.einsum("bhts,bhsd->bhtd", scores, v), (0, 2, 1, 3)), (-1, 5, 12))
    y = layers.Dense(10, activation="relu", name="out")(y)
    return keras.Model(x, layers.Dense(2, name="head")(ops.sum(y, axis=1)))


def einsum_and_3d():
    x = keras.Input((4, 6, 6, 2))
    y = layers.Conv3D(8, 3, padding="same", activation="relu", name="conv3d")(x)
    y = layers.Conv3DTranspose(6, 2, name="transpose3d")(y)
    y = layers.ConvLSTM2D(4, 3, name="convlstm")(y)
    y = layers.EinsumDense("bhwc,cmn->bhwmn", (5, 5, 3, 4), bias_axes="mn", name="einsum")(y)
    y = layers.Permute((1, 2, 4, 3))(y)
    return keras.Model(x, layers.Dense(2, name="head")(layers.Flatten()(y)))


def gated_attention():
    x = keras.Input((5, 8))
    y = layers.Dense(12, activation="relu", name="dense")(x)
    a = layers.MultiHeadAttention(4, 6, value_dim=5, use_gate=True, name="many")(y, y)
    b = layers.GroupQueryAttention(4, 4, 2, use_gate=True, name="grouped")(y, y)
    return keras.Model(x, layers.Dense(2, name="head")(layers.Concatenate()([a, b])))


def called_twice():
    x = keras.Input((6,), name="x")
    inner = keras.Model(x, layers.Dense(8, activation="relu", name="cut")(x)[:, 2:], name="inner")
    outer = keras.Input((6,))
    y = inner(outer)
    z = inner(layers.Dense(6, name="between")(layers.Dense(9, activation="relu", name="wide")(y)))
    return keras.Model(outer, layers.Dense(2, name="head")(y + z))


def backbone():
    x = keras.Input((16, 16, 3), name="image")
    y = layers.Conv2D(8, 3, strides=2, padding="same", use_bias=False, name="stem")(x)
    y = layers.ReLU(6.0)(layers.BatchNormalization(name="stem_norm")(y))
    z = layers.Conv2D(24, 1, use_bias=False, name="expand")(y)
    z = layers.ReLU(6.0)(layers.BatchNormalization(name="expand_norm")(z))
    z = layers.DepthwiseConv2D(3, padding="same", use_bias=False, name="depthwise")(z)
    z = layers.Conv2D(8, 1, name="project")(layers.BatchNormalization(name="depthwise_norm")(z))
    base = keras.Model(x, layers.Add()([y, z]), name="base")
    scale = layers.Normalization(mean=[0.1, 0.2, 0.3], variance=[1.0, 2.0, 3.0])
    top = [layers.GlobalAveragePooling2D(), layers.Dropout(0.2), layers.Dense(3, name="head")]
    return keras.Sequential([keras.Input((16, 16, 3)), layers.RandomFlip(), scale, base, *top])


NETWORKS = [
    mlp,
    sequential_cnn,
    grouped_cnn,
    squeeze_excite,
    unet,
    vit,
    sequence,
    masked_sequence,
    two_in_two_out,
    transfer,
    shared_layer,
    op_nodes,
    hand_written_attention,
    einsum_and_3d,
    gated_attention,
    called_twice,
    backbone,
]
