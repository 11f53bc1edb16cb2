"""Tables: arrays of shape (samples,) or (samples, features).

Source: J. Yoon et al., VIME: Extending the Success of Self- and Semi-supervised Learning to Tabular Domain, NeurIPS
2020 (features that take another sample's values).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from bigmodel.data.augmentation.seeds import Seeds


class Tabular:
    """Varies a batch of rows.

    Args:
        magnitudes: Magnitude of each transform, in the order of application.
        rows: Some rows of the data set. Features that hold whole numbers only are codes or counts: they get no noise.
    """

    def __init__(self, magnitudes: Mapping[str, float], rows: np.ndarray) -> None:
        self.magnitudes = {name: value for name, value in magnitudes.items() if value > 0}
        values = rows.astype("float64")
        self._deviation = np.where((values == np.floor(values)).all(0), 0.0, values.std(0)).astype("float32")

    def __call__(self, rows: tf.Tensor, labels: Sequence[tf.Tensor], seeds: Seeds) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """Returns the rows in their shape and dtype, and the labels as they are."""
        x = tf.cast(rows, tf.float32)
        if "noise" in self.magnitudes:
            x += self.magnitudes["noise"] * self._deviation * seeds.normal(tf.shape(x))
        if "feature_masking" in self.magnitudes:
            others = tf.gather(x, seeds.permutation(tf.shape(x)[0]))
            x = tf.where(seeds.uniform(tf.shape(x)) < self.magnitudes["feature_masking"], others, x)
        x = tf.cast(x if rows.dtype.is_floating else tf.round(x), rows.dtype)
        return tf.ensure_shape(x, rows.shape), list(labels)
