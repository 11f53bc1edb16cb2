"""A file for integer-only devices: it says what of it is not."""

from __future__ import annotations

import warnings

import keras
import numpy as np
import pytest

import bigmodel as bm

X = np.random.default_rng(0).normal(size=(64, 6, 8)).astype("float32")


def exported(path, *layers):
    inputs = keras.Input((6, 8))
    outputs = inputs
    for layer in layers:
        outputs = layer(outputs)
    model = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Flatten()(outputs)))
    return bm.export_litert(model, path, format="static_int8", io="int8", data=X)


def test_one_of_dense_layers_is_integer_throughout(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        path = exported(tmp_path / "model.tflite", keras.layers.Dense(8, activation="relu"))
    assert {info.dtype for info in (*bm.LiteModel(path).inputs, *bm.LiteModel(path).outputs)} == {"int8"}


@pytest.mark.slow
def test_one_with_float_ops_names_them(tmp_path):
    def attend(x):
        return keras.layers.MultiHeadAttention(2, 4)(x, x)

    with pytest.warns(UserWarning, match=r"is not integer-only: the runtime computes .*\d [A-Z_]+"):
        exported(tmp_path / "model.tflite", attend)
