"""From anything a caller may pass to a source."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from bigmodel.data.checks import check_lengths
from bigmodel.data.elements import to_elements
from bigmodel.data.sources import ArraySource, Columns, Source
from bigmodel.data.streams import (
    PyDatasetSource,
    Shapes,
    StreamSource,
    empty,
    stream_of_dataset,
    stream_of_iterable,
)
from bigmodel.errors import ArgumentTypeError, DataError, describe


def as_source(value: Any, name: str, input_shapes: Shapes | None = None) -> Source:
    """Finds out what kind of data this is and returns its source; the value is not changed.

    Args:
        value: Arrays, a tf.data dataset, a `keras.utils.PyDataset`, an iterable or a function that returns an iterator.
        name: The split's name, for errors.
        input_shapes: Shapes of the model's inputs with their batch axis; they tell a batch from a sample.

    Raises:
        ArgumentTypeError: It is none of these.
        DataError: It can be read once only, never ends, or is malformed.
    """
    if isinstance(value, tf.data.Dataset):
        return _check_finite(stream_of_dataset(value, name, input_shapes))
    if isinstance(value, keras.utils.PyDataset):
        return _source_of_py_dataset(value, name)
    if _is_arrays(value):
        elements = to_elements(value if isinstance(value, tuple) else (value,), name)
        check_lengths(elements, name)
        return ArraySource(Columns(elements))
    if isinstance(value, Iterator):
        raise DataError(
            f"The {name} data can be read only once.",
            received=describe(value),
            expected="data that starts anew whenever it is iterated",
            fix="Pass the function that makes the generator, not the generator: make_batches, not make_batches().",
        )
    length = len(value) if isinstance(value, Sized) else -1
    return stream_of_iterable(_maker(value, name), name, input_shapes, length)


def _is_arrays(value: Any) -> bool:
    if isinstance(value, list):
        # A list of tuples is an iterable of batches or samples.
        return not value or not all(isinstance(item, tuple) for item in value)
    # Sparse matrices have `toarray` only; they are refused with that fix.
    array_like = ("__array__", "to_numpy", "toarray")
    return isinstance(value, (tuple, dict)) or any(hasattr(value, name) for name in array_like)


def _source_of_py_dataset(dataset: keras.utils.PyDataset, name: str) -> PyDatasetSource:
    count = dataset.num_batches
    if count is None:
        raise endless(name, dataset)
    if not count:
        raise empty(name, describe(dataset))
    return PyDatasetSource(dataset, np.arange(count), name)


def _check_finite(source: StreamSource) -> StreamSource:
    # The calibration sample reads only the head of its stream, whatever follows.
    if source.infinite and source.name != "calibration":
        raise endless(source.name, source.stream)
    return source


def endless(name: str, value: Any) -> DataError:
    """Returns the error for a set without an end."""
    return DataError(
        f"The {name} data never ends.",
        received=describe(value),
        expected="data with an end: an epoch is one pass over it",
        fix="Leave out .repeat(), or cut one epoch with .take(steps); for a PyDataset return the number of batches.",
    )


def _maker(value: Any, name: str) -> Callable[[], Iterator[Any]]:
    if isinstance(value, (str, bytes)):
        raise _unknown(value, name)
    if isinstance(value, Iterable):
        return lambda: iter(value)
    if hasattr(value, "__getitem__") and hasattr(value, "__len__"):
        return lambda: (value[i] for i in range(len(value)))
    if not callable(value):
        raise _unknown(value, name)
    first = value()
    if not isinstance(first, Iterable):
        raise _unknown(first, name)
    if isinstance(first, Iterator) and first is value():
        raise DataError(
            f"The {name} function returns the same iterator at each call.",
            received=describe(first),
            expected="a fresh iterator at each call",
            fix="Make the iterator inside the function.",
        )
    return lambda: iter(value())


def _unknown(value: Any, name: str) -> ArgumentTypeError:
    return ArgumentTypeError(
        f"This can't be used as {name} data.",
        received=describe(value),
        expected="(x, y) arrays, a tf.data.Dataset, a keras.utils.PyDataset, an iterable, or a function that returns "
        "an iterator",
        fix="Pass (x, y), or bm.Data(train=..., validation=..., test=...).",
    )
