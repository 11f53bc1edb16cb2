"""Float files: what Keras computes, under Keras' names, from any kind of model, with the caller's model left alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import pytest
from keras import layers

from bigmodel.errors import ArgumentError, ConversionError, ModelError
from bigmodel.export import export_float, export_floats, first_run, saved_model
from bigmodel.litert import LiteModel


class Case(NamedTuple):
    """A model, a sample of its input (a structure of shapes), and the names its file must have."""

    model: keras.Model
    shapes: Any
    inputs: list[str]
    outputs: list[str]


class Scale(layers.Layer):
    """A layer that only this test knows."""

    def build(self, shape: tuple[int | None, ...]) -> None:
        self.scale = self.add_weight(shape=shape[-1:], initializer="random_normal")

    def call(self, x: Any) -> Any:
        return x * self.scale


class Subclassed(keras.Model):
    """Takes and returns dicts; knows its shapes only from its first call."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = layers.Dense(2)

    def call(self, x: Any, training: bool = False) -> Any:
        return {"left": self.dense(x["a"]), "right": self.dense(x["b"])}


def _chain(shape: tuple[int | None, ...], *stack: layers.Layer, dtype: str = "float32") -> Case:
    x = keras.Input(shape, dtype=dtype, name="x")
    return Case(keras.Sequential([x, *stack]), tuple(size or 9 for size in shape), ["x"], [stack[-1].name])


def _pair() -> tuple[list[keras.KerasTensor], list[keras.KerasTensor]]:
    zoo, ant = keras.Input((3,), name="zoo:1"), keras.Input((2,), name="ant")
    joined = layers.Concatenate()([zoo, ant])
    return [zoo, ant], [layers.Dense(2, name="wide")(joined), layers.Dense(3, name="low")(joined)]


def _several() -> Case:
    return Case(keras.Model(*_pair()), [(3,), (2,)], ["zoo:1", "ant"], ["wide", "low"])


def _keyed() -> Case:
    (zoo, ant), (wide, low) = _pair()
    model = keras.Model({"zoo:1": zoo, "ant": ant}, {"y": wide, "also": low})
    return Case(model, {"zoo:1": (3,), "ant": (2,)}, ["ant", "zoo:1"], ["also", "y"])


def _shared() -> Case:
    a, b = keras.Input((3,), name="a"), keras.Input((3,), name="b")
    dense = layers.Dense(2, name="dense")
    return Case(keras.Model([a, b], [dense(b), dense(a), a]), [(3,), (3,)], ["a", "b"], ["dense", "dense_1", "a"])


def _attention() -> Case:
    x = keras.Input((None, 8), name="x")
    y = layers.LayerNormalization(name="norm")(x + layers.MultiHeadAttention(2, 4)(x, x))
    return Case(keras.Model(x, y), (6, 8), ["x"], ["norm"])


def _subclassed() -> Case:
    model = Subclassed()
    model({"a": np.zeros((1, 3), "float32"), "b": np.zeros((1, 3), "float32")})
    return Case(model, {"a": (3,), "b": (3,)}, ["a", "b"], ["left", "right"])


def _convolutions() -> list[layers.Layer]:
    separable = layers.SeparableConv2D(5, 3)
    norm = layers.BatchNormalization()
    return [layers.Conv2D(4, 3), norm, layers.ReLU(), layers.DepthwiseConv2D(3), separable, layers.Flatten()]


CASES: dict[str, Callable[[], Case]] = {
    "dense": lambda: _chain((8,), layers.Dense(4, activation="gelu"), layers.Dropout(0.5), layers.Softmax()),
    "convolutions": lambda: _chain((10, 10, 3), *_convolutions()),
    "any image size": lambda: _chain((None, None, 3), layers.Conv2D(4, 3), layers.GlobalAveragePooling2D()),
    "random layers": lambda: _chain((8, 8, 3), layers.RandomFlip(), layers.GaussianNoise(1.0), layers.MaxPooling2D()),
    "transposed": lambda: _chain((4, 4, 3), layers.Conv2DTranspose(4, 3, strides=2), layers.UpSampling2D()),
    "conv1d": lambda: _chain((20, 3), layers.Conv1D(4, 3, padding="causal", dilation_rate=2), layers.MaxPooling1D()),
    "lstm": lambda: _chain((7, 5), layers.LSTM(4), layers.Dense(2)),
    "gru of any length": lambda: _chain((None, 5), layers.GRU(4, return_sequences=True), layers.SimpleRNN(3)),
    "bidirectional": lambda: _chain((7, 5), layers.Bidirectional(layers.LSTM(4)), layers.Dense(2)),
    "masked": lambda: _chain((7,), layers.Embedding(10, 5, mask_zero=True), layers.LSTM(4), dtype="int32"),
    "embedding": lambda: _chain((None,), layers.Embedding(10, 5), layers.GlobalAveragePooling1D(), dtype="int32"),
    "attention": _attention,
    "nested": lambda: _chain((8,), keras.Sequential([layers.Dense(4), layers.BatchNormalization()], name="inner")),
    "custom": lambda: _chain((8,), Scale()),
    "several": _several,
    "keyed": _keyed,
    "shared": _shared,
    "subclassed": _subclassed,
    "without a kernel": lambda: _chain((8,), layers.Lambda(lambda x: keras.ops.erfinv(x), name="inverse")),
}
WORKING = [name for name in CASES if name != "without a kernel"]


@pytest.fixture(scope="module")
def cases() -> dict[str, Case]:
    keras.utils.set_random_seed(1)
    made = {name: make() for name, make in CASES.items()}
    for case in made.values():  # means, biases and scales that show a mistake
        generator = np.random.default_rng(2)
        for weight in case.model.weights:
            weight.assign(generator.uniform(0.2, 1.0, weight.shape))
    return made


@pytest.fixture(scope="module")
def files(cases: dict[str, Case], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("files")
    models = [(case.model, folder / f"{i}.tflite") for i, case in enumerate(cases.values())]
    return dict(zip(cases, export_floats(models), strict=True))


def _sample(case: Case, count: int) -> Any:
    generator = np.random.default_rng(3)
    whole = isinstance(case.shapes, tuple) and case.model.inputs[0].dtype == "int32"

    def draw(shape: tuple[int, ...]) -> np.ndarray:
        if whole:
            return generator.integers(0, 10, (count, *shape)).astype("int32")
        return generator.normal(size=(count, *shape)).astype("float32")

    if isinstance(case.shapes, dict):
        return {key: draw(shape) for key, shape in case.shapes.items()}
    return [draw(shape) for shape in case.shapes] if isinstance(case.shapes, list) else draw(case.shapes)


@pytest.mark.parametrize("name", WORKING)
def test_a_file_computes_what_keras_does_under_the_names_of_keras(
    name: str, cases: dict[str, Case], files: dict[str, Any]
) -> None:
    case = cases[name]
    file = LiteModel(files[name])
    x = _sample(case, 5)
    answer = file.predict(dict(zip(case.inputs, x, strict=True)) if isinstance(x, list) else x)
    expected = case.model(x, training=False)
    if not isinstance(expected, dict):
        expected = dict(zip(case.outputs, keras.tree.flatten(expected), strict=True))
    answer = answer if isinstance(answer, dict) else {file.outputs[0].name: answer}
    assert sorted(answer) == sorted(case.outputs)
    for key, values in answer.items():
        np.testing.assert_allclose(values, np.asarray(expected[key]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["several", "shared", "keyed"])
def test_inputs_and_outputs_keep_their_order(name: str, cases: dict[str, Case], files: dict[str, Any]) -> None:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(files[name]))
    (signature,) = interpreter.get_signature_list().values()
    runner = interpreter.get_signature_runner()
    places = {detail["index"]: place for place, detail in enumerate(interpreter.get_output_details())}
    order = sorted(signature["outputs"], key=lambda key: places[runner.get_output_details()[key]["index"]])
    assert order == cases[name].outputs
    widths = {key: detail["shape"][-1] for key, detail in runner.get_input_details().items()}
    by_place = [detail["shape"][-1] for detail in interpreter.get_input_details()]
    assert by_place == [widths[key] for key in cases[name].inputs]


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("dense", (None, 8)),
        ("any image size", (None, None, None, 3)),
        ("lstm", (1, 7, 5)),
        ("gru of any length", (1, None, 5)),
        ("embedding", (None, None)),
    ],
)
def test_free_sizes_stay_free(name: str, shape: tuple[int | None, ...], files: dict[str, Any]) -> None:
    assert LiteModel(files[name]).inputs[0].shape == shape


def test_a_loop_holds_its_kernels_once(cases: dict[str, Case], files: dict[str, Any]) -> None:
    weights = 4 * cases["lstm"].model.count_params()
    assert weights < files["lstm"].stat().st_size < weights + 12_000


def test_an_operation_without_a_kernel_is_named_with_its_layer(files: dict[str, Any]) -> None:
    error = files["without a kernel"]
    assert isinstance(error, ConversionError)
    assert "Erfinv" in error.problem
    assert "inverse" in error.received


def test_the_first_run_agrees_with_the_parent(cases: dict[str, Case], files: dict[str, Any]) -> None:
    for name in ("dense", "several", "keyed"):
        x = _sample(cases[name], 3)
        x = dict(zip(cases[name].inputs, x, strict=True)) if isinstance(x, list) else x
        here, there = LiteModel(files[name]).predict(x), first_run(files[name], x)
        keras.tree.map_structure(np.testing.assert_array_equal, there, here)


def test_a_broken_file_fails_its_first_run(tmp_path: Path) -> None:
    (tmp_path / "broken.tflite").write_bytes(b"\x1c\0\0\0TFL3" + bytes(64))
    with pytest.raises(ConversionError):
        first_run(tmp_path / "broken.tflite", np.zeros((1, 2), "float32"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A model trained in mixed precision, before and after its export, and a twin that was never exported."""
    keras.utils.set_random_seed(4)
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        stack = [keras.Input((6,)), layers.Dense(4, "relu"), layers.BatchNormalization(), layers.Dense(2)]
        model = keras.Sequential(stack)
    finally:
        keras.config.set_dtype_policy(before)
    generator = np.random.default_rng(5)
    x, y = generator.normal(size=(64, 6)), generator.normal(size=(64, 2))
    twin = keras.models.clone_model(model)
    twin.set_weights(model.get_weights())
    for each in (model, twin):
        each.compile("adam", "mse")
        each.fit(x, y, shuffle=False, verbose=0)
    known = {id(layer): set(vars(layer)) for layer in (model, *model.layers)}
    path = export_float(model, tmp_path_factory.mktemp("trained") / "mixed.tflite")
    return {"model": model, "twin": twin, "path": path, "x": x, "y": y, "known": known}


def test_mixed_precision_is_exported_in_float32(trained: dict[str, Any]) -> None:
    w1, b1, gamma, beta, mean, variance, w2, b2 = (w.astype("float64") for w in trained["model"].get_weights())
    hidden = np.maximum(trained["x"] @ w1 + b1, 0)
    expected = ((hidden - mean) / np.sqrt(variance + 1e-3) * gamma + beta) @ w2 + b2
    answer = LiteModel(trained["path"]).predict(trained["x"].astype("float32"))
    np.testing.assert_allclose(answer, expected, rtol=1e-5, atol=1e-5)


def test_the_model_is_left_alone(trained: dict[str, Any]) -> None:
    model, twin = trained["model"], trained["twin"]
    assert {layer.dtype_policy.name for layer in (model, *model.layers)} == {"mixed_bfloat16"}
    assert {id(layer): set(vars(layer)) for layer in (model, *model.layers)} == trained["known"]
    histories = [each.fit(trained["x"], trained["y"], shuffle=False, verbose=0).history for each in (model, twin)]
    assert histories[0] == histories[1]
    for ours, theirs in zip(model.get_weights(), twin.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_call_adds_no_loss_to_the_model(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2, activity_regularizer="l2")])
    saved_model.save(model, tmp_path / "saved")
    assert model.losses == []


def test_a_stopped_conversion_leaves_what_was_there(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "model.tflite"
    path.write_bytes(b"the file of an earlier run")
    (tmp_path / "model.tflite.part").write_bytes(b"half of a file, as a killed child leaves it")
    with pytest.raises(ConversionError, match="did not end within"):
        export_float(CASES["dense"]().model, path, timeout_s=0.2)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {path.name: b"the file of an earlier run"}
    assert capfd.readouterr() == ("", "")


def test_classes_of_an_unguarded_script_are_exported_and_nothing_is_printed(
    tmp_path: Path, python: Callable[..., str]
) -> None:
    (tmp_path / "script.py").write_text(
        "import keras\n"
        "import bigmodel.export\n"
        "class Twice(keras.layers.Layer):\n"
        "    def call(self, x):\n"
        "        return 2 * x\n"
        "print('once')\n"
        "print(bigmodel.export.export_float(keras.Sequential([keras.Input((3,)), Twice()]), 'twice.tflite'))\n"
    )
    ran = python("import runpy; runpy.run_path('script.py', run_name='__main__')", cwd=tmp_path)
    assert ran == "once\ntwice.tflite\n"
    x = np.array([[1.0, -2.0, 0.5]], "float32")
    np.testing.assert_array_equal(LiteModel(tmp_path / "twice.tflite").predict(x), 2 * x)


@pytest.mark.parametrize("path", ["model.lite", "no such folder/model.tflite"])
def test_a_path_that_cannot_be_used_fails_before_any_work(path: str, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError):
        export_float(keras.Sequential([layers.Dense(2)]), tmp_path / path)


def test_models_that_cannot_be_exported(tmp_path: Path) -> None:
    class Broken(layers.Layer):
        def call(self, x: Any) -> Any:
            raise RuntimeError("only works on paper")

        def compute_output_spec(self, x: Any) -> Any:
            return keras.KerasTensor(x.shape)

    unbuilt = keras.Sequential([layers.Dense(2)])
    text = keras.Model(*[keras.Input((1,), dtype="string")] * 2)
    broken = keras.Sequential([keras.Input((3,)), Broken()])
    for model, reason in ((unbuilt, "no weights yet"), (text, "takes text"), (broken, "only works on paper")):
        with pytest.raises(ModelError, match=reason):
            export_float(model, tmp_path / "model.tflite")
