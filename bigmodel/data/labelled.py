"""Labels for data that has none, computed from its samples."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from bigmodel.data.sources import ArraySource, Columns
from bigmodel.data.splits import Data, Split
from bigmodel.data.streams import LabelledSource, PyDatasetSource, StreamSource

Label = Callable[[Any], Any]
"""From a batch of x, fitted to the model, to its labels: a tensor, or a tuple or dict of them."""


def with_labels(data: Data, label: Label, *, batch_size: int = 128) -> Data:
    """Gives labels to splits that have none. The data is not changed.

    Arrays are labelled once, batch by batch, and x is shared with the given splits. Streams are labelled whenever they
    are read, inside tf.data, and never held.

    Args:
        data: Data of `Split`, as `as_data` returns it.
        label: Makes the labels; the same x must always give the same.
        batch_size: Samples of arrays that are labelled at a time.

    Example:
        >>> from bigmodel.data import as_data
        >>> data = with_labels(as_data(np.arange(10.0)), lambda x: x + 1)
        >>> x, y, _ = data.train.arrays()
        >>> bool((y == x + 1).all())
        True
    """
    splits = {name: getattr(data, name) for name in ("train", "validation", "test", "calibration")}
    sharing: dict[int, list[Split]] = {}
    for split in splits.values():
        if split is not None and isinstance(split.source, ArraySource):
            sharing.setdefault(id(split.source.columns), []).append(split)
    columns = {key: _labelled_columns(group, label, batch_size) for key, group in sharing.items()}

    def labelled(split: Split) -> Split:
        if isinstance(split.source, ArraySource):
            source = ArraySource(columns[id(split.source.columns)], split.source.rows)
            return dataclasses.replace(split, source=source)
        assert isinstance(split.source, (StreamSource, PyDatasetSource))
        stream = LabelledSource(split.source, lambda x: label(split.fitted(x)[0]))
        return dataclasses.replace(split, source=stream)

    return Data(**{name: split and labelled(split) for name, split in splits.items()}, notes=data.notes)


def _labelled_columns(splits: Sequence[Split], label: Label, batch_size: int) -> Columns:
    """Labels the rows that the splits of one set of arrays use; the others are read by none of them."""
    source = splits[0].source
    assert isinstance(source, ArraySource)
    columns = source.columns
    is_used = np.zeros(columns.size, bool)
    for split in splits:
        assert isinstance(split.source, ArraySource)
        is_used[slice(None) if split.source.rows is None else split.source.rows] = True
    (rows,) = is_used.nonzero()
    used = dataclasses.replace(splits[0], source=ArraySource(columns, rows), augmentation=None)
    labels, start = None, 0
    for x, *_ in used.batches(batch_size):
        y = keras.tree.map_structure(np.asarray, label(x))
        if labels is None:
            labels = keras.tree.map_structure(lambda leaf: np.zeros((columns.size, *leaf.shape[1:]), leaf.dtype), y)
        for column, leaf in zip(keras.tree.flatten(labels), keras.tree.flatten(y), strict=True):
            column[rows[start : start + len(leaf)]] = leaf
        start += len(keras.tree.flatten(y)[0])
    return Columns((columns.elements[0], labels), columns.real)
