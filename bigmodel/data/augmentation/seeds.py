"""Randomness without state: the same seed, epoch and batch give the same draws, whatever ran before or beside."""

from __future__ import annotations

import keras
import tensorflow as tf


class Seeds(keras.random.SeedGenerator):
    """The seeds of one batch, for `keras.random` and for Keras' layers; no two draws share one.

    Keras' own generator counts its draws in a variable: in a parallel pipeline the order of its updates, and with it
    the stream, would depend on the threads. This one counts while the pipeline is traced.

    Args:
        base: Integer tensor of shape (2,) that differs from batch to batch.
    """

    def __init__(self, base: tf.Tensor) -> None:  # Keras' own would make the variable.
        self.key = tf.random.stateless_uniform([], base, None, None, tf.int64)
        self.draws = 0

    def next(self, ordered: bool = True) -> tf.Tensor:
        """Returns the seed of the next draw, an integer tensor of shape (2,)."""
        self.draws += 1
        return tf.stack([self.key, tf.constant(self.draws, tf.int64)])

    def uniform(self, shape: object, low: float = 0.0, high: float = 1.0) -> tf.Tensor:
        """Draws float32 values from low to high."""
        return tf.random.stateless_uniform(shape, self.next(), low, high)

    def normal(self, shape: object) -> tf.Tensor:
        """Draws float32 values of mean 0 and standard deviation 1."""
        return tf.random.stateless_normal(shape, self.next())

    def permutation(self, count: tf.Tensor) -> tf.Tensor:
        """Draws an order of 0..count - 1."""
        return tf.argsort(self.uniform([count]), stable=True)

    def beta(self, count: tf.Tensor, alpha: float) -> tf.Tensor:
        """Draws from Beta(alpha, alpha), float32 of shape (count,)."""
        first, second = (tf.random.stateless_gamma([count], self.next(), alpha) for _ in range(2))
        # A small alpha may give two zeros; one half is then as good as any.
        return tf.math.divide_no_nan(first + 1e-30, first + second + 2e-30)


def batch_seed(seed: int, epoch: tf.Tensor, index: tf.Tensor) -> tf.Tensor:
    """Returns the base of one batch's seeds.

    Args:
        seed: Seed of the augmentation, below 2**63.
        epoch: Number of the epoch, an int64 scalar.
        index: Number of the batch in its epoch, an int64 scalar.
    """
    return tf.random.experimental.stateless_fold_in(tf.stack([tf.constant(seed, tf.int64), epoch]), index)
