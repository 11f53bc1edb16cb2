"""The networks and the data of the benchmarks."""

from __future__ import annotations

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
        model.save(cache)
    return model
