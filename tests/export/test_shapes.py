"""Shapes that a file need not compute: what did is gone, and its answers are those of the model, at any batch."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from ai_edge_litert.tools import flatbuffer_utils

from bigmodel.export import export_float

layers = keras.layers
COMPUTE_SIZES = {"SHAPE", "STRIDED_SLICE", "GATHER", "PACK", "REDUCE_PROD"}
NAMES = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}


def ops_of(path):
    model = flatbuffer_utils.read_model(str(path))
    return [NAMES[model.operatorCodes[op.opcodeIndex].builtinCode] for op in model.subgraphs[0].operators]


def answer(path, x):
    interpreter = Interpreter(str(path))
    (taken,), (given,) = interpreter.get_input_details(), interpreter.get_output_details()
    interpreter.resize_tensor_input(taken["index"], x.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(taken["index"], x)
    interpreter.invoke()
    return interpreter.get_tensor(given["index"])


def check(model, path, *shape):
    export_float(model, path)
    for batch in (1, 3):
        x = np.random.default_rng(batch).normal(size=(batch, *shape)).astype("float32")
        np.testing.assert_allclose(answer(path, x), model(x), atol=1e-5)
    return ops_of(path)


def test_flattened_images_go_straight_into_a_dense_layer(tmp_path):
    model = keras.Sequential([keras.Input((5, 4)), layers.Flatten(), layers.Dense(3)])
    assert check(model, tmp_path / "m.tflite", 5, 4) == ["FULLY_CONNECTED"]


def test_dense_layers_on_sequences_compute_no_sizes(tmp_path):
    model = keras.Sequential([keras.Input((5, 4)), layers.Dense(6, activation="relu"), layers.Dense(3)])
    ops = check(model, tmp_path / "m.tflite", 5, 4)
    assert not COMPUTE_SIZES & set(ops) and ops.count("FULLY_CONNECTED") == 2


def test_what_only_a_shape_was_taken_of_is_gone_too(tmp_path):
    class Flat(layers.Layer):
        def call(self, x):
            sizes = keras.ops.shape(keras.ops.exp(x))
            return keras.ops.reshape(x, (sizes[0], 24))

    x = keras.Input((6, 4))
    assert check(keras.Model(x, Flat()(x)), tmp_path / "m.tflite", 6, 4) == ["RESHAPE"]


def test_two_free_sizes_are_computed(tmp_path):
    model = keras.Sequential([keras.Input((None, 4)), layers.Dense(3), layers.Dense(2)])
    ops = check(model, tmp_path / "m.tflite", 7, 4)
    assert "SHAPE" in ops  # batch and length


@pytest.mark.parametrize("flipped", [False, True])
def test_a_size_that_comes_out_is_still_computed(tmp_path, flipped):
    class Size(layers.Layer):
        def call(self, x):
            sizes = keras.ops.shape(x)
            kept = keras.ops.reshape(x, (sizes[0], 20))
            size = keras.ops.cast(keras.ops.convert_to_tensor(sizes[0]), "float32")
            return keras.ops.flip(kept, axis=1) + size if flipped else kept + size

    x = keras.Input((5, 4))
    ops = check(keras.Model(x, Size()(x)), tmp_path / "m.tflite", 5, 4)
    assert "SHAPE" in ops and "PACK" not in ops


def sliced(sizes, order):
    return tf.stack([sizes[index] for index in tf.unstack(order)])


@pytest.mark.parametrize("take", [tf.gather, sliced])
def test_sizes_at_computed_places_are_computed(tmp_path, take):
    class Turned(layers.Layer):
        def call(self, x):
            sizes = tf.shape(x)
            order = tf.stack([0, 2 + 0 * sizes[0], tf.minimum(sizes[0], 1)])  # 0, 2, 1
            return tf.reshape(x, take(sizes, order))

        def compute_output_shape(self, shape):
            return (shape[0], shape[2], shape[1])

    x = keras.Input((5, 4))
    ops = check(keras.Model(x, Turned()(x)), tmp_path / "m.tflite", 5, 4)
    assert {"SHAPE", "RESHAPE"} <= set(ops)
