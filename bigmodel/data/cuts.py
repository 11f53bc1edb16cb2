"""Cutting one set of samples in two: which rows of arrays, which elements of a stream."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from bigmodel.data.order import with_length

_SAMPLES_PER_CLASS = 4
"""Integer targets with fewer samples per value than this are taken as quantities, not as classes."""


def class_labels(labels: Any) -> np.ndarray | None:
    """Finds the classes to stratify by in a structure of label arrays.

    Args:
        labels: Structure of arrays: integers of shape (n,) or (n, 1), or one-hot of shape (n, classes).

    Returns:
        The first leaf that holds classes as int64 of shape (n,); `None` if no leaf does.

    Example:
        >>> class_labels(np.eye(2)[[0, 1, 1, 0, 1, 1, 0, 0]])
        array([0, 1, 1, 0, 1, 1, 0, 0])
    """
    for leaf in map(np.asarray, keras.tree.flatten(labels)):
        if leaf.dtype.kind not in "biuf" or leaf.ndim not in (1, 2):
            continue
        if leaf.ndim == 2 and leaf.shape[1] > 1:
            if not (np.isin(leaf, (0, 1)).all() and (leaf.sum(axis=1) == 1).all()):
                continue
            flat = leaf.argmax(axis=1)
        else:
            flat = leaf.reshape(-1)
        if (flat == np.floor(flat)).all() and len(np.unique(flat)) * _SAMPLES_PER_CLASS <= len(flat):
            return flat.astype(np.int64)
    return None


def cut_rows(size: int, fraction: float, seed: int, labels: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Draws the rows to cut, with the same share of every class.

    The counts per class are the quotas `fraction * count` rounded by largest remainder (Hamilton's method), so that
    their sum is `round(fraction * size)` and each is at most one sample off its quota.

    Args:
        size: Number of rows.
        fraction: Share to cut, in 0..1.
        seed: Seed of the draw.
        labels: Class of every row, shape (size,); `None`: one class.

    Returns:
        Rows that stay and rows that are cut, both int64 and sorted.

    Example:
        >>> kept, cut = cut_rows(20, 0.25, 0, np.repeat([0, 1], [16, 4]))
        >>> np.bincount(np.repeat([0, 1], [16, 4])[cut])
        array([4, 1])
    """
    classes, members = np.unique(np.zeros(size, int) if labels is None else labels, return_inverse=True)
    quotas = np.bincount(members, minlength=len(classes)) * fraction
    counts = np.floor(quotas).astype(int)
    missing = round(size * fraction) - counts.sum()
    counts[np.argsort(counts - quotas, kind="stable")[:missing]] += 1
    rng = np.random.default_rng(seed)
    drawn = [rng.permutation(np.flatnonzero(members == i))[:count] for i, count in enumerate(counts)]
    chosen = np.zeros(size, dtype=bool)
    chosen[np.concatenate(drawn)] = True
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def spread(index: Any, fraction: float) -> Any:
    """Says whether the element at `index` is cut: every tenth for a fraction of 0.1, starting with the tenth.

    A stream is cut evenly along its whole length, for its length may be unknown and its samples sorted by class.

    Args:
        index: Position in the stream, an integer, array or int64 tensor.
        fraction: Share to cut, in 0..1.

    Returns:
        A boolean of the same kind: `floor((index + 1) * fraction) > floor(index * fraction)`.

    Example:
        >>> spread(np.arange(10), 0.2).nonzero()[0]
        array([4, 9])
    """
    floor, position = (
        (tf.floor, tf.cast(index, tf.float64)) if tf.is_tensor(index) else (np.floor, np.asarray(index, np.float64))
    )
    return floor((position + 1) * fraction) > floor(position * fraction)


def cut_stream(stream: tf.data.Dataset, fraction: float) -> tuple[tf.data.Dataset, tf.data.Dataset]:
    """Parts a stream by `spread` into what stays and what is cut, in the stream's order, without reading it."""
    numbered = stream.enumerate()
    kept = numbered.filter(lambda i, _: tf.logical_not(spread(i, fraction)))
    cut = numbered.filter(lambda i, _: spread(i, fraction))
    size, chosen = int(stream.cardinality()), -1
    if size >= 0:
        chosen = int(spread(np.arange(size), fraction).sum())
    kept, cut = (part.map(lambda _, element: element) for part in (kept, cut))
    return with_length(kept, size - chosen if size >= 0 else -1), with_length(cut, chosen)
