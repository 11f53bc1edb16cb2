"""Small models as files, made once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest


class Samples:
    """The least that an evaluation needs of a split."""

    name = "test"

    def __init__(self, x: Any, y: Any, w: Any = None) -> None:
        self.parts = (x, y, w)

    def batches(self, batch_size: int = 128, **_: Any) -> Any:
        import keras

        parts = [part for part in self.parts if part is not None]
        count = len(keras.tree.flatten(parts[0])[0])
        for begin in range(0, count, batch_size):
            yield tuple(keras.tree.map_structure(lambda a, b=begin: a[b : b + batch_size], part) for part in parts)


@pytest.fixture(scope="session")
def samples() -> type[Samples]:
    return Samples


@pytest.fixture(scope="session")
def network() -> Any:
    """Conv2D 1 to 8, DepthwiseConv2D, pooling, Dense 128 to 5, softmax."""
    import keras

    keras.utils.set_random_seed(0)
    layers = keras.layers
    x = keras.Input((8, 8, 1), name="image")
    h = layers.Conv2D(8, 3, padding="same", activation="relu", bias_initializer="normal")(x)
    h = layers.DepthwiseConv2D(3, padding="same", bias_initializer="normal")(h)
    h = layers.Flatten()(layers.MaxPooling2D()(h))
    model = keras.Model(x, layers.Dense(5, activation="softmax", name="label", bias_initializer="normal")(h))
    model.compile(loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


@pytest.fixture(scope="session")
def pair() -> Any:
    """Two inputs whose names are out of order, two outputs by name."""
    import keras

    keras.utils.set_random_seed(0)
    left, right = keras.Input((4,), name="b_input"), keras.Input((3,), name="a_input")
    score = keras.layers.Dense(1, activation="sigmoid", name="score")(keras.layers.Concatenate()([left, right]))
    model = keras.Model([left, right], {"place": keras.layers.Dense(2, name="place")(left), "score": score})
    model.compile(
        loss={"place": "mse", "score": "binary_crossentropy"}, metrics={"place": ["mae"], "score": ["accuracy"]}
    )
    return model


def convert(model: Any, directory: Path, name: str, **int8: Any) -> Path:
    """Converts with TensorFlow's own converter, so that these tests stand without bigmodel.export."""
    import tensorflow as tf

    saved = directory / f"{name}_saved"
    model.export(saved, verbose=False)
    converter = tf.lite.TFLiteConverter.from_saved_model(str(saved))
    if int8:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = int8["representative"]
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.int8
    path = directory / f"{name}.tflite"
    path.write_bytes(converter.convert())
    return path


@pytest.fixture(scope="session")
def files(network: Any, pair: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    from ai_edge_quantizer import quantizer, recipe

    directory = tmp_path_factory.mktemp("files")
    images = np.random.default_rng(0).random((20, 1, 8, 8, 1), dtype=np.float32)
    made = {
        "float": convert(network, directory, "float"),
        "int8": convert(network, directory, "int8", representative=lambda: ([image] for image in images)),
        "pair": convert(pair, directory, "pair"),
    }
    recipes = {
        "dynamic8": recipe.dynamic_wi8_afp32(),
        "dynamic4": recipe.dynamic_wi4_afp32(),
        "weights8": recipe.weight_only_wi8_afp32(),
    }
    for name, steps in recipes.items():
        made[name] = directory / f"{name}.tflite"
        quantizer.Quantizer(str(made["float"]), steps).quantize().export_model(str(made[name]), overwrite=True)
    return made


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(1).random((300, 8, 8, 1), dtype=np.float32)


@pytest.fixture
def labels() -> np.ndarray:
    return np.random.default_rng(2).integers(0, 5, 300)
