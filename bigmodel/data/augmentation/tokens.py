"""Token ids: arrays of shape (samples,) or (samples, length), where 0 is padding, before or after the text.

Source: J. Wei and K. Zou, EDA: Easy Data Augmentation Techniques for Boosting Performance on Text Classification Tasks,
EMNLP 2019 (deletion, swap).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import tensorflow as tf

from bigmodel.data.augmentation.seeds import Seeds

PADDING: Final = 0
UNKNOWN: Final = 1
"""What masks a token: the id of unknown words in Keras' `TextVectorization` and `StringLookup`."""


class Tokens:
    """Varies a batch of token ids.

    Args:
        magnitudes: Probability of each transform for each token, in the order of application.
    """

    def __init__(self, magnitudes: Mapping[str, float]) -> None:
        self.magnitudes = {name: value for name, value in magnitudes.items() if value > 0}

    def __call__(
        self, tokens: tf.Tensor, labels: Sequence[tf.Tensor], seeds: Seeds
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """Returns the ids in their shape and dtype, and the labels as they are."""
        ids = tf.cast(tokens, tf.int32)
        ids = ids[:, tf.newaxis] if ids.shape.rank == 1 else ids
        steps = {"token_deletion": _deleted, "token_masking": _masked, "token_swap": _swapped}
        for name, value in self.magnitudes.items():
            ids = steps[name](ids, value, seeds)
        ids = ids[:, 0] if tokens.shape.rank == 1 else ids
        return tf.ensure_shape(tf.cast(ids, tokens.dtype), tokens.shape), list(labels)


def _deleted(ids: tf.Tensor, value: float, seeds: Seeds) -> tf.Tensor:
    kept = (ids != PADDING) & (seeds.uniform(tf.shape(ids)) >= value)
    # The gap closes on the side of the text: padding stays where it was.
    padded_before = (ids[:, :1] == PADDING) & (ids[:, -1:] != PADDING)
    order = tf.argsort(tf.cast(tf.equal(kept, padded_before), tf.int32), axis=1, stable=True)
    closed = tf.gather(tf.where(kept, ids, PADDING), order, batch_dims=1)
    return tf.where(tf.reduce_any(kept, 1, keepdims=True), closed, ids)


def _masked(ids: tf.Tensor, value: float, seeds: Seeds) -> tf.Tensor:
    return tf.where((ids != PADDING) & (seeds.uniform(tf.shape(ids)) < value), UNKNOWN, ids)


def _swapped(ids: tf.Tensor, value: float, seeds: Seeds) -> tf.Tensor:
    """Swaps neighbours: the pairs (0, 1), (2, 3), ... or (1, 2), (3, 4), ..., each pair with probability `value`."""
    count, length = tf.unstack(tf.shape(ids))
    position = tf.range(length)[tf.newaxis]
    shift = tf.cast(seeds.uniform([count, 1]) < 0.5, tf.int32)
    pair = (position + shift) // 2
    partner = pair * 4 + 1 - 2 * shift - position
    inside = (partner >= 0) & (partner < length)
    partner = tf.where(inside, partner, position)
    chosen = tf.gather(seeds.uniform([count, length // 2 + 1]) < value, pair, batch_dims=1)
    swaps = chosen & (ids != PADDING) & (tf.gather(ids, partner, batch_dims=1) != PADDING)
    return tf.gather(ids, tf.where(swaps, partner, position), batch_dims=1)
