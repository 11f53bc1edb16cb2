"""The networks and the data of the benchmarks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

Arrays = tuple[np.ndarray, np.ndarray]


def fashion_mnist(path: str | Path | None, *, flat: bool = False) -> tuple[Arrays, Arrays]:
    """Returns Fashion-MNIST as float32 in 0..1: (train, test).

    Args:
        path: A .npz with x_train, y_train, x_test and y_test; `None` downloads it through Keras.
        flat: Images as vectors of 784 instead of 28 x 28 x 1.
    """
    if path is None:
        (x_train, y_train), (x_test, y_test) = keras.datasets.fashion_mnist.load_data()
    else:
        with np.load(path) as file:
            x_train, y_train, x_test, y_test = (file[k] for k in ("x_train", "y_train", "x_test", "y_test"))
    shape = (-1, 784) if flat else (-1, 28, 28, 1)
    x_train, x_test = ((x.reshape(shape) / 255.0).astype("float32") for x in (x_train, x_test))
    return (x_train, y_train.astype("int32")), (x_test, y_test.astype("int32"))


def mlp(dropout: float = 0.5) -> keras.Model:
    """784-256-128-64-10 with dropout."""
    model: Any = keras.Sequential([keras.Input((784,))], name="mlp")
    for units in (256, 128, 64):
        model.add(keras.layers.Dense(units, activation="relu"))
        model.add(keras.layers.Dropout(dropout))
    model.add(keras.layers.Dense(10, activation="softmax"))
    return _compiled(model)


def resnet8(widths: tuple[int, int, int] = (16, 32, 64)) -> keras.Model:
    """The residual network of MLPerf Tiny: three stages of one block each."""
    layers = keras.layers

    def convolution(x: Any, filters: int, size: int, strides: int, *, relu: bool) -> Any:
        x = layers.Conv2D(filters, size, strides=strides, padding="same", use_bias=False)(x)
        x = layers.BatchNormalization()(x)
        return layers.ReLU()(x) if relu else x

    inputs = keras.Input((28, 28, 1))
    x = convolution(inputs, widths[0], 3, 1, relu=True)
    for stage, filters in enumerate(widths):
        strides = 1 if stage == 0 else 2
        shortcut = x if stage == 0 else convolution(x, filters, 1, strides, relu=False)
        x = convolution(x, filters, 3, strides, relu=True)
        x = convolution(x, filters, 3, 1, relu=False)
        x = layers.ReLU()(layers.Add()([x, shortcut]))
    x = layers.GlobalAveragePooling2D()(x)
    return _compiled(keras.Model(inputs, layers.Dense(10, activation="softmax")(x), name="resnet8"))


def ds_cnn(filters: int = 64, blocks: int = 4) -> keras.Model:
    """The depthwise-separable network of MLPerf Tiny, for images."""
    layers = keras.layers
    inputs = keras.Input((28, 28, 1))
    x = layers.Conv2D(filters, 3, strides=2, padding="same", use_bias=False)(inputs)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    for _ in range(blocks):
        x = layers.DepthwiseConv2D(3, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
        x = layers.Conv2D(filters, 1, use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.GlobalAveragePooling2D()(x)
    return _compiled(keras.Model(inputs, layers.Dense(10, activation="softmax")(x), name="ds_cnn"))


def conv1d() -> keras.Model:
    """A convolutional network over the 28 rows of an image, as a sequence."""
    layers = keras.layers
    inputs = keras.Input((28, 28))
    x = layers.Conv1D(32, 5, padding="same", activation="relu")(inputs)
    x = layers.MaxPooling1D(2)(x)
    x = layers.BatchNormalization()(layers.Conv1D(64, 3, padding="same", dilation_rate=2, activation="relu")(x))
    x = layers.AveragePooling1D(2)(x)
    x = layers.GlobalAveragePooling1D()(layers.Conv1D(64, 3, activation="relu")(x))
    return _compiled(keras.Model(inputs, layers.Dense(10, activation="softmax")(x), name="conv1d"))


def vit(width: int = 32, blocks: int = 2, heads: int = 4) -> keras.Model:
    """A small vision transformer (Dosovitskiy et al., 2021) of 7 x 7 patches."""
    layers = keras.layers
    inputs = keras.Input((28, 28, 1))
    x = layers.Reshape((49, width))(layers.Conv2D(width, 4, strides=4)(inputs))
    x = x + layers.Embedding(49, width)(keras.ops.arange(49))
    for _ in range(blocks):
        y = layers.LayerNormalization()(x)
        x = layers.Add()([x, layers.MultiHeadAttention(heads, width // heads)(y, y)])
        y = layers.Dense(2 * width, activation="gelu")(layers.LayerNormalization()(x))
        x = layers.Add()([x, layers.Dense(width)(y)])
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x))
    return _compiled(keras.Model(inputs, layers.Dense(10, activation="softmax")(x), name="vit"))


def lstm(units: int = 64) -> keras.Model:
    """An LSTM over the rows of an image."""
    return _recurrent("lstm", keras.layers.LSTM(units))


def gru(units: int = 64) -> keras.Model:
    """A GRU over the rows of an image."""
    return _recurrent("gru", keras.layers.GRU(units))


def _recurrent(name: str, layer: keras.layers.Layer) -> keras.Model:
    head = keras.layers.Dense(10, activation="softmax")
    return _compiled(keras.Sequential([keras.Input((28, 28)), layer, head], name=name))


def unet(width: int = 8) -> keras.Model:
    """A U-Net (Ronneberger et al., 2015) that tells an image's pixels from its background."""
    layers = keras.layers

    def block(x: Any, filters: int) -> Any:
        x = layers.Conv2D(filters, 3, padding="same", use_bias=False)(x)
        return layers.ReLU()(layers.BatchNormalization()(x))

    inputs = keras.Input((28, 28, 1))
    outer = block(inputs, width)
    inner = block(layers.MaxPooling2D()(outer), 2 * width)
    x = block(layers.MaxPooling2D()(inner), 4 * width)
    x = block(layers.Concatenate()([layers.UpSampling2D()(x), inner]), 2 * width)
    x = layers.Conv2DTranspose(width, 2, strides=2, activation="relu")(x)
    x = block(layers.Concatenate()([x, outer]), width)
    return _compiled(keras.Model(inputs, layers.Conv2D(3, 1, activation="softmax")(x), name="unet"))


def text(tokens: int = 64, width: int = 32) -> keras.Model:
    """Embedding and attention over the token ids of `as_tokens`."""
    layers = keras.layers
    inputs = keras.Input((49,), dtype="int32")
    x = layers.Embedding(tokens, width)(inputs)
    x = x + layers.Embedding(49, width)(keras.ops.arange(49))
    x = layers.LayerNormalization()(x + layers.MultiHeadAttention(2, width // 2)(x, x))
    x = layers.GlobalAveragePooling1D()(layers.Dense(2 * width, activation="relu")(x))
    return _compiled(keras.Model(inputs, layers.Dense(10, activation="softmax")(x), name="text"))


def nested(width: int = 16) -> keras.Model:
    """Transfer learning: a backbone as one layer, rescaled images in front and a head behind."""
    layers = keras.layers
    backbone = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(width, 3, strides=2, padding="same", use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.SeparableConv2D(2 * width, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(),
        ],
        name="backbone",
    )
    inputs = keras.Input((28, 28, 1))
    x = layers.GlobalAveragePooling2D()(backbone(layers.Rescaling(2.0, offset=-1.0)(inputs)))
    x = layers.Dropout(0.2)(layers.Dense(32, activation="relu")(x))
    return _compiled(keras.Model(inputs, layers.Dense(10, activation="softmax")(x), name="nested"))


@keras.saving.register_keras_serializable(package="benchmarks")
class Subclassed(keras.Model):
    """A network whose layers only its `call` connects."""

    def __init__(self, units: int = 64, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units = units
        self.first = keras.layers.Dense(units, activation="relu")
        self.second = keras.layers.Dense(units, activation="relu")
        self.head = keras.layers.Dense(10, activation="softmax")

    def call(self, inputs: Any) -> Any:
        """Returns the class probabilities of vectors."""
        x = self.first(inputs)
        return self.head(x + self.second(x))

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "units": self.units}


def subclassed(units: int = 64) -> keras.Model:
    """A built `Subclassed`."""
    model = Subclassed(units, name="subclassed")
    model(np.zeros((1, 784), "float32"))
    return _compiled(model)


def mobilenet_v2() -> keras.Model:
    """Keras' MobileNetV2 of a third of the channels (`alpha=0.35`), for images of 32 x 32 x 3."""
    network = keras.applications.MobileNetV2((32, 32, 3), alpha=0.35, weights=None, classes=10)
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.9  # its 0.999 takes thousands of steps to forget the start
    return _compiled(network)


def as_vectors(x: np.ndarray, y: np.ndarray) -> Arrays:
    """Images as vectors of 784."""
    return x.reshape(len(x), -1), y


def as_images(x: np.ndarray, y: np.ndarray) -> Arrays:
    """Images as they are: 28 x 28 x 1."""
    return x, y


def as_rows(x: np.ndarray, y: np.ndarray) -> Arrays:
    """Images as sequences of 28 rows."""
    return x.reshape(len(x), 28, 28), y


def as_colour(x: np.ndarray, y: np.ndarray) -> Arrays:
    """Images with a border, of 32 x 32, in three equal channels from -1 to 1."""
    wide = np.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)))
    return np.repeat(2.0 * wide - 1.0, 3, axis=-1).astype("float32"), y


def as_segments(x: np.ndarray, y: np.ndarray) -> Arrays:
    """Images with a label for each pixel: background, dark or bright."""
    return x, np.digitize(x[..., 0], (0.05, 0.6)).astype("int32")


def as_tokens(x: np.ndarray, y: np.ndarray) -> Arrays:
    """Images as "texts" of 49 token ids: each 4 x 4 patch as one of 64 by the grey levels of its quarters."""
    quarters = x.reshape(len(x), 7, 2, 2, 7, 2, 2).mean(axis=(3, 6)).transpose(0, 1, 3, 2, 4).reshape(len(x), 49, 4)
    levels = np.digitize(quarters[..., :3], (0.05, 0.35, 0.7))
    return (levels @ np.array([16, 4, 1])).astype("int32"), y


NETWORKS: dict[str, tuple[Callable[[], keras.Model], Callable[[np.ndarray, np.ndarray], Arrays]]] = {
    "mlp": (mlp, as_vectors),
    "resnet8": (resnet8, as_images),
    "ds_cnn": (ds_cnn, as_images),
    "mobilenet_v2": (mobilenet_v2, as_colour),
    "conv1d": (conv1d, as_rows),
    "vit": (vit, as_images),
    "lstm": (lstm, as_rows),
    "gru": (gru, as_rows),
    "unet": (unet, as_segments),
    "text": (text, as_tokens),
    "nested": (nested, as_images),
    "subclassed": (subclassed, as_vectors),
}
"""Of each network its builder, and what makes its samples and labels from images of 28 x 28 x 1 and their labels."""


def _compiled(model: keras.Model) -> keras.Model:
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def trained(model: keras.Model, train: Arrays, *, epochs: int, seed: int, cache: Path | None = None) -> keras.Model:
    """Trains a model, or reads it from `cache` if it was trained before.

    The learning rate falls to zero with a cosine; the same seed gives the same model.
    """
    if cache is not None and cache.is_file():
        return keras.models.load_model(cache)
    keras.utils.set_random_seed(seed)
    model = keras.models.clone_model(model)
    steps = epochs * -(-len(train[0]) // 128)
    model.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(2e-3, steps)),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    model.fit(*train, epochs=epochs, batch_size=128, verbose=0)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    if cache is not None:
        cache.parent.mkdir(parents=True, exist_ok=True)
        model.save(cache)
    return model
