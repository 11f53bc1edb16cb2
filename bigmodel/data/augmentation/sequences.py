"""Time series: arrays of shape (samples, steps) or (samples, steps, channels).

Source: T. T. Um et al., Data Augmentation of Wearable Sensor Data for Parkinson's Disease Monitoring using
Convolutional Neural Networks, ICMI 2017 (jitter, scaling, time warp); A. Le Guennec et al., Data Augmentation for Time
Series Classification using Convolutional Neural Networks, AALTD 2016 (window slice).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from bigmodel.data.augmentation.seeds import Seeds

_WAVES = 3
"""Half waves of the slowest to the fastest change of speed in a time warp."""


class Sequences:
    """Varies a batch of time series.

    Args:
        magnitudes: Magnitude of each transform, in the order of application.
        series: Some series of the data set, from which the mean and deviation of each channel are taken.
    """

    def __init__(self, magnitudes: Mapping[str, float], series: np.ndarray) -> None:
        self.magnitudes = {name: value for name, value in magnitudes.items() if value > 0}
        channels = series.reshape(*series.shape[:2], -1).astype("float64")
        self._mean = channels.mean((0, 1)).astype("float32")
        self._deviation = channels.std((0, 1)).astype("float32")

    def __call__(
        self, series: tf.Tensor, labels: Sequence[tf.Tensor], seeds: Seeds
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """Returns the series and their labels, in their shapes and dtypes.

        Args:
            series: A batch.
            labels: Labels of the single steps, which take the nearest step's.
            seeds: Seeds of the batch.
        """
        x = tf.cast(series, tf.float32)
        x = x[..., tf.newaxis] if x.shape.rank == 2 else x
        moved = list(labels)
        for name, value in self.magnitudes.items():
            if name in ("time_warp", "window_slice"):
                positions = (_warped if name == "time_warp" else _sliced)(tf.shape(x), value, seeds)
                x = _interpolated(x, positions)
                moved = [tf.gather(label, tf.cast(tf.round(positions), tf.int32), batch_dims=1) for label in moved]
            else:
                x = getattr(self, f"_{name}")(x, value, seeds)
        x = tf.squeeze(x, -1) if series.shape.rank == 2 else x
        x = tf.cast(x if series.dtype.is_floating else tf.round(x), series.dtype)
        moved = [tf.ensure_shape(new, old.shape) for new, old in zip(moved, labels, strict=True)]
        return tf.ensure_shape(x, series.shape), moved

    def _jitter(self, x: tf.Tensor, value: float, seeds: Seeds) -> tf.Tensor:
        return x + value * self._deviation * seeds.normal(tf.shape(x))

    def _scaling(self, x: tf.Tensor, value: float, seeds: Seeds) -> tf.Tensor:
        shape = tf.shape(x)
        return x * (1 + value * seeds.normal([shape[0], 1, shape[2]]))

    def _time_masking(self, x: tf.Tensor, value: float, seeds: Seeds) -> tf.Tensor:
        count, steps = tf.shape(x)[0], tf.cast(tf.shape(x)[1], tf.float32)
        length = seeds.uniform([count, 1], 0, value) * steps
        start = seeds.uniform([count, 1]) * (steps - length)
        step = tf.range(steps)[tf.newaxis]
        masked = (step >= start) & (step < start + length)
        return tf.where(masked[..., tf.newaxis], tf.constant(self._mean), x)


def _warped(shape: tf.Tensor, value: float, seeds: Seeds) -> tf.Tensor:
    """Positions to read at, of shape (samples, steps), where the speed changes smoothly by at most `value`."""
    last = tf.cast(shape[1] - 1, tf.float32)
    time = tf.range(tf.cast(shape[1], tf.float32)) / tf.maximum(last, 1)
    wave = tf.range(1.0, _WAVES + 1)[:, tf.newaxis]
    size = seeds.uniform([shape[0], _WAVES, 1], -1, 1) * value / _WAVES
    speed = 1 + tf.reduce_sum(size * tf.sin(np.pi * wave * time + seeds.uniform([shape[0], _WAVES, 1], 0, np.pi)), 1)
    way = tf.cumsum(speed, axis=1) - speed[:, :1]
    return tf.clip_by_value(last * tf.math.divide_no_nan(way, way[:, -1:]), 0, last)


def _sliced(shape: tf.Tensor, value: float, seeds: Seeds) -> tf.Tensor:
    """Positions to read at, of shape (samples, steps), of a window without up to `value` of the steps."""
    last = tf.cast(shape[1] - 1, tf.float32)
    share = tf.range(tf.cast(shape[1], tf.float32)) / tf.maximum(last, 1)
    width = (1 - seeds.uniform([shape[0], 1], 0, value)) * last
    return seeds.uniform([shape[0], 1]) * (last - width) + width * share


def _interpolated(x: tf.Tensor, positions: tf.Tensor) -> tf.Tensor:
    below = tf.floor(positions)
    above = tf.minimum(below + 1, tf.cast(tf.shape(x)[1] - 1, tf.float32))
    low, high = (tf.gather(x, tf.cast(index, tf.int32), batch_dims=1) for index in (below, above))
    return low + (high - low) * (positions - below)[..., tf.newaxis]
