"""Cutting a split from another: shares, classes, no sample in both."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from bigmodel.data import Data, as_data
from bigmodel.data.cuts import class_labels, cut_rows, cut_stream, spread
from bigmodel.errors import ArgumentError, DataError


def labels_of(split):
    return np.concatenate([np.ravel(y) for _, y in split.batches(7).as_numpy_iterator()])


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.333])
def test_every_class_gets_its_share_within_one_sample(fraction):
    counts = np.array([57, 203, 11, 40])
    labels = np.repeat(np.arange(4), counts)
    kept, cut = cut_rows(len(labels), fraction, 0, labels)
    assert len(cut) == round(len(labels) * fraction)
    assert (np.abs(np.bincount(labels[cut], minlength=4) - counts * fraction) < 1).all()
    assert sorted([*kept, *cut]) == list(range(len(labels)))


def test_the_draw_follows_the_seed():
    first, again, other = (cut_rows(100, 0.3, seed, None)[1].tolist() for seed in (0, 0, 1))
    assert first == again != other


@pytest.mark.parametrize(
    "labels",
    [
        np.arange(40) % 4,
        (np.arange(40) % 4)[:, None],
        (np.arange(40) % 4).astype("float32"),
        np.eye(4, dtype="float32")[np.arange(40) % 4],
        {"class": np.arange(40) % 4},
    ],
)
def test_classes_are_found_in_each_form_of_labels(labels):
    assert (class_labels(labels) == np.arange(40) % 4).all()


@pytest.mark.parametrize(
    "labels", [np.linspace(0, 1, 40), np.arange(40), np.ones((40, 3)), np.zeros((40, 5, 5)), np.eye(40), ()]
)
def test_quantities_are_not_classes(labels):
    assert class_labels(labels) is None


def test_splits_of_arrays_are_disjoint_stratified_and_noted():
    y = np.repeat(np.arange(5), 40)
    data = as_data((np.arange(200.0), y))
    rows = [split.arrays()[0].astype(int) for split in (data.train, data.validation, data.test)]
    assert sorted(np.concatenate(rows)) == list(range(200))
    assert [len(r) for r in rows] == [160, 20, 20]
    assert np.bincount(y[rows[1]]).tolist() == np.bincount(y[rows[2]]).tolist() == [4] * 5
    assert data.notes[:2] == (
        "test: cut from train, 10 % (stratified)",
        "validation: cut from train, 10 % (stratified)",
    )
    assert data.test.notes == ("cut from train, 10 % (stratified)",)


def test_a_test_split_is_cut_of_a_single_set_only():
    x, y = np.zeros((100, 2)), np.arange(100) % 2
    assert as_data(Data(train=(x, y))).test.size == 10
    assert as_data(Data(train=(x, y), validation=(x, y))).test is None
    with_test = as_data(Data(train=(x, y), test=(x[:30], y[:30])))
    assert (with_test.train.size, with_test.validation.size, with_test.test.size) == (90, 10, 30)


def test_no_cut_when_it_is_switched_off():
    data = as_data((np.zeros((10, 2)), np.zeros(10)), validation_fraction=0, test_fraction=0)
    assert data.validation is None and data.test is None and data.train.size == 10


def test_spread_counts_the_floor_of_the_share():
    for fraction in (0.1, 0.2, 1 / 3, 0.05):
        chosen = spread(np.arange(1000), fraction)
        assert chosen.sum() == np.floor(1000 * fraction)
        assert (chosen == spread(tf.range(1000, dtype=tf.int64), fraction).numpy()).all()


@pytest.mark.parametrize("known", [True, False])
def test_a_stream_is_cut_evenly_without_its_length(known):
    stream = tf.data.Dataset.range(100)
    stream = stream if known else stream.filter(lambda _: True)
    kept, cut = cut_stream(stream, 0.1)
    assert list(cut.as_numpy_iterator()) == list(range(9, 100, 10))
    assert len(list(kept.as_numpy_iterator())) == 90
    assert int(cut.cardinality()) == (10 if known else tf.data.UNKNOWN_CARDINALITY)


def test_a_batched_stream_sorted_by_class_keeps_all_classes_in_validation():
    y = np.repeat(np.arange(4), 80)
    stream = tf.data.Dataset.from_tensor_slices((np.arange(320.0), y)).batch(8)
    data = as_data(stream)
    parts = [labels_of(split) for split in (data.train, data.validation, data.test)]
    assert sum(map(len, parts)) == 320
    assert all(set(part) == set(range(4)) for part in parts)
    assert "every 10th batch" in data.test.notes[0]


def test_few_batches_are_cut_by_sample():
    data = as_data(tf.data.Dataset.from_tensors((np.arange(50.0), np.arange(50) % 2)), test_fraction=0)
    assert len(labels_of(data.validation)) == 5 and len(labels_of(data.train)) == 45


def test_cuts_of_a_stream_are_the_same_in_every_pass():
    stream = tf.data.Dataset.range(100).map(lambda i: (tf.cast(i, tf.float32), i))
    data = as_data(stream)
    assert labels_of(data.validation).tolist() == labels_of(data.validation).tolist()
    assert not set(labels_of(data.validation)) & set(labels_of(data.train))


def test_a_stream_that_reshuffles_is_not_cut():
    stream = tf.data.Dataset.from_tensor_slices((np.zeros(500), np.arange(500))).shuffle(500).batch(10)
    with pytest.raises(DataError, match="changes from pass to pass"):
        as_data(stream)
    given = as_data(Data(train=stream, validation=stream, test=stream))
    assert len(labels_of(given.train)) == 500


def test_a_stream_with_a_fixed_shuffle_is_cut():
    stream = tf.data.Dataset.range(500).map(lambda i: (tf.cast(i, tf.float32), i))
    data = as_data(stream.shuffle(500, seed=1, reshuffle_each_iteration=False).batch(10))
    assert not set(labels_of(data.validation)) & set(labels_of(data.train))


@pytest.mark.parametrize("batches", [4, 40])
def test_a_py_dataset_is_cut(batches):
    class Numbers(keras.utils.PyDataset):
        num_batches = batches

        def __getitem__(self, i):
            return np.full((10, 1), i, "float32"), np.arange(10) + 10 * i

    data = as_data(Numbers())
    parts = [set(labels_of(split)) for split in (data.train, data.validation, data.test)]
    assert set.union(*parts) == set(range(10 * batches))
    assert sum(map(len, parts)) == 10 * batches
    assert len(parts[1]) == len(parts[2]) == batches


def test_too_little_data_is_refused():
    with pytest.raises(DataError, match="too small to cut a test"):
        as_data((np.zeros(3), np.zeros(3)))


@pytest.mark.parametrize("fractions", [(-0.1, 0.1), (0.5, 0.5)])
def test_fractions_must_leave_something(fractions):
    with pytest.raises(ArgumentError, match="leave nothing"):
        as_data((np.zeros(9), np.zeros(9)), validation_fraction=fractions[0], test_fraction=fractions[1])
