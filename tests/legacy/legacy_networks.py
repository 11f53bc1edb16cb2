"""tf_keras networks for the tests, with all weights and statistics drawn at random."""

from __future__ import annotations

from typing import Any

import numpy as np
import tf_keras
from tf_keras import layers

import bigmodel as bm

TRAIN = bm.TrainConfig(epochs=4, batch_size=64)


def randomised(model: Any, seed: int = 0) -> Any:
    """Draws every weight, bias and statistic, and returns the model: zeros and ones would hide what is mixed up."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        if not weight.dtype.is_floating:
            continue
        shape = tuple(weight.shape)
        if "variance" in weight.name or "gamma" in weight.name:
            values = rng.uniform(0.5, 1.5, shape)
        else:
            fan = np.prod(shape[:-1]) if len(shape) > 1 else 10
            values = rng.normal(0, 1 / np.sqrt(max(1, fan)), shape)
        weight.assign(values.astype("float32"))
    for layer in model.layers:
        if hasattr(layer, "finalize_state"):
            layer.finalize_state()
    return model


def chain(shape: tuple[int | None, ...], *rest: Any, dtype: str = "float32") -> Any:
    """Returns a randomised Sequential model."""
    return randomised(tf_keras.Sequential([tf_keras.Input(shape, dtype=dtype), *rest]))


def digits_network(seed: int = 0) -> Any:
    """A compiled network with a nested one, batch normalisation, dropout and an operator, for images of 8 x 8."""
    tf_keras.utils.set_random_seed(seed)
    inner = tf_keras.Sequential(
        [
            tf_keras.Input((8, 8, 1)),
            layers.Conv2D(8, 3, padding="same", use_bias=False, name="conv"),
            layers.BatchNormalization(name="norm"),
            layers.ReLU(name="relu"),
            layers.MaxPooling2D(name="pool"),
        ],
        name="inner",
    )
    image = tf_keras.Input((8, 8, 1), name="image")
    y = layers.Flatten(name="flat")(inner(image))
    y = layers.Dropout(0.1, name="drop")(layers.Dense(32, activation="relu", name="dense")(y))
    model = tf_keras.Model(image, layers.Dense(10, name="head")(y) * 1.5, name="digits")
    model.compile(
        tf_keras.optimizers.Adam(2e-3),
        tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model
