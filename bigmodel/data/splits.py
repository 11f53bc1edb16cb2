"""The splits of a data set, and how they are made of what the caller passed."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf

from bigmodel.data.checks import check_values
from bigmodel.data.inputs import Form, check_inputs, input_forms
from bigmodel.data.intake import as_source
from bigmodel.data.labels import check_labels, needs_labels, targets
from bigmodel.data.order import Epoch
from bigmodel.data.sources import ArraySource, Source
from bigmodel.data.streams import LabelledSource, PyDatasetSource, StreamSource
from bigmodel.errors import ArgumentError, DataError, describe

if TYPE_CHECKING:
    from bigmodel.data.augmentation import Augmentation

CALIBRATION_SAMPLES = 512
_HEAD_BATCH = 128


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """One set of samples that can be read again and again; `as_data` makes it.

    Args:
        name: "train", "validation", "test" or "calibration".
        source: Where the samples come from.
        forms: Shape and dtype of the model's inputs, to which x is fitted; one for each array of x.
        notes: How the split came to be.
        augmentation: What varies its batches, and only these: `sample` and `arrays` give the samples as they are.
    """

    name: str
    source: Source
    forms: tuple[Form | None, ...] | None = None
    notes: tuple[str, ...] = ()
    augmentation: Augmentation | None = None

    @property
    def size(self) -> int | None:
        """Number of samples; `None` when only reading the stream would tell."""
        return self.source.size

    @property
    def in_memory(self) -> bool:
        """Whether the samples are arrays."""
        return isinstance(self.source, ArraySource)

    @property
    def synthetic(self) -> np.ndarray:
        """For each sample of arrays whether it is synthetic, bool of shape (size,); of a stream it has no rows."""
        return self.source.synthetic if isinstance(self.source, ArraySource) else np.zeros(0, bool)

    @property
    def has_labels(self) -> bool:
        """Whether y is there."""
        return self.source.parts > 1

    def batches(
        self, batch_size: int = 128, *, shuffle: bool = False, seed: int = 0, epoch: Epoch = None
    ) -> tf.data.Dataset:
        """Returns the samples as batches, prefetched.

        Arrays are gathered batch by batch, in an order that depends on `(seed, epoch)` only (`epoch_order`). A stream
        of single samples is shuffled within a buffer, seeded by `(seed, epoch)`; the batches of a `PyDataset` are
        permuted whole; a batched tf.data dataset or iterable keeps its batches and their order.

        Args:
            batch_size: Samples per batch; a source that is batched already keeps its own. The last one may be shorter.
            shuffle: Another order in each epoch.
            seed: Seed of the order, at least 0.
            epoch: Whose order an iteration takes: a number; a function that returns it and is called when an iteration
                starts; or `None`, which counts the iterations of this result from 0. Keras may start one more
                iteration to build a model, so a run that has to resume exactly passes a function.

        Returns:
            A dataset of `(x,)`, `(x, y)` or `(x, y, sample_weight)`. Several inputs are a tuple or a dict. Pass
            `shuffle=False` to `fit` with it: Keras' own shuffling is for arrays, and it warns.

        Raises:
            ArgumentError: A value is out of range.

        Example:
            >>> split = as_data((np.arange(6.0), np.arange(6)), validation_fraction=0, test_fraction=0).train
            >>> [y.tolist() for _, y in split.batches(4).as_numpy_iterator()]
            [[0, 1, 2, 3], [4, 5]]
        """
        for label, value, least in (("batch_size", batch_size, 1), ("seed", seed, 0)):
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
                raise ArgumentError(
                    f"{label} can't be used.",
                    received=f"{label}={describe(value)}",
                    expected=f"a whole number of at least {least}",
                    fix=f"Pass {label} as a whole number.",
                )
        batches = self.source.batches(int(batch_size), shuffle=shuffle, seed=int(seed), epoch=epoch)
        if self.forms is not None:
            batches = batches.map(self.fitted, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        if self.augmentation is not None:
            batches = self.augmentation.apply(batches, epoch)
        options = tf.data.Options()
        # Every worker reads all and takes its share: Python sources and row numbers can't be sharded by file.
        options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
        return batches.prefetch(tf.data.AUTOTUNE).with_options(options)

    def fitted(self, *elements: Any) -> tuple[Any, ...]:
        """Returns `(x, ...)` with x in the shape and dtype of the model's inputs, inside a tf.data function."""
        if self.forms is None:
            return elements
        leaves = zip(keras.tree.flatten(elements[0]), self.forms, strict=True)
        fitted = [leaf if form is None else form.fit_tensor(leaf) for leaf, form in leaves]
        return (keras.tree.pack_sequence_as(elements[0], fitted), *elements[1:])

    def sample(self, count: int, *, seed: int = 0) -> Split:
        """Returns at most `count` samples as an in-memory split; the split itself is not changed.

        Of arrays the samples are drawn at random and keep their order, without a copy; of a stream they are the first
        ones, and no more than these are read.

        Args:
            count: Most samples.
            seed: Seed of the draw.

        Raises:
            ArgumentError: `count` is below 1.
        """
        if count < 1:
            raise ArgumentError(
                "A sample can't be empty.",
                received=f"count={count}",
                expected="at least 1",
                fix="Pass a positive count.",
            )
        if isinstance(self.source, ArraySource):
            if count >= self.source.size:
                return self if self.augmentation is None else dataclasses.replace(self, augmentation=None)
            rows = np.sort(np.random.default_rng(seed).permutation(self.size or 0)[:count])
            return self._with(self.source.select(rows), f"{len(rows)} samples drawn from {self.name}")
        assert isinstance(self.source, (StreamSource, PyDatasetSource, LabelledSource))
        source, padded = self.source.sample(count)
        note = f"the first {source.size} samples of {self.name}"
        return self._with(source, note + (", padded with zeros to one shape" if padded else ""))

    def head(self, count: int) -> Split:
        """Returns about the first `count` samples, whole batches of a stream, which stay on the stream.

        Args:
            count: Samples that are enough; arrays give all of theirs.
        """
        if isinstance(self.source, ArraySource):
            return self
        batches = self.batches(_HEAD_BATCH)
        size = next(len(leaf) for batch in batches.take(1) for leaf in keras.tree.flatten(batch))
        source = StreamSource(batches.take(-(-count // size)), True, self.name)
        return self._with(source, f"the first {count} samples of {self.name}")

    def arrays(self) -> tuple[Any, Any, Any]:
        """Returns `(x, y, sample_weight)` as structures of NumPy arrays, x fitted to the model as in `batches`.

        Returns:
            Arrays, or tuples and dicts of them; y and sample_weight are `None` where there are none. They may share
            memory with the caller's arrays: do not write to them.

        Raises:
            DataError: The split is a stream.
        """
        if not isinstance(self.source, ArraySource):
            raise DataError(
                f"The {self.name} split is a stream, which is never read into memory as a whole.",
                received=type(self.source).__name__,
                expected="a split of arrays",
                fix="Read it with .batches(), or take .sample(count).arrays().",
            )
        x, *rest = self.source.arrays()
        if self.forms is not None:
            leaves = zip(keras.tree.flatten(x), self.forms, strict=True)
            fitted = [leaf if form is None else form.fit_array(leaf) for leaf, form in leaves]
            x = keras.tree.pack_sequence_as(x, fitted)
        y, w = (*rest, None, None)[:2]
        return x, y, w

    def _with(self, source: Source, note: str) -> Split:
        return dataclasses.replace(self, source=source, notes=(*self.notes, note), augmentation=None)


@dataclasses.dataclass(frozen=True, eq=False)
class Data:
    """The splits of a data set, in any form that `as_data` accepts.

    Args:
        train: What the steps train on.
        validation: What choices are made by; cut from train if missing.
        test: What the final figures are measured on, never used to choose.
        calibration: What activation ranges are taken from; a sample of train if missing.
        notes: How missing splits came to be; `as_data` writes them.

    Example:
        >>> Data(train=(np.zeros((4, 2)), np.zeros(4)), validation=(np.ones((2, 2)), np.ones(2))).test is None
        True
    """

    train: Any
    validation: Any = None
    test: Any = None
    calibration: Any = None
    notes: tuple[str, ...] = ()


def as_data(
    source: Any,
    *,
    model: Any = None,
    seed: int = 0,
    validation_fraction: float = 0.1,
    test_fraction: float = 0.1,
    batch_size: int = 128,
    labels: bool | None = None,
) -> Data:
    """Turns any accepted form of data into checked splits. The source is not changed, and `as_data(as_data(d))` is `d`.

    A missing validation split is cut from train. A test split is cut only if the source is one single set. Arrays are
    cut at random with the same share of every class, streams evenly along their length; both fractions are shares of
    the whole train set.

    Args:
        source: `Data`; `(x, y)` or `(x, y, sample_weight)` of arrays, tensors, data frames or structures of them; x
            alone; a tf.data dataset; a `keras.utils.PyDataset`; an iterable that can be iterated again; or a function
            that returns an iterator.
        model: A Keras model to check against: its inputs, its outputs, and its loss if it is compiled.
        seed: Seed of cuts and of the calibration sample.
        validation_fraction: Share of train for a missing validation split; 0: none is cut.
        test_fraction: Share of train for a missing test split; 0: none is cut.
        batch_size: Samples that are read at a time to check a stream that is not batched.
        labels: Whether labels are needed; `None`: if the model is compiled with a loss.

    Returns:
        `Data` of `Split`; validation and test may be `None`.

    Raises:
        ArgumentError: A fraction is out of range.
        ArgumentTypeError: The source is of no accepted kind.
        DataError: The data is empty or malformed, or does not fit the model.

    Example:
        >>> data = as_data((np.zeros((100, 4)), np.arange(100) % 2))
        >>> data.train.size, data.validation.size, data.test.size, data.calibration.size
        (80, 10, 10, 80)
        >>> data.notes[0]
        'test: cut from train, 10 % (stratified)'
    """
    _check_fractions(validation_fraction, test_fraction)
    given = source if isinstance(source, Data) else Data(train=source)
    if labels is None:
        labels = model is not None and needs_labels(model)
    splits = {
        name: None if value is None else _as_split(value, name, model, batch_size, labels)
        for name in ("train", "validation", "test", "calibration")
        if (value := getattr(given, name)) is not None or name == "train"
    }
    if splits["train"] is None:
        raise DataError(
            "There is no train data.",
            received="train=None",
            expected="data to train on, or to calibrate with",
            fix="Pass bm.Data(train=...).",
        )
    if isinstance(given.train, Split) and isinstance(given.calibration, Split):
        return Data(**splits, notes=given.notes)
    return _complete(splits, seed, validation_fraction, test_fraction)


def has_labels(source: Any) -> bool:
    """Says whether data has labels, from its form alone: no sample is checked.

    Args:
        source: Anything that `as_data` accepts.

    Raises:
        ArgumentTypeError: The source is of no accepted kind.
        DataError: It is malformed, or its train set has no labels but another one has.

    Example:
        >>> has_labels(np.zeros((8, 2))), has_labels((np.zeros((8, 2)), np.zeros(8)))
        (False, True)
    """
    given = source if isinstance(source, Data) else Data(train=source)
    sets = {name: getattr(given, name) for name in ("train", "validation", "test")}
    found = {
        name: value.has_labels if isinstance(value, Split) else as_source(value, name).parts > 1
        for name, value in sets.items()
        if value is not None
    }
    labelled = [name for name, is_labelled in found.items() if is_labelled]
    if labelled and not found.get("train", True):
        raise DataError(
            "The train data has no labels, but other data has.",
            received=f"labels for {' and '.join(labelled)} only",
            expected="labels everywhere, or nowhere: what the steps learn and what is measured have to be the same",
            fix="Pass x alone for every set to measure agreement with the model, or add labels to train.",
        )
    return found.get("train", True)


def _check_fractions(validation_fraction: float, test_fraction: float) -> None:
    if min(validation_fraction, test_fraction) < 0 or validation_fraction + test_fraction >= 1:
        raise ArgumentError(
            "The fractions leave nothing to train on.",
            received=f"validation_fraction={validation_fraction}, test_fraction={test_fraction}",
            expected="fractions from 0, whose sum is below 1",
            fix="Pass shares such as 0.1.",
        )


def _as_split(value: Any, name: str, model: Any, batch_size: int, labels: bool) -> Split:
    forms = None if model is None else input_forms(model)
    if isinstance(value, Split):
        split = value
    else:
        shapes = None if forms is None else [form.shape for form in keras.tree.flatten(forms)]
        split = Split(name, as_source(value, name, shapes))
        check_values(split.source.head(batch_size), name)
    if labels and name != "calibration" and not split.has_labels:
        raise DataError(
            f"The {name} data has no labels.",
            received="x alone",
            expected="(x, y) or (x, y, sample_weight)",
            fix="Pass labels, (x, x) for an autoencoder, or compile the model without a loss.",
        )
    if name == "calibration" and not split.in_memory:
        split = split.sample(CALIBRATION_SAMPLES)
    return split if model is None else _check_model(split, forms, model, batch_size)


def _check_model(split: Split, forms: Any, model: Any, batch_size: int) -> Split:
    wanted = targets(model)
    for x, *rest in split.source.head(batch_size):
        if forms is not None:
            split = dataclasses.replace(split, forms=tuple(check_inputs(x, forms, split.name)))
        # Labels of calibration data are not read, whatever they are.
        if rest and split.name != "calibration":
            check_labels(rest[0], wanted, split.name)
    return split


def _complete(splits: dict[str, Split | None], seed: int, validation_fraction: float, test_fraction: float) -> Data:
    notes: list[str] = []
    alone = splits.get("validation") is None and splits.get("test") is None
    fractions = {"test": test_fraction if alone else 0.0, "validation": validation_fraction}
    left = 1.0
    for name, fraction in fractions.items():
        train = splits["train"]
        if splits.get(name) is not None or not fraction or train is None:
            continue
        kept, cut, how = train.source.cut(fraction / left, seed)
        left -= fraction
        note = f"cut from train, {100 * fraction:.3g} % ({how})"
        if cut.size == 0 or kept.size == 0:
            raise DataError(
                f"The train data is too small to cut a {name} split from it.",
                received=f"{train.size} samples",
                expected=f"enough samples for {100 * fraction:.3g} %",
                fix=f"Pass bm.Data(train=..., {name}=...), or {name}_fraction=0.",
            )
        splits[name] = Split(name, cut, train.forms, (note,))
        splits["train"] = dataclasses.replace(train, source=kept)
        notes.append(f"{name}: {note}")
    train = splits["train"]
    assert train is not None
    if splits.get("calibration") is None:
        sample = train.sample(CALIBRATION_SAMPLES, seed=seed)
        splits["calibration"] = dataclasses.replace(sample, name="calibration")
        notes.append(f"calibration: {'all of train' if sample.source is train.source else sample.notes[-1]}")
    return Data(**splits, notes=tuple(notes))
