"""Where samples come from: the interface of a source, and the source that reads arrays."""

from __future__ import annotations

import abc
import functools
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from bigmodel.data.cuts import class_labels, cut_rows
from bigmodel.data.elements import floatx
from bigmodel.data.order import Epoch, ordered_rows

CHECK_ROWS = 4096
"""Rows of arrays that are checked at a time, so that a memory-mapped array is never read as a whole."""

_COPY_BYTES = 2**30
"""Up to this size, arrays are handed to TensorFlow once, whose gather is faster than NumPy's; larger ones stay."""


class Source(abc.ABC):
    """A set of samples that can be read again and again."""

    size: int | None
    """Number of samples; `None` when only reading it all would tell."""

    parts: int
    """1: x; 2: x and y; 3: x, y and sample_weight."""

    @abc.abstractmethod
    def batches(self, batch_size: int, *, shuffle: bool, seed: int, epoch: Epoch) -> tf.data.Dataset:
        """Returns a dataset of elements with a batch axis."""

    @abc.abstractmethod
    def head(self, batch_size: int = 128) -> Iterator[tuple[Any, ...]]:
        """Yields NumPy batches to be checked: all samples of arrays, the first batches of a stream."""

    @abc.abstractmethod
    def cut(self, fraction: float, seed: int) -> tuple[Source, Source, str]:
        """Parts the source into what stays, what is cut, and a word on how; no sample is in both."""


class Columns:
    """Arrays of equal length: the memory that a source and its cuts share.

    Args:
        elements: x, y and sample_weight, as far as they are there.
        real: Rows before the synthetic ones; `None`: none is synthetic.
    """

    def __init__(self, elements: tuple[Any, ...], real: int | None = None) -> None:
        self.elements = elements
        self.real = real
        self._leaves: list[np.ndarray] = keras.tree.flatten(elements)
        self.size = len(self._leaves[0])

    @functools.cached_property
    def _tensors(self) -> list[tf.Tensor] | None:
        if sum(leaf.nbytes for leaf in self._leaves) > _COPY_BYTES or any(map(_is_mapped, self._leaves)):
            return None
        # First asked for while tf.data traces `gather`: the tensors must outlive that graph.
        with tf.init_scope(), tf.device("CPU:0"):
            return [tf.constant(leaf) for leaf in self._leaves]

    def take(self, rows: np.ndarray | slice) -> tuple[Any, ...]:
        """Returns the rows as NumPy elements."""
        return keras.tree.map_structure(lambda leaf: np.asarray(leaf[rows]), self.elements)

    def gather(self, rows: tf.Tensor) -> tuple[Any, ...]:
        """Returns the rows as tensors, inside a tf.data function."""
        if self._tensors is not None:
            leaves = [tf.gather(tensor, rows) for tensor in self._tensors]
        else:
            dtypes = [tf.as_dtype(leaf.dtype) for leaf in self._leaves]
            leaves = tf.numpy_function(lambda i: [np.asarray(leaf[i]) for leaf in self._leaves], [rows], dtypes)
            leaves = [tf.ensure_shape(t, (None, *a.shape[1:])) for t, a in zip(leaves, self._leaves, strict=True)]
        keras_dtypes = map(floatx, self._leaves)
        cast = [tf.cast(t, dtype) if dtype else t for t, dtype in zip(leaves, keras_dtypes, strict=True)]
        return keras.tree.pack_sequence_as(self.elements, cast)


class ArraySource(Source):
    """Some rows of arrays.

    Args:
        columns: The arrays.
        rows: int64 row numbers; `None`: all.
    """

    size: int

    def __init__(self, columns: Columns, rows: np.ndarray | None = None) -> None:
        self.columns = columns
        self.rows = rows
        self.size = columns.size if rows is None else len(rows)
        self.parts = len(columns.elements)

    def batches(self, batch_size: int, *, shuffle: bool, seed: int, epoch: Epoch) -> tf.data.Dataset:
        """Gathers every batch by its row numbers; nothing but the order is held."""
        rows = np.arange(self.columns.size) if self.rows is None else self.rows
        order = ordered_rows(rows.astype(np.int64), batch_size, shuffle=shuffle, seed=seed, epoch=epoch)
        return order.map(self.columns.gather, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)

    def head(self, batch_size: int = 128) -> Iterator[tuple[Any, ...]]:
        """Yields all rows, `CHECK_ROWS` at a time."""
        for start in range(0, self.size, CHECK_ROWS):
            block = slice(start, start + CHECK_ROWS)
            yield self.columns.take(block if self.rows is None else self.rows[block])

    def cut(self, fraction: float, seed: int) -> tuple[ArraySource, ArraySource, str]:
        """Cuts rows at random: by class where the labels are classes."""
        rows = slice(None) if self.rows is None else self.rows
        labels = class_labels(keras.tree.map_structure(lambda leaf: leaf[rows], self.columns.elements[1:2]))
        kept, cut = cut_rows(self.size, fraction, seed, labels)
        how = "at random" if labels is None else "stratified"
        return self.select(kept), self.select(cut), how

    def select(self, rows: np.ndarray) -> ArraySource:
        """Returns the source of some of these rows; no array is copied."""
        return ArraySource(self.columns, rows if self.rows is None else self.rows[rows])

    @property
    def synthetic(self) -> np.ndarray:
        """For each row whether it is synthetic, bool of shape (size,)."""
        rows = np.arange(self.columns.size) if self.rows is None else self.rows
        return rows >= (self.columns.size if self.columns.real is None else self.columns.real)

    def arrays(self) -> tuple[Any, ...]:
        """Returns the rows as NumPy elements, doubles as Keras' float type."""
        elements = self.columns.elements if self.rows is None else self.columns.take(self.rows)
        return keras.tree.map_structure(
            lambda leaf: leaf.astype(floatx(leaf)) if floatx(leaf) else np.asarray(leaf), elements
        )


def _is_mapped(leaf: np.ndarray) -> bool:
    base: Any = leaf
    while base is not None and not isinstance(base, np.memmap):
        base = getattr(base, "base", None)
    return base is not None
