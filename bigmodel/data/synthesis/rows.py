"""The real samples that synthesis starts from, and the synthetic ones next to them."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import numpy as np

from bigmodel.data.cuts import class_labels
from bigmodel.data.sources import ArraySource, Columns
from bigmodel.data.splits import Data, Split
from bigmodel.errors import DataError


@dataclasses.dataclass(frozen=True, eq=False)
class Rows:
    """Samples as arrays.

    Args:
        x: Structure of arrays, in the form that the model reads.
        y: Structure of labels; `None` without.
        w: Structure of sample weights; `None` without.
    """

    x: Any
    y: Any = None
    w: Any = None

    @classmethod
    def of(cls, split: Split) -> Rows:
        """Reads the samples of a split of arrays."""
        return cls(*split.arrays())

    @property
    def size(self) -> int:
        """Number of samples."""
        return len(keras.tree.flatten(self.x)[0])

    @property
    def classes(self) -> np.ndarray:
        """The class of each sample, int64 of shape (size,); zeros where the labels are no classes."""
        found = None if self.y is None else class_labels(self.y)
        return np.zeros(self.size, np.int64) if found is None else found

    @property
    def has_classes(self) -> bool:
        """Whether the labels are classes."""
        return self.y is not None and class_labels(self.y) is not None

    def take(self, rows: np.ndarray) -> Rows:
        """Returns some of the samples."""
        return Rows(*(None if part is None else _taken(part, rows) for part in (self.x, self.y, self.w)))

    def matrix(self) -> np.ndarray:
        """Returns all of x as one float32 matrix of shape (size, features)."""
        return np.concatenate([_flat(leaf) for leaf in keras.tree.flatten(self.x)], axis=1)

    def from_matrix(self, matrix: np.ndarray) -> Any:
        """Returns x of the rows of a matrix, whole numbers rounded."""
        made, start = [], 0
        for leaf in keras.tree.flatten(self.x):
            width = int(np.prod(leaf.shape[1:], dtype=int))
            part = matrix[:, start : start + width].reshape(-1, *leaf.shape[1:])
            start += width
            if leaf.dtype.kind in "iu":
                bounds = np.iinfo(leaf.dtype)
                part = np.clip(np.rint(part), bounds.min, bounds.max)
            made.append(part.astype(leaf.dtype))
        return keras.tree.pack_sequence_as(self.x, made)

    def blended(self, first: np.ndarray, second: np.ndarray, share: np.ndarray) -> Rows:
        """Returns samples between pairs: `first + share * (second - first)` in x, the labels and weights of the first.

        Args:
            first: Rows of the first ones.
            second: Rows of the second ones.
            share: Of shape (pairs,); below 0 beyond the first one.
        """
        matrix = self.matrix()
        mixed = matrix[first] + share[:, np.newaxis] * (matrix[second] - matrix[first])
        own = self.take(first)
        return Rows(self.from_matrix(mixed.astype("float32")), own.y, own.w)


def real_samples(split: Split) -> Split:
    """Returns a split of arrays without its synthetic samples.

    Raises:
        DataError: The split is a stream.
    """
    if not isinstance(split.source, ArraySource):
        raise DataError(
            "Samples can't be synthesised from a stream.",
            received=f"the {split.name} split as {type(split.source).__name__}",
            expected="train data as arrays",
            fix="Pass a part of it: bm.Data(train=data.train.sample(10_000), validation=data.validation).",
        )
    source = split.source.select(np.flatnonzero(~split.synthetic)) if split.synthetic.any() else split.source
    return dataclasses.replace(split, source=source)


def joined(data: Data, real: Rows, made: Rows, notes: tuple[str, ...]) -> Data:
    """Returns the data with synthetic samples behind the real ones of train; other splits stay the same objects."""
    parts = []
    for first, second in ((real.x, made.x), (real.y, made.y), (real.w, made.w)):
        if first is not None:
            parts.append(keras.tree.map_structure(lambda a, b: np.concatenate([a, b.astype(a.dtype)]), first, second))
    split: Split = data.train
    source = ArraySource(Columns(tuple(parts), real.size))
    train = dataclasses.replace(split, source=source, notes=(*split.notes, *notes))
    return dataclasses.replace(data, train=train, notes=(*data.notes, *notes))


def _taken(part: Any, rows: np.ndarray) -> Any:
    return keras.tree.map_structure(lambda leaf: np.asarray(leaf)[rows], part)


def _flat(leaf: np.ndarray) -> np.ndarray:
    return np.asarray(leaf).reshape(len(leaf), -1).astype("float32")
