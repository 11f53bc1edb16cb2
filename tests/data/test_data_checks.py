"""Malformed data is refused before anything runs, with what came, what was expected and the fix."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from bigmodel.data import Data, as_data
from bigmodel.errors import BigmodelError, DataError

N = 40


def model_of(loss="sparse_categorical_crossentropy", units=3, shape=(4,), dtype="float32"):
    inputs = keras.Input(shape, dtype=dtype, name="image")
    x = keras.layers.Flatten()(keras.ops.cast(inputs, "float32"))
    model = keras.Model(inputs, keras.layers.Dense(units, name="class")(x))
    model.compile("sgd", loss)
    return model


def x_of(*shape):
    return np.zeros((N, *(shape or (4,))), "float32")


Y = np.arange(N) % 3
ONE_HOT = np.eye(3, dtype="float32")[Y]


def refused(source, match, **options):
    with pytest.raises(DataError, match=match) as caught:
        as_data(source, **options)
    error = caught.value
    assert isinstance(error, BigmodelError) and isinstance(error, ValueError)
    assert error.received and error.expected and error.fix
    return error


def as_stream(x, y):
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(8)


def with_value(value, row=17):
    x = x_of()
    x[row, 2] = value
    return x


class Endless(keras.utils.PyDataset):
    num_batches = None

    def __getitem__(self, i):
        return x_of(), Y


WITHOUT_MODEL = {
    "no rows": ((np.zeros((0, 4)), np.zeros(0)), "is empty"),
    "no elements": (lambda: iter(()), "is empty"),
    "no batches": (as_stream(x_of(), Y).take(0), "is empty"),
    "lengths": ((x_of(), Y[:-1]), "differ in length"),
    "lengths of weights": ((x_of(), Y, np.ones(3)), "differ in length"),
    "lengths of inputs": (([x_of(), x_of()[:5]], Y), "differ in length"),
    "a pair of pairs": (((x_of(), Y), (x_of()[:5], Y[:5])), "differ in length"),
    "nan": ((with_value(np.nan), Y), r"train x holds NaN"),
    "infinity": ((with_value(-np.inf), Y), "holds NaN or infinity"),
    "nan in labels": ((x_of(), np.where(Y, 1.0, np.nan)), "train y holds NaN"),
    "nan in a dict": (({"a": x_of(), "b": with_value(np.nan)}, Y), r"x\['b'\] holds NaN"),
    "nan in a stream": (as_stream(with_value(np.nan, 1), Y), "holds NaN"),
    "ragged lists": (([[1, 2], [3]], [0, 1]), "array of numbers"),
    "ragged dataset": (tf.data.Dataset.from_tensors(tf.ragged.constant([[1], [2, 3]])), "can't be used"),
    "ragged samples": (lambda: iter([(np.ones(2), 0), (np.ones(3), 1)]), "one batch"),
    "objects": ((np.array([object()] * 3), [0, 1, 2]), "array of numbers"),
    "a single value": ((x_of(), 3), "single value"),
    "four parts": ((x_of(), Y, Y, Y), "not made of"),
    "weights without labels": ((x_of(), None, Y), "not made of"),
    "endless dataset": (as_stream(x_of(), Y).repeat(), "never ends"),
    "endless py dataset": (Endless(), "never ends"),
    "changing structure": ([(x_of(), Y), ({"a": x_of()}, Y)], "different structure"),
}


@pytest.mark.parametrize(("source", "match"), WITHOUT_MODEL.values(), ids=WITHOUT_MODEL)
def test_malformed_data_is_refused(source, match):
    refused(source, match)


def test_the_error_counts_the_bad_samples():
    error = refused((with_value(np.nan), Y), "NaN")
    assert error.received == "1 of 40 samples checked in one go, first at 17 of block 0"


def test_nan_behind_the_first_rows_of_an_array_is_found():
    x = np.zeros((10_000, 2), "float32")
    x[9_000, 1] = np.inf
    refused((x, np.zeros(10_000)), "infinity")


def test_sparse_matrices_name_the_fix():
    class Sparse:
        shape, dtype = (N, 4), "float32"

        def toarray(self):
            return x_of()

    assert "toarray" in refused((Sparse(), Y), "array of numbers").fix


def test_each_split_is_named():
    refused(Data(train=(x_of(), Y), validation=(x_of(), Y[:2])), "validation")
    refused(Data(train=None, test=(x_of(), Y)), "no train data")


AGAINST_MODEL = {
    "rank": (model_of(), x_of(2, 2), Y, "another shape"),
    "size": (model_of(), x_of(5), Y, "another shape"),
    "text": (model_of(), np.array(["a"] * N), Y, "another dtype|another shape"),
    "fractions for integers": (model_of(dtype="int32"), x_of(), Y, "another dtype"),
    "too large for uint8": (model_of(dtype="uint8"), np.full((N, 4), 300), Y, "another dtype"),
    "number of inputs": (model_of(), (x_of(), x_of()), Y, "inputs of the model"),
    "name of inputs": (model_of(), {"picture": x_of()}, Y, "inputs of the model"),
    "number of outputs": (model_of(), x_of(), (Y, Y), "outputs of the model"),
    "name of outputs": (model_of(), x_of(), {"label": Y}, "outputs of the model"),
    "class above": (model_of(), x_of(), Y + 1, "outside the classes"),
    "class below": (model_of(), x_of(), Y - 1, "outside the classes"),
    "fractional classes": (model_of(), x_of(), Y + 0.5, "fractions"),
    "one-hot under sparse": (model_of(), x_of(), ONE_HOT, "one-hot"),
    "integers under categorical": (model_of("categorical_crossentropy"), x_of(), Y, "are integers"),
    "column under categorical": (model_of(keras.losses.CategoricalCrossentropy()), x_of(), Y[:, None], "are integers"),
    "width under categorical": (model_of("categorical_crossentropy"), x_of(), ONE_HOT[:, :2], "shape of the output"),
    "binary": (model_of("binary_crossentropy", 1), x_of(), Y, "probabilities"),
    "text labels": (model_of(), x_of(), np.array(["cat"] * N), "are text"),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("model", "x", "y", "match"), AGAINST_MODEL.values(), ids=AGAINST_MODEL)
def test_data_that_does_not_fit_the_model_is_refused(model, x, y, match, stream):
    refused(as_stream(x, y) if stream else (x, y), match, model=model)


ACCEPTED = {
    "integers": (model_of(), x_of(), Y),
    "column of integers": (model_of(), x_of(), Y[:, None].astype("float32")),
    "one-hot": (model_of(keras.losses.CategoricalCrossentropy(from_logits=True)), x_of(), ONE_HOT),
    "binary": (model_of("binary_crossentropy", 1), x_of(), Y % 2),
    "regression": (model_of("mse", 1), x_of(), np.linspace(-5, 5, N)),
    "ignored class": (model_of(keras.losses.SparseCategoricalCrossentropy(ignore_class=-1)), x_of(), Y - (Y == 2) * 3),
    "function as loss": (model_of(lambda t, p: keras.ops.mean(p)), x_of(), Y + 7),
    "bytes for floats": (model_of(shape=(2, 2)), x_of(2, 2).astype("uint8"), Y),
    "missing channel": (model_of(shape=(2, 2, 1)), x_of(2, 2), Y),
    "extra channel": (model_of(shape=(2, 2)), x_of(2, 2, 1), Y),
    "dict": (model_of(), {"image": x_of(), "unused": x_of()}, {"class": Y}),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("model", "x", "y"), ACCEPTED.values(), ids=ACCEPTED)
def test_data_that_fits_comes_in_the_models_shape_and_dtype(model, x, y, stream):
    data = as_data(as_stream(x, y) if stream else (x, y), model=model)
    for split in (data.train, data.validation, data.test, data.calibration):
        inputs = next(iter(split.batches(4)))[0]
        inputs = inputs["image"] if isinstance(inputs, dict) else inputs
        assert tuple(inputs.shape[1:]) == model.input_shape[1:] and inputs.dtype == model.inputs[0].dtype
    inputs = data.calibration.arrays()[0]
    inputs = inputs["image"] if isinstance(inputs, dict) else inputs
    assert inputs.shape[1:] == model.input_shape[1:] and inputs.dtype == model.inputs[0].dtype


def test_labels_are_needed_by_a_loss_only():
    refused(x_of(), "has no labels", model=model_of())
    assert not as_data(x_of(), model=model_of(), labels=False).train.has_labels
    assert not as_data(x_of(), model=model_of(loss=None)).train.has_labels
    refused(x_of(), "has no labels", labels=True)
    assert as_data(Data(train=(x_of(), Y), calibration=x_of()), model=model_of()).calibration.size == N


def test_prepared_data_is_checked_against_a_model_later():
    data = as_data((x_of(5), Y))
    refused(data, "another shape", model=model_of())
    fitted = as_data(as_data((x_of(2, 2).astype("uint8"), Y)), model=model_of(shape=(2, 2)))
    assert fitted.test.arrays()[0].dtype == "float32"


def test_a_subclassed_model_is_checked_by_its_loss():
    class Plain(keras.Model):
        def call(self, x):
            return x

    model = Plain()
    model.compile("sgd", "sparse_categorical_crossentropy")
    refused((x_of(), Y - 1), "outside the classes", model=model)
    assert as_data((x_of(), Y), model=model).train.size == 32


def test_a_sequential_model_is_checked_by_its_layers():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy())
    model(keras.Input((4,)))
    refused((x_of(), Y + 1), "outside the classes", model=model)
    refused((x_of(5), Y), "another shape", model=model)
    unbuilt = keras.Sequential([keras.layers.Dense(3)])
    assert as_data((x_of(5), Y), model=unbuilt).train.size == 32


def test_free_axes_of_a_model_accept_any_length():
    model = keras.Sequential([keras.Input((None, 4)), keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    assert as_data((x_of(7, 4), Y), model=model).train.arrays()[0].shape == (32, 7, 4)
