"""LiteModel against TensorFlow's own numbers, in all shapes of input."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bigmodel.errors import ArgumentError, ConversionError, DataError
from bigmodel.litert import LiteModel, TensorInfo


@pytest.fixture(scope="module")
def network() -> Any:
    import keras

    keras.utils.set_random_seed(0)
    x = keras.Input((6, 6, 1), name="image")
    h = keras.layers.Flatten()(keras.layers.Conv2D(4, 3, activation="relu")(x))
    return keras.Model(x, keras.layers.Dense(3, activation="softmax", name="label")(h))


@pytest.fixture(scope="module")
def file(network: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("litert") / "model.tflite"
    network.export(path, format="litert", verbose=False)
    return path


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    import keras

    left, right = keras.Input((4,), name="left"), keras.Input((None, 2), name="right")
    pooled = keras.layers.GlobalAveragePooling1D()(right)
    total = keras.layers.Dense(2, name="total")(keras.layers.Concatenate()([left, pooled]))
    model = keras.Model([left, right], {"total": total, "flag": keras.layers.Dense(1, name="flag")(left)})
    path = tmp_path_factory.mktemp("litert") / "pair.tflite"
    model.export(path, format="litert", verbose=False)
    return model, path


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).random((300, 6, 6, 1), dtype=np.float32)


@pytest.mark.parametrize("delegate", ["xnnpack", None])
@pytest.mark.parametrize("batch_size", [1, 7, 128, 1000])
def test_predictions_are_those_of_keras(file: Path, network: Any, images: Any, batch_size: int, delegate: Any) -> None:
    model = LiteModel(file, delegate=delegate)
    assert np.allclose(model.predict(images, batch_size=batch_size), network.predict(images, verbose=0), atol=1e-6)


def test_threads_and_single_samples(file: Path, images: Any) -> None:
    expected = LiteModel(file).predict(images)
    model = LiteModel(file, threads=2)
    for count in (1, 2, 300, 1):
        assert np.allclose(model.predict(images[:count]), expected[:count], atol=1e-6)


def test_memory_is_laid_out_once_for_equal_shapes(file: Path, images: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = LiteModel(file)
    calls = []
    allocate = model._interpreter.allocate_tensors
    monkeypatch.setattr(model._interpreter, "allocate_tensors", lambda: (calls.append(1), allocate()))
    model.predict(images, batch_size=128)
    model.predict(images, batch_size=128)
    assert len(calls) == 1
    model.predict(images[:5])
    assert len(calls) == 2


def test_names_and_shapes_come_from_the_signature(file: Path, pair: tuple[Any, Path]) -> None:
    model = LiteModel(file)
    assert model.inputs == (TensorInfo("image", (None, 6, 6, 1), "float32"),)
    assert [t.shape for t in model.outputs] == [(None, 3)]
    model = LiteModel(pair[1])
    assert [t.name for t in model.inputs] == ["left", "right"]
    assert model.inputs[1].shape == (None, None, 2)
    assert [t.name for t in model.outputs] == ["flag", "total"]


@pytest.mark.parametrize("steps", [3, 9])
def test_several_inputs_and_a_free_axis(pair: tuple[Any, Path], steps: int) -> None:
    keras_model, path = pair
    rng = np.random.default_rng(0)
    x = {"left": rng.random((20, 4), dtype=np.float32), "right": rng.random((20, steps, 2), dtype=np.float32)}
    expected = keras_model.predict([x["left"], x["right"]], verbose=0)
    for form in (x, [x["left"], x["right"]], (x["left"], x["right"])):
        result = LiteModel(path).predict(form, batch_size=8)
        assert set(result) == {"total", "flag"}
        assert all(np.allclose(result[name], expected[name], atol=1e-6) for name in expected)


def test_codes_are_those_of_the_formula() -> None:
    info = TensorInfo("x", (None, 1), "int8", scale=0.5, zero_point=-3)
    values = np.array([-100.0, -0.3, 0.0, 0.26, 1.0, 100.0])
    codes = np.clip(np.round(values / 0.5) - 3, -128, 127)
    assert info.encode(values).tolist() == codes.tolist() and info.encode(values).dtype == np.int8
    assert info.decode(info.encode(values)).tolist() == [-62.5, -0.5, 0.0, 0.5, 1.0, 65.0]


def test_a_file_of_integers_takes_and_gives_real_values(network: Any, images: Any, tmp_path: Path) -> None:
    import tensorflow as tf

    network.export(tmp_path / "saved", verbose=False)
    converter = tf.lite.TFLiteConverter.from_saved_model(str(tmp_path / "saved"))
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([x[None]] for x in images[:50])
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    path = tmp_path / "int8.tflite"
    path.write_bytes(converter.convert())
    model = LiteModel(path)
    assert model.inputs[0].dtype == model.outputs[0].dtype == "int8"
    assert model.inputs[0].scale == pytest.approx(images[:50].max() / 255, rel=0.05)
    result = model.predict(images)
    assert result.dtype == np.float32
    assert np.abs(result - network.predict(images, verbose=0)).max() < 0.03


@pytest.mark.parametrize("batch", [1, 4])
def test_a_fixed_batch_is_kept(tmp_path: Path, batch: int) -> None:
    import tensorflow as tf

    # Every sample's answer depends on its whole batch, so a batch of another size could not go unnoticed.
    function = tf.function(lambda x: x - tf.reduce_max(x, axis=0), input_signature=[tf.TensorSpec((batch, 2))])
    path = tmp_path / "fixed.tflite"
    path.write_bytes(tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()]).convert())
    x = np.arange(20, dtype=np.float32).reshape(10, 2)
    model = LiteModel(path)
    assert model.inputs[0].shape == (batch, 2)
    result = model.predict(x)
    assert result.shape == (10, 2)
    assert np.array_equal(result[:batch], x[:batch] - x[:batch].max(axis=0))
    assert model.predict(x[:1]).shape == (1, 2)


def test_a_last_axis_of_one_may_be_left_out_and_integers_are_taken(file: Path, images: Any) -> None:
    model = LiteModel(file)
    assert np.array_equal(model.predict(images[..., 0]), model.predict(images))
    whole = (images * 255).astype(np.uint8)
    assert np.array_equal(model.predict(whole), model.predict(whole.astype(np.float64)))


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros((6, 6, 1), np.float32), r"x\[None\]"),
        (np.zeros((2, 6, 7, 1), np.float32), "wrong shape"),
        (np.zeros((0, 6, 6, 1), np.float32), "no samples"),
        (np.zeros((2, 6, 6, 1), complex), "type"),
        (np.array([["a"]]), "type"),
        ({"picture": np.zeros((2, 6, 6, 1))}, "missing .*image.*unknown .*picture"),
    ],
)
def test_wrong_input_is_refused(file: Path, x: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        LiteModel(file).predict(x)


def test_wrong_inputs_of_several_are_refused(pair: tuple[Any, Path]) -> None:
    model = LiteModel(pair[1])
    left, right = np.zeros((2, 4)), np.zeros((2, 5, 2))
    for x in (left, [left], {"left": left}, [left, right[:1]]):
        with pytest.raises(DataError):
            model.predict(x)


def test_wrong_arguments_are_refused(file: Path, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="no such file"):
        LiteModel(tmp_path / "none.tflite")
    with pytest.raises(ArgumentError, match="threads"):
        LiteModel(file, threads=0)
    with pytest.raises(ArgumentError, match="delegate"):
        LiteModel(file, delegate="gpu")
    with pytest.raises(ArgumentError, match="batch_size"):
        LiteModel(file).predict(np.zeros((1, 6, 6, 1)), batch_size=0)
    broken = tmp_path / "broken.tflite"
    broken.write_bytes(b"not a model")
    with pytest.raises(ConversionError, match=r"broken\.tflite"):
        LiteModel(broken)


def test_serving_needs_no_keras(file: Path, python: Callable[..., str]) -> None:
    code = """
import sys
import bigmodel as bm
import numpy as np
print(bm.LiteModel(sys.argv[1]).predict(np.zeros((2, 6, 6, 1))).shape)
print(sorted({"keras", "tensorflow"} & set(sys.modules)))
"""
    assert python(code, file).splitlines()[-2:] == ["(2, 3)", "[]"]
