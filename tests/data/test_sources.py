"""Every accepted form of data gives the same samples."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from bigmodel.data import Data, Split, as_data
from bigmodel.data.streams import is_batched
from bigmodel.errors import ArgumentTypeError, DataError

X = np.arange(60, dtype="float32").reshape(20, 3)
Y = np.arange(20) % 2
W = np.linspace(0, 1, 20).astype("float32")


class Batches(keras.utils.PyDataset):
    ended = 0

    @property
    def num_batches(self):
        return 4

    def __getitem__(self, i):
        rows = slice(5 * i, 5 * i + 5)
        return X[rows], Y[rows]

    def on_epoch_end(self):
        self.ended += 1


class Loader:
    def __iter__(self):
        return ([X[i : i + 6], Y[i : i + 6]] for i in range(0, 20, 6))


class Samples:
    def __len__(self):
        return 20

    def __getitem__(self, i):
        return X[i], Y[i]


def generate():
    yield from zip(X, Y, strict=True)


def whole(source, **options) -> Split:
    return as_data(source, validation_fraction=0, test_fraction=0, **options).train


def read(split: Split, **options) -> list[np.ndarray]:
    batches = list(split.batches(7, **options).as_numpy_iterator())
    return [np.concatenate(parts) for parts in zip(*batches, strict=True)]


SOURCES = {
    "arrays": lambda: (X, Y),
    "lists": lambda: (X.tolist(), Y.tolist()),
    "tensors": lambda: (tf.constant(X), tf.constant(Y)),
    "batched dataset": lambda: tf.data.Dataset.from_tensor_slices((X, Y)).batch(6),
    "full batches": lambda: tf.data.Dataset.from_tensor_slices((X, Y)).batch(5, drop_remainder=True),
    "dataset of samples": lambda: tf.data.Dataset.from_tensor_slices((X, Y)),
    "dataset of unknown length": lambda: tf.data.Dataset.from_tensor_slices((X, Y)).filter(lambda x, y: True),
    "dataset of unknown rank": lambda: tf.data.Dataset.from_generator(generate, output_types=(tf.float32, tf.int64)),
    "py dataset": Batches,
    "iterable of batches": Loader,
    "indexable samples": Samples,
    "function": lambda: generate,
    "list of batches": lambda: [(X[:9], Y[:9]), (X[9:], Y[9:])],
}


@pytest.mark.parametrize("make", SOURCES.values(), ids=SOURCES)
def test_each_form_gives_all_samples_in_order_and_again(make):
    split = whole(make())
    for _ in range(2):
        x, y = read(split)
        assert (x == X).all() and x.dtype == "float32"
        assert (y == Y).all()
    assert split.has_labels
    assert sorted(read(split, shuffle=True)[0][:, 0]) == sorted(X[:, 0])


# Keras' word on a first epoch whose length it did not know.
@pytest.mark.filterwarnings("ignore:Your input ran out of data")
@pytest.mark.parametrize("make", SOURCES.values(), ids=SOURCES)
def test_each_form_trains_evaluates_and_samples(make):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, activation="softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
    split = whole(make(), model=model)
    model.fit(split.batches(5, shuffle=True), epochs=2, shuffle=False, verbose=0)
    model.evaluate(split.batches(5), verbose=0)
    sample = split.sample(8)
    x, y, w = sample.arrays()
    assert sample.in_memory and sample.size == 8 and w is None
    assert all((X[:, 0] == row[0]).any() for row in x) and y.shape == (8,)


def test_weights_arrive():
    x, y, w = read(whole((X, Y, W)))
    assert (w == W).all() and len(x) == len(y) == 20
    assert (whole((X, Y, W)).arrays()[2] == W).all()


@pytest.mark.parametrize("source", [X, (X,), (X, None), tf.data.Dataset.from_tensor_slices(X).batch(6)])
def test_inputs_alone_are_data_without_labels(source):
    split = whole(source)
    assert not split.has_labels
    (x,) = read(split)
    assert (x == X).all()
    assert split.sample(20).arrays()[1] is None


def test_doubles_become_floats_as_in_keras():
    x, y = read(whole((X.astype("float64"), Y.astype("float64"))))
    assert x.dtype == y.dtype == "float32"
    assert whole((X.astype("float64"), Y)).arrays()[0].dtype == "float32"


@pytest.mark.parametrize("x", [[X, X[:, :1]], (X, X[:, :1]), {"a": X, "b": X[:, :1]}])
@pytest.mark.parametrize("stream", [False, True])
def test_several_inputs_and_outputs(x, stream):
    a, b = keras.Input((3,), name="a"), keras.Input((1,), name="b")
    both = keras.layers.Concatenate()([a, b])
    model = keras.Model(
        [a, b],
        {"class": keras.layers.Dense(2, name="class")(both), "value": keras.layers.Dense(1, name="value")(both)},
    )
    loss = {"class": keras.losses.SparseCategoricalCrossentropy(from_logits=True), "value": "mse"}
    model.compile("sgd", loss)
    y = {"class": Y, "value": W}
    source = (x, y)
    if stream:
        source = tf.data.Dataset.from_tensor_slices((tuple(x) if isinstance(x, list) else x, y)).batch(6)
    split = as_data(source, model=model, validation_fraction=0, test_fraction=0).train
    model.fit(split.batches(5, shuffle=True), shuffle=False, verbose=0)
    inputs, labels, _ = split.sample(20).arrays()
    first = inputs["a"] if isinstance(x, dict) else inputs[0]
    assert (np.sort(first[:, 0]) == X[:, 0]).all()
    assert set(labels) == {"class", "value"}


def test_frames_and_series():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X, columns=["a", "b", "c"])
    x, y = read(whole((frame, pandas.Series(Y))))
    assert (x == X).all() and (y == Y).all()
    frame["b"] = "text"
    with pytest.raises(DataError, match="array of numbers"):
        whole((frame, Y))


def test_a_memory_mapped_array_is_read_batch_by_batch(tmp_path):
    np.save(tmp_path / "x.npy", X)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    split = whole((mapped, Y))
    assert (read(split)[0] == X).all()
    assert split.source.columns._tensors is None


def test_a_large_stream_is_not_read_beyond_its_head():
    read_to = 0

    def samples():
        nonlocal read_to
        for i in range(10**9):
            read_to = max(read_to, i)
            yield np.float32(i), i % 2

    data = as_data(Data(train=samples, validation=(X[:, 0], Y), test=(X[:, 0], Y)))
    assert data.calibration.in_memory and data.calibration.size == 512
    assert data.train.size is None and read_to < 5000


def test_the_callers_py_dataset_is_not_advanced():
    dataset = Batches()
    read(whole(dataset))
    assert dataset.ended == 0


def test_arrays_are_not_changed_and_cuts_share_them():
    x = X.copy()
    data = as_data((x, Y))
    assert data.train.source.columns is data.test.source.columns
    read(data.train, shuffle=True)
    assert (x == X).all()


def test_preparing_twice_changes_nothing():
    data = as_data((X, Y))
    again = as_data(data)
    for name in ("train", "validation", "test", "calibration"):
        assert getattr(again, name) is getattr(data, name)
    assert again.notes == data.notes


def test_a_sample_is_the_same_for_a_seed():
    split = whole((X, Y))
    first, again, other = (split.sample(9, seed=seed).arrays()[0][:, 0].tolist() for seed in (0, 0, 1))
    assert first == again != other
    assert split.sample(50) is split


def test_padded_batches_of_different_length_are_sampled():
    rows = [np.ones(3, "float32"), np.ones(2, "float32"), np.ones(5, "float32"), np.ones(1, "float32")]
    stream = tf.data.Dataset.from_generator(
        lambda: ((r, 0) for r in rows),
        output_signature=(tf.TensorSpec([None], tf.float32), tf.TensorSpec([], tf.int32)),
    )
    sample = whole(stream.padded_batch(2)).sample(4)
    assert sample.arrays()[0].sum(axis=1).tolist() == [3, 2, 5, 1]
    assert "padded" in sample.notes[-1]


def test_a_calibration_set_of_ones_own():
    endless = tf.data.Dataset.from_tensor_slices(X).repeat().batch(4)
    data = as_data(Data(train=(X, Y), calibration=endless))
    assert data.calibration.size == 512 and data.calibration.name == "calibration"
    assert as_data(Data(train=(X, Y), calibration=X[:6])).calibration.size == 6


def test_the_stream_of_a_split_is_refused_as_arrays():
    with pytest.raises(DataError, match="is a stream"):
        whole(generate).arrays()


@pytest.mark.parametrize("source", [generate(), iter([(X, Y)]), zip(X, Y, strict=True)])
def test_a_one_shot_iterator_is_refused_with_the_fix(source):
    with pytest.raises(DataError, match="read only once") as caught:
        as_data(source)
    assert "function that makes the generator" in caught.value.fix


def test_a_function_that_returns_the_same_iterator_is_refused():
    used = generate()
    with pytest.raises(DataError, match="same iterator"):
        as_data(lambda: used)


@pytest.mark.parametrize("source", [3, "data.csv", b"x", object(), lambda: 3])
def test_what_is_no_data_is_refused(source):
    with pytest.raises(ArgumentTypeError, match="can't be used as train data"):
        as_data(source)


@pytest.mark.parametrize(
    ("shapes", "inputs", "expected"),
    [
        ([[(28, 28)], [()]], None, False),
        ([[(None, 28, 28)], [(None,)]], None, True),
        ([[(32, 28, 28)], [(32,)]], None, True),
        ([[(28, 28)], [(10,)]], None, False),
        ([[(28, 28)]], None, False),
        ([[(None, 28, 28)]], None, True),
        ([[(28, 28)]], [(None, 28, 28)], False),
        ([[(32, 28, 28)]], [(None, 28, 28)], True),
        ([[(None,)], [(None,)]], [(None, None)], False),
        ([[(None,)], [(None,)]], [(None, 1)], True),
        ([[(4,)], [(4,)]], [(None, 4)], False),
        ([[(None, 28, 28)], [(None,)]], [(None, 28, 28, 1)], True),
    ],
)
def test_a_batch_is_told_from_a_sample(shapes, inputs, expected):
    assert is_batched(shapes, inputs) is expected


def test_the_head_of_a_stream_stays_on_the_stream_and_that_of_arrays_is_all_of_them():
    x = np.arange(100, dtype="float32").reshape(50, 2)
    read = []

    def samples():
        for row in x:
            read.append(row)
            yield row, 0

    spec = (tf.TensorSpec((2,), tf.float32), tf.TensorSpec((), tf.int32))
    stream = tf.data.Dataset.from_generator(samples, output_signature=spec).batch(8)
    train = as_data(Data(train=stream), validation_fraction=0, test_fraction=0).train
    head = train.head(20)
    read.clear()
    assert not head.in_memory
    assert np.array_equal(np.concatenate([batch[0] for batch in head.batches()]), x[:24])
    assert 24 <= len(read) < 50
    whole = as_data(Data(train=(x, np.zeros(50)))).train
    assert whole.head(20) is whole
