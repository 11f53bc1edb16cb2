"""Throughput of the augmented stream, next to the same Keras layers mapped by hand and to a bare pipeline.

    python -m benchmarks.augmentation

Every pipeline reads the same arrays in batches of 128; the passes are interleaved and the median of each is printed,
in images per second and as a share of the layers mapped by hand.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator

import keras
import numpy as np
import tensorflow as tf

from bigmodel.config import AugmentConfig
from bigmodel.data import as_data
from bigmodel.data.augmentation import augment

IMAGES = 4096
BATCH = 128
PASSES = 5
SETS: dict[str, list[str]] = {
    "flip": ["flip_horizontal"],
    "geometry": ["flip_horizontal", "rotation", "zoom", "translation"],
    "auto": ["rotation", "zoom", "translation", "brightness", "contrast"],
    "cutmix": ["cutmix"],
}


def by_hand(names: list[str]) -> list[keras.layers.Layer]:
    """The layers as one writes them into `dataset.map`."""
    layers: dict[str, Callable[[], keras.layers.Layer]] = {
        "flip_horizontal": lambda: keras.layers.RandomFlip("horizontal", seed=0),
        "rotation": lambda: keras.layers.RandomRotation(0.04, fill_mode="nearest", seed=0),
        "zoom": lambda: keras.layers.RandomZoom(0.1, fill_mode="nearest", seed=0),
        "translation": lambda: keras.layers.RandomTranslation(0.1, 0.1, fill_mode="nearest", seed=0),
        "brightness": lambda: keras.layers.RandomBrightness(0.1, (0, 1), seed=0),
        "contrast": lambda: keras.layers.RandomContrast((0.2, 0.2), (0, 1), seed=0),
        "cutmix": lambda: keras.layers.CutMix(seed=0),
    }
    return [layers[name]() for name in names]


def pipelines(x: np.ndarray, y: np.ndarray, names: list[str]) -> dict[str, tf.data.Dataset]:
    data = as_data((x, y), validation_fraction=0, test_fraction=0)
    bare = data.train.batches(BATCH)
    layers = by_hand(names)

    def mapped(images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        element = {"images": images, "labels": labels}
        for layer in layers:
            element = layer(element, training=True)
        return element["images"], element["labels"]

    return {
        "bare": bare,
        "by hand": bare.map(mapped, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE),
        "ours": augment(data, AugmentConfig(names)).train.batches(BATCH),
    }


def seconds(dataset: tf.data.Dataset) -> float:
    start = time.perf_counter()
    for _ in dataset:
        pass
    return time.perf_counter() - start


def rows() -> Iterator[str]:
    rng = np.random.default_rng(0)
    for shape in ((28, 28, 1), (32, 32, 3)):
        x = rng.random((IMAGES, *shape), "float32")
        y = np.eye(10, dtype="float32")[rng.integers(0, 10, IMAGES)]
        for label, names in SETS.items():
            made = pipelines(x, y, names)
            for dataset in made.values():  # traced and warmed up
                seconds(dataset.take(4))
            times: dict[str, list[float]] = {name: [] for name in made}
            for _ in range(PASSES):
                for name, dataset in made.items():
                    times[name].append(seconds(dataset))
            speed = {name: IMAGES / statistics.median(own) for name, own in times.items()}
            figures = "  ".join(f"{name} {value:9,.0f}/s" for name, value in speed.items())
            yield f"{shape!s:12} {label:9} {figures}  ours/by hand {speed['ours'] / speed['by hand']:.2f}"


if __name__ == "__main__":
    for row in rows():
        print(row, flush=True)
