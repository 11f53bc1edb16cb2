"""Sources that are read in passes: tf.data datasets, Python iterables and `keras.utils.PyDataset`."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from bigmodel.data.cuts import cut_stream, spread
from bigmodel.data.elements import PARTS, floatx, join, to_elements
from bigmodel.data.inputs import Form
from bigmodel.data.order import Epoch, ordered_rows, shuffled_stream, with_length
from bigmodel.data.sources import ArraySource, Columns, Source
from bigmodel.errors import DataError, describe

CHECK_BATCHES = 2
"""Batches of a stream that are read before anything runs."""

_SHUFFLE_SAMPLES = 10_000
_SHUFFLE_BYTES = 2**28
_FEW_BATCHES = 20
"""Below this, a cut by whole batches is too coarse, and the samples are cut instead."""

Shapes = Sequence[tuple[int | None, ...]]


class StreamSource(Source):
    """A tf.data dataset of elements, batched or not.

    Args:
        stream: Dataset of `(x,)`, `(x, y)` or `(x, y, sample_weight)`, of one structure.
        batched: The elements have a batch axis. Such a stream keeps its batches and their order.
        name: The split's name, for errors.
    """

    def __init__(self, stream: tf.data.Dataset, batched: bool, name: str) -> None:
        self.stream = stream
        self.batched = batched
        self.name = name
        self.parts = len(stream.element_spec)
        cardinality = int(stream.cardinality())
        self.infinite = cardinality == tf.data.INFINITE_CARDINALITY
        self.size = cardinality if cardinality >= 0 and not batched else None

    def batches(self, batch_size: int, *, shuffle: bool, seed: int, epoch: Epoch) -> tf.data.Dataset:
        """Shuffles single samples within a buffer that fits in memory, and batches them."""
        if self.batched:
            return self.stream
        stream = self.stream
        if shuffle:
            stream = shuffled_stream(stream, self._buffer(), seed=seed, epoch=epoch)
        return stream.batch(batch_size)

    def _buffer(self) -> int:
        sample_bytes = sum(leaf.nbytes for leaf in keras.tree.flatten(next(self.stream.take(1).as_numpy_iterator())))
        fitting = max(1, _SHUFFLE_BYTES // max(1, sample_bytes))
        return int(min(fitting, _SHUFFLE_SAMPLES, self.size or _SHUFFLE_SAMPLES))

    def head(self, batch_size: int = 128) -> Iterator[tuple[Any, ...]]:
        """Yields the first batches.

        Raises:
            DataError: The samples can't be batched, for their shapes differ.
        """
        first = self.batches(batch_size, shuffle=False, seed=0, epoch=0).take(CHECK_BATCHES)
        try:
            yield from first.as_numpy_iterator()
        except tf.errors.InvalidArgumentError as error:
            raise DataError(
                f"The samples of the {self.name} data can't be put into one batch.",
                received=error.message.splitlines()[0],
                expected="samples of one shape",
                fix="Batch the dataset with .padded_batch(batch_size), or pad the samples to one length.",
            ) from error

    def cut(self, fraction: float, seed: int) -> tuple[Source, Source, str]:
        """Cuts single samples, or whole batches, evenly along the stream.

        Raises:
            DataError: The stream has another order in each pass, so that a cut would leak samples.
        """
        self._check_stable()
        if self.batched and sum(1 for _ in self.stream.take(_FEW_BATCHES)) < _FEW_BATCHES:
            return StreamSource(self.stream.unbatch(), False, self.name).cut(fraction, seed)
        kept, cut = (StreamSource(part, self.batched, self.name) for part in cut_stream(self.stream, fraction))
        return kept, cut, f"every {1 / fraction:.3g}th {'batch' if self.batched else 'sample'}"

    def _check_stable(self) -> None:
        first, second = (keras.tree.flatten([e[1:2] or e[0] for e in self.head()]) for _ in range(2))
        # Labels suffice, for a stream may augment its inputs anew in every pass.
        if len(first) != len(second) or not all(map(np.array_equal, first, second)):
            raise DataError(
                f"The {self.name} stream can't be cut, for its order changes from pass to pass.",
                received="a stream whose first samples differ when it is read twice",
                expected="all splits, or a stream with a fixed order",
                fix="Pass bm.Data(train=..., validation=..., test=...), or shuffle with "
                "reshuffle_each_iteration=False and a seed.",
            )

    def sample(self, count: int) -> tuple[ArraySource, bool]:
        """Reads the first samples into memory, and says whether they had to be padded."""
        return _sample(self.batches(min(count, 128), shuffle=False, seed=0, epoch=0), count)


class PyDatasetSource(Source):
    """Some batches of a `keras.utils.PyDataset`, read by their number; its `on_epoch_end` is never called.

    Args:
        dataset: The data set.
        numbers: int64 numbers of the batches.
        name: The split's name, for errors.
    """

    size = None
    infinite = False

    def __init__(self, dataset: keras.utils.PyDataset, numbers: np.ndarray, name: str) -> None:
        self.dataset = dataset
        self.numbers = numbers
        self.name = name
        first = [self._read(int(number)) for number in numbers[:CHECK_BATCHES]]
        self.parts = len(first[0])
        self._signature = signature(first, batched=True)

    def _read(self, number: int) -> tuple[Any, ...]:
        return to_element(self.dataset[number], self.name)

    def batches(self, batch_size: int, *, shuffle: bool, seed: int, epoch: Epoch) -> tf.data.Dataset:
        """Reads the batches, in `dataset.workers` threads if there are several; shuffling permutes them whole."""
        specs = keras.tree.flatten(self._signature)

        def read(number: tf.Tensor) -> tuple[Any, ...]:
            leaves = tf.numpy_function(
                lambda i: keras.tree.flatten(self._read(int(i))), [number], [spec.dtype for spec in specs]
            )
            leaves = [tf.ensure_shape(leaf, spec.shape) for leaf, spec in zip(leaves, specs, strict=True)]
            return keras.tree.pack_sequence_as(self._signature, leaves)

        order = ordered_rows(self.numbers, 1, shuffle=shuffle, seed=seed, epoch=epoch)
        workers = max(1, getattr(self.dataset, "workers", 1))
        return order.map(lambda rows: read(rows[0]), num_parallel_calls=workers, deterministic=True)

    def head(self, batch_size: int = 128) -> Iterator[tuple[Any, ...]]:
        """Yields the first batches."""
        return (self._read(int(number)) for number in self.numbers[:CHECK_BATCHES])

    def cut(self, fraction: float, seed: int) -> tuple[Source, Source, str]:
        """Cuts whole batches evenly, or samples where there are few batches."""
        if len(self.numbers) < _FEW_BATCHES:
            stream = self.batches(1, shuffle=False, seed=0, epoch=0)
            return StreamSource(stream, True, self.name).cut(fraction, seed)
        chosen = spread(np.arange(len(self.numbers)), fraction)
        kept, cut = (PyDatasetSource(self.dataset, self.numbers[rows], self.name) for rows in (~chosen, chosen))
        return kept, cut, f"every {1 / fraction:.3g}th batch"

    def sample(self, count: int) -> tuple[ArraySource, bool]:
        """Reads the first samples into memory, and says whether they had to be padded."""
        return _sample(self.batches(1, shuffle=False, seed=0, epoch=0), count)


class LabelledSource(Source):
    """A stream of x whose labels are computed from it, batch by batch whenever it is read.

    Args:
        source: The stream.
        label: From a batch of x to its labels, as tensors; traced by tf.data.
    """

    parts = 2

    def __init__(self, source: StreamSource | PyDatasetSource, label: Callable[[Any], Any]) -> None:
        self.source = source
        self.label = label
        self.size = source.size

    def batches(self, batch_size: int, *, shuffle: bool, seed: int, epoch: Epoch) -> tf.data.Dataset:
        """Reads the stream in its own order, and labels each batch."""
        batches = self.source.batches(batch_size, shuffle=shuffle, seed=seed, epoch=epoch)
        return batches.map(lambda x: (x, self.label(x)))

    def head(self, batch_size: int = 128) -> Iterator[tuple[Any, ...]]:
        """Yields the first batches."""
        first = self.batches(batch_size, shuffle=False, seed=0, epoch=0).take(CHECK_BATCHES)
        yield from first.as_numpy_iterator()

    def cut(self, fraction: float, seed: int) -> tuple[Source, Source, str]:
        """Cuts as the stream does."""
        kept, cut, how = self.source.cut(fraction, seed)
        assert isinstance(kept, (StreamSource, PyDatasetSource)) and isinstance(cut, (StreamSource, PyDatasetSource))
        return LabelledSource(kept, self.label), LabelledSource(cut, self.label), how

    def sample(self, count: int) -> tuple[ArraySource, bool]:
        """Reads the first samples into memory, and says whether they had to be padded."""
        return _sample(self.batches(min(count, 128), shuffle=False, seed=0, epoch=0), count)


def _sample(batches: tf.data.Dataset, count: int) -> tuple[ArraySource, bool]:
    taken, missing = [], count
    for batch in batches.as_numpy_iterator():
        batch = keras.tree.map_structure(lambda leaf, n=missing: leaf[:n], batch)
        taken.append(batch)
        missing -= len(keras.tree.flatten(batch)[0])
        if missing <= 0:
            break
    elements, padded = join(taken)
    return ArraySource(Columns(elements)), padded


def to_element(element: Any, name: str) -> tuple[Any, ...]:
    """Turns what an iterable yields into NumPy elements; as in Keras, a list at the top is read as a tuple."""
    parts = tuple(element) if isinstance(element, (tuple, list)) else (element,)
    elements = to_elements(parts, name, single=True)
    return keras.tree.map_structure(lambda leaf: leaf.astype(floatx(leaf)) if floatx(leaf) else leaf, elements)


def stream_of_iterable(
    make: Callable[[], Iterator[Any]], name: str, input_shapes: Shapes | None, length: int = -1
) -> StreamSource:
    """Makes a stream of an iterable that can be started again.

    Args:
        make: Returns a fresh iterator.
        name: The split's name, for errors.
        input_shapes: Shapes of the model's inputs, if known.
        length: Number of its elements; negative if unknown.

    Raises:
        DataError: It yields nothing, or elements of different structure.
    """
    first = [to_element(element, name) for element in itertools.islice(make(), CHECK_BATCHES + 1)]
    if not first:
        raise empty(name, "an iterable that yields nothing")
    try:
        for element in first[1:]:
            keras.tree.assert_same_structure(first[0], element)
    except (ValueError, TypeError) as error:
        raise DataError(
            f"The {name} iterable yields elements of different structure.",
            received=str(error).splitlines()[0],
            expected="(x,), (x, y) or (x, y, sample_weight), the same each time",
            fix="Yield the same structure of inputs and labels for every element.",
        ) from error
    shapes = [[np.shape(leaf) for leaf in keras.tree.flatten(part)] for part in first[0]]
    batched = is_batched(shapes, input_shapes)
    stream = tf.data.Dataset.from_generator(
        lambda: (to_element(element, name) for element in make()), output_signature=signature(first, batched=batched)
    )
    return StreamSource(with_length(stream, length), batched, name)


def stream_of_dataset(dataset: tf.data.Dataset, name: str, input_shapes: Shapes | None) -> StreamSource:
    """Makes a stream of a tf.data dataset.

    Raises:
        DataError: It holds ragged or sparse tensors, or more than x, y and sample_weight.
    """
    if not isinstance(dataset.element_spec, tuple):
        dataset = dataset.map(lambda element: (element,))
    spec = dataset.element_spec
    odd = [s for s in tf.nest.flatten(spec) if not isinstance(s, tf.TensorSpec)]
    if odd or not 1 <= len(spec) <= len(PARTS):
        raise DataError(
            f"The {name} dataset has elements that can't be used.",
            received=describe(odd[0] if odd else spec),
            expected="(x,), (x, y) or (x, y, sample_weight) of dense tensors",
            fix="Map ragged tensors through .to_tensor() and sparse ones through tf.sparse.to_dense; several inputs "
            "are one tuple or dict: ((x1, x2), y).",
        )
    if any(s.shape.rank is None for s in tf.nest.flatten(spec)):
        first = next(iter(dataset.take(1)), None)
        if first is None:
            raise empty(name, "a dataset without elements")
        ranks = [tf.TensorShape([None] * tensor.shape.rank) for tensor in tf.nest.flatten(first)]

        def ranked(*element: Any) -> Any:
            leaves = zip(tf.nest.flatten(element), ranks, strict=True)
            return tf.nest.pack_sequence_as(spec, [tf.ensure_shape(leaf, rank) for leaf, rank in leaves])

        dataset = dataset.map(ranked)
    shapes = [[tuple(s.shape) for s in tf.nest.flatten(part)] for part in dataset.element_spec]
    return StreamSource(dataset, is_batched(shapes, input_shapes), name)


def is_batched(shapes: Sequence[Shapes], input_shapes: Shapes | None = None) -> bool:
    """Decides whether the elements of a stream have a batch axis.

    Scalar labels, or first axes that differ, mean single samples. Otherwise the model's inputs decide; without a
    model, a first axis that is free or common to x and y is taken as the batch axis.

    Args:
        shapes: Shapes of the leaves of x, y and sample_weight, `None` where an axis is free.
        input_shapes: Shapes of the model's inputs with their batch axis, if known.

    Example:
        >>> is_batched([[(28, 28)], [()]]), is_batched([[(None, 28, 28)], [(None,)]])
        (False, True)
        >>> is_batched([[(28, 28)]], [(None, 28, 28)])
        False
    """
    leaves = [shape for part in shapes for shape in part]
    if any(not shape for shape in leaves) or len({shape[0] for shape in leaves} - {None}) > 1:
        return False
    if input_shapes and len(input_shapes) == len(shapes[0]):
        pairs = list(zip(shapes[0], input_shapes, strict=True))
        whole = all(_fits(shape, model) for shape, model in pairs)
        single = all(_fits((None, *shape), model) for shape, model in pairs)
        if whole != single:
            return whole
    return len(shapes) > 1 or all(shape[0] is None for shape in leaves)


def _fits(shape: tuple[int | None, ...], model: tuple[int | None, ...]) -> bool:
    fitted = Form("", tuple(model), "").fit_shape(shape)
    return fitted is not None


def signature(elements: Sequence[tuple[Any, ...]], *, batched: bool) -> tuple[Any, ...]:
    """Returns the tensor specs of some elements: an axis is fixed where they agree, but never the batch axis."""

    def spec(*leaves: np.ndarray) -> tf.TensorSpec:
        if len({leaf.ndim for leaf in leaves}) > 1:
            return tf.TensorSpec(None, leaves[0].dtype)
        sizes = zip(*(leaf.shape for leaf in leaves), strict=True)
        axes = [axis[0] if len(set(axis)) == 1 else None for axis in sizes]
        return tf.TensorSpec([None, *axes[1:]] if batched and axes else axes, leaves[0].dtype)

    return keras.tree.map_structure(spec, *elements)


def empty(name: str, received: str) -> DataError:
    """Returns the error for a set without samples."""
    return DataError(
        f"The {name} data is empty.",
        received=received,
        expected="at least one sample",
        fix="Check the filter or slice that made it. An iterator that was used up needs a function.",
    )
