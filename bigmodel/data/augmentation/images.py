"""Images, and the masks that move with them, through Keras' own preprocessing layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from bigmodel.data.augmentation.seeds import Seeds

_BYTES = 64
"""Pixels from 0 with at least this as the highest value are taken as bytes, whose range is 0..255."""
_BORDER = "nearest"
"""What comes in from outside the image: a reflected digit would be a second digit."""


def value_range(images: np.ndarray) -> tuple[float, float]:
    """Finds the range of pixel values: 0..1, 0..255 and -1..1 where they fit, else from lowest to highest.

    Args:
        images: Some images, not empty.

    Example:
        >>> value_range(np.array([[0, 200]])), value_range(np.array([[0.1, 0.9]])), value_range(np.array([[-2.0, 3.0]]))
        ((0.0, 255.0), (0.0, 1.0), (-2.0, 3.0))
    """
    low, high = float(images.min()), float(images.max())
    if low >= 0 and high <= 1:
        return 0.0, 1.0
    if low >= 0 and _BYTES <= high <= 255:
        return 0.0, 255.0
    if low >= -1 and high <= 1:
        return -1.0, 1.0
    return low, high


class Images:
    """Varies a batch of images.

    Args:
        magnitudes: Magnitude of each transform, in the order of application.
        images: Some images of the data set, from which the value range and the colour of erased areas are taken.
    """

    def __init__(self, magnitudes: Mapping[str, float], images: np.ndarray) -> None:
        self.value_range = value_range(images)
        self._mean = float(images.mean())
        self._layers = {name: self._layer(name, value) for name, value in magnitudes.items() if value > 0}
        self._magnitudes = magnitudes

    def _layer(self, name: str, value: float) -> Any:
        bounds: dict[str, Any] = {"value_range": self.value_range, "dtype": "float32"}
        moving: dict[str, Any] = {"fill_mode": _BORDER, "dtype": "float32"}
        layers: dict[str, Any] = {
            "flip_horizontal": lambda: keras.layers.RandomFlip("horizontal", dtype="float32"),
            "flip_vertical": lambda: keras.layers.RandomFlip("vertical", dtype="float32"),
            "rotation": lambda: keras.layers.RandomRotation(value, **moving),
            "zoom": lambda: keras.layers.RandomZoom(value, **moving),
            "translation": lambda: keras.layers.RandomTranslation(value, value, **moving),
            "brightness": lambda: keras.layers.RandomBrightness(value, **bounds),
            # One number would only raise the contrast.
            "contrast": lambda: keras.layers.RandomContrast((value, value), **bounds),
            "noise": lambda: None,
            "cutout": lambda: keras.layers.RandomErasing((1.0, 1.0), (0.0, value), self._mean, **bounds),
            "randaugment": lambda: keras.layers.RandAugment(factor=value, **bounds),
        }
        return layers[name]()

    def __call__(
        self, images: tf.Tensor, masks: Sequence[tf.Tensor], seeds: Seeds
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """Returns the images and their masks, in their shapes and dtypes.

        Args:
            images: A batch, with or without a channel axis.
            masks: Labels of the same height and width, moved by the nearest pixel.
            seeds: Seeds of the batch.
        """
        x, *moved = (self._canonical(tensor) for tensor in (images, *masks))
        for name, layer in self._layers.items():
            if name == "noise":
                spread = self._magnitudes[name] * (self.value_range[1] - self.value_range[0])
                x = tf.clip_by_value(x + spread * seeds.normal(tf.shape(x)), *self.value_range)
            elif name == "randaugment":
                x, moved = self._randomly(layer, x, moved, seeds)
            else:
                drawn = self._drawn(name, layer, x, seeds)
                x = layer.transform_images(x, drawn)
                moved = [layer.transform_segmentation_masks(mask, drawn) for mask in moved]
        return self._restored(x, images), [self._restored(*pair) for pair in zip(moved, masks, strict=True)]

    def _drawn(self, name: str, layer: Any, images: tf.Tensor, seeds: Seeds) -> Any:
        if name.startswith("flip"):
            shape = tf.shape(images)
            return {"flips": seeds.uniform([shape[0], 1, 1, 1]) < self._magnitudes[name], "input_shape": shape}
        return layer.get_random_transformation(images, training=True, seed=seeds)

    def _randomly(
        self, layer: Any, images: tf.Tensor, masks: list[tf.Tensor], seeds: Seeds
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """RandAugment, which takes no seed and wants three channels."""
        channels = images.shape[-1]
        colours = images if channels == 3 else tf.tile(tf.reduce_mean(images, -1, keepdims=True), [1, 1, 1, 3])
        layer.generator = seeds
        drawn = layer.get_random_transformation(colours, training=True)
        varied = layer.transform_images(colours, drawn)
        if channels != 3:
            varied = tf.reduce_mean(varied, -1, keepdims=True) if channels == 1 else images
        return varied, [layer.transform_segmentation_masks(mask, drawn) for mask in masks]

    def _canonical(self, tensor: tf.Tensor) -> tf.Tensor:
        tensor = tf.cast(tensor, tf.float32)
        return tensor[..., tf.newaxis] if tensor.shape.rank == 3 else tensor

    def _restored(self, tensor: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
        if like.shape.rank == 3:
            tensor = tf.squeeze(tensor, -1)
        tensor = tf.ensure_shape(tensor, like.shape)
        return tf.cast(tensor if like.dtype.is_floating else tf.round(tensor), like.dtype)
