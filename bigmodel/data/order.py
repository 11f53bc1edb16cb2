"""The order of samples: a function of the seed and the epoch alone, so that a stopped run can resume."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import tensorflow as tf

Epoch = int | Callable[[], int] | None
"""Which epoch's order an iteration takes: a number, a function that is asked when an iteration starts, or `None` for
0, 1, 2, ... counted over the iterations of one `batches()` result."""


def epoch_order(size: int, seed: int, epoch: int) -> np.ndarray:
    """Returns the order of one epoch: a permutation that depends on `(size, seed, epoch)` only.

    Args:
        size: Number of samples.
        seed: Seed of the run, at least 0.
        epoch: Number of the epoch, from 0.

    Returns:
        int64 indices of shape (size,).

    Example:
        >>> bool((epoch_order(100, 7, 3) == epoch_order(100, 7, 3)).all())
        True
        >>> bool((epoch_order(100, 7, 3) == epoch_order(100, 7, 4)).all())
        False
    """
    return np.random.default_rng((seed, epoch)).permutation(size)


def epochs(epoch: Epoch) -> tf.data.Dataset:
    """Returns a dataset of one int64: the epoch that this iteration is."""
    counter = itertools.count()

    def current() -> np.int64:
        return np.int64(epoch() if callable(epoch) else next(counter) if epoch is None else epoch)

    return tf.data.Dataset.range(1).map(lambda _: tf.ensure_shape(tf.numpy_function(current, [], tf.int64), ()))


def ordered_rows(rows: np.ndarray, batch_size: int, *, shuffle: bool, seed: int, epoch: Epoch) -> tf.data.Dataset:
    """Returns the batches of one epoch as row numbers.

    Args:
        rows: int64 row numbers of shape (n,), in the order that holds without shuffling.
        batch_size: Rows per batch; the last one may be shorter.
        shuffle: Permute by `epoch_order`.
        seed: Seed of the run.
        epoch: Which epoch's order.

    Returns:
        A dataset of int64 vectors of known cardinality.
    """
    count = -(-len(rows) // batch_size)

    def batches_of(order: tf.Tensor) -> tf.data.Dataset:
        return tf.data.Dataset.range(count).map(lambda i: order[i * batch_size : (i + 1) * batch_size])

    def shuffled(number: tf.Tensor) -> tf.data.Dataset:
        order = tf.numpy_function(lambda e: rows[epoch_order(len(rows), seed, int(e))], [number], tf.int64)
        return batches_of(tf.ensure_shape(order, rows.shape))

    if not shuffle:
        return batches_of(tf.constant(rows))
    return with_length(epochs(epoch).flat_map(shuffled), count)


def shuffled_stream(stream: tf.data.Dataset, buffer: int, *, seed: int, epoch: Epoch) -> tf.data.Dataset:
    """Shuffles a stream within a buffer; the order depends on the seed, the epoch and the buffer's size only.

    Args:
        stream: Dataset of single samples in a fixed order.
        buffer: Samples held at a time.
        seed: Seed of the run.
        epoch: Which epoch's order.
    """

    def shuffled(number: tf.Tensor) -> tf.data.Dataset:
        # A seed of its own for every epoch: `reshuffle_each_iteration` would tie the order to the iterator's past.
        # The global seed, which tf.data mixes in, is replaced within this function's graph only.
        tf.random.set_seed(1)
        drawn = tf.numpy_function(lambda e: np.random.default_rng((seed, int(e))).integers(2**31), [number], tf.int64)
        return stream.shuffle(buffer, seed=tf.ensure_shape(drawn, ()), reshuffle_each_iteration=False)

    return with_length(epochs(epoch).flat_map(shuffled), int(stream.cardinality()))


def with_length(dataset: tf.data.Dataset, length: int) -> tf.data.Dataset:
    """Tells tf.data the length of a dataset that it can't derive; a negative one is unknown."""
    return dataset.apply(tf.data.experimental.assert_cardinality(length)) if length >= 0 else dataset
