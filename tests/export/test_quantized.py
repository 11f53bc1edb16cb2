"""Files of other formats from a float one, by explicit grids: what they hold, and what a child that dies leaves."""

import functools
import os
from pathlib import Path

import keras
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from ai_edge_litert.tools import flatbuffer_utils

from bigmodel.errors import ConversionError
from bigmodel.export import quantized
from bigmodel.export.child import run_batch
from bigmodel.export.float import export_floats
from bigmodel.export.formats import FORMATS, Grid, Range
from bigmodel.export.placement import stored_codes
from bigmodel.export.quantized import write_files
from bigmodel.litert import LiteModel

RNG = np.random.default_rng(0)
GAMMA, VARIANCE = [0.5, -2.0, 1.0, -0.1], [1.0, 0.5, 2.0, 0.7]
SIZES = {"conv": 4, "hidden": 6, "last": 6}


def network():
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((8, 8, 2), name="image"),
            layers.Conv2D(4, 3, use_bias=False, name="conv"),
            layers.BatchNormalization(name="norm"),
            layers.ReLU(name="relu"),
            layers.Flatten(name="flat"),
            layers.Dense(6, activation="relu", name="hidden"),
            layers.Dense(6, name="last"),
        ]
    )
    statistics = [GAMMA, [0.3, 0.1, -0.2, 0.0], [0.1, 0.0, -0.1, 0.2], VARIANCE]
    model.get_layer("norm").set_weights([np.float32(values) for values in statistics])
    return model


def twins():
    """Two layers that get the same weights."""
    inputs = keras.Input((6,))
    x = keras.layers.ReLU()(keras.layers.Dense(6, name="first")(inputs))
    return keras.Model(inputs, keras.layers.Dense(6, name="second")(x))


def put_on_grid(model, name, channels, bits=8):
    """Gives a layer random weights on a grid that min-max would not find, most of them zero, and returns the grid."""
    kernel, most = model.get_layer(name).kernel, 2 ** (bits - 1) * 3 // 4
    codes = RNG.integers(-most, most + 1, (channels, int(np.prod(kernel.shape)) // channels)).astype(np.int8)
    codes[RNG.random(codes.shape) < 0.6] = 0
    codes[1] = 0
    scale = RNG.uniform(0.001, 0.004, channels).astype("float32")
    kernel.assign((codes * scale[:, None]).T.reshape(kernel.shape))
    return Grid(name, "kernel", bits, codes, scale)


class Source:
    """Float files, converted in one child, and the grids that their kernels lie on."""

    def __init__(self, folder):
        self.model, small, twin = network(), network(), twins()
        self.grids = [put_on_grid(self.model, name, size) for name, size in SIZES.items()]
        self.four = [put_on_grid(small, name, size, 4 if name == "hidden" else 8) for name, size in SIZES.items()]
        grid = put_on_grid(twin, "first", 6)
        twin.get_layer("second").kernel.assign(twin.get_layer("first").kernel)
        self.twins = [Grid(name, "kernel", 8, grid.codes, grid.scale) for name in ("first", "second")]
        models = {"float": self.model, "four": small, "twins": twin}
        export_floats([(model, folder / f"{name}.tflite") for name, model in models.items()])
        self.path, self.four_path, self.twins_path = (folder / f"{name}.tflite" for name in models)
        self.x = RNG.normal(size=(32, 8, 8, 2)).astype("float32")

    def write(self, folder, *names, **arguments):
        orders = [(FORMATS[name], folder / f"{name}.tflite") for name in names]
        arguments = {"grids": self.grids, "inputs": {"image": self.x}, **arguments}
        return write_files(self.path, orders, **arguments)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return Source(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def written(source, tmp_path_factory):
    """Every 8-bit and float format, by name."""
    names = [name for name, format_ in FORMATS.items() if format_.bits != 4]
    return dict(zip(names, source.write(tmp_path_factory.mktemp("written"), *names), strict=True))


def integer_weights(path):
    """Codes and scales of a file's integer weights, by shape."""
    model = flatbuffer_utils.read_model(str(path))
    bits = {schema.TensorType.INT8: 8, schema.TensorType.INT4: 4}
    found = {}
    for tensor in model.subgraphs[0].tensors:
        data = model.buffers[tensor.buffer].data
        if data is not None and tensor.type in bits and len(tensor.shape) > 1:
            codes = stored_codes(model, tensor, bits[tensor.type])
            found[tuple(tensor.shape)] = (codes, np.asarray(tensor.quantization.scale))
    return found


@pytest.mark.parametrize("name", ["weight_only_int8", "dynamic_int8", "static_int8"])
def test_buffers_hold_the_codes_that_were_handed_over(source, written, name):
    assert written[name].exact == {"conv/kernel": True, "hidden/kernel": True, "last/kernel": True}
    found = integer_weights(written[name].path)
    conv, hidden, last = source.grids
    factor = np.array(GAMMA) / np.sqrt(np.array(VARIANCE) + 1e-3)
    expected = {
        # The normalisation is folded: its factor is in the scale, its sign in the codes.
        (4, 3, 3, 2): (conv.codes * np.sign(factor)[:, None], conv.scale * np.abs(factor)),
        (6, 144): (hidden.codes, hidden.scale),
        (6, 6): (last.codes, last.scale),
    }
    assert set(found) == set(expected)
    for shape, (codes, scale) in expected.items():
        np.testing.assert_array_equal(found[shape][0].reshape(shape[0], -1), codes)
        used = np.abs(codes).max(axis=1) > 0
        np.testing.assert_allclose(found[shape][1][used], scale[used], rtol=1e-5)
        assert (found[shape][1] > 0).all()


def test_pruned_zeros_are_zeros_in_the_file(source, written):
    zeros = sum(int((codes == 0).sum()) for codes, _ in integer_weights(written["dynamic_int8"].path).values())
    assert zeros == sum(int((grid.codes == 0).sum()) for grid in source.grids)


def test_a_file_of_the_same_weights_computes_the_same(source, written):
    expected = np.asarray(source.model(source.x))
    for name in ("float32", "weight_only_int8"):
        np.testing.assert_allclose(LiteModel(written[name].path).predict(source.x), expected, rtol=1e-4, atol=1e-5)
    half = LiteModel(written["float16"].path).predict(source.x)
    assert np.abs(half - expected).max() < 2e-3 * np.abs(expected).max()
    assert written["float32"].path.read_bytes() == source.path.read_bytes()


def test_files_shrink_with_their_bits(written):
    sizes = {name: account.path.stat().st_size for name, account in written.items()}
    assert sizes["weight_only_int8"] < sizes["float16"] < sizes["float32"]
    assert written["float32"].exact == {} == written["float16"].exact


def test_a_weight_without_a_grid_stays_float_in_every_format(source, tmp_path):
    names = [name for name, format_ in FORMATS.items() if format_.quantized and format_.bits == 8]
    for account in source.write(tmp_path, *names, grids=source.grids[:1]):
        assert set(account.exact) == {"conv/kernel"} and account.missing == ()
        assert set(integer_weights(account.path)) == {(4, 3, 3, 2)}
        details = Interpreter(str(account.path)).get_tensor_details()
        assert {tuple(d["shape"]) for d in details if d["dtype"] is np.float32} >= {(6, 144), (6, 6)}


def test_a_grid_that_is_not_in_the_file_is_missing(source, tmp_path):
    other = Grid("gone", "kernel", 8, RNG.integers(-9, 9, (6, 144)).astype(np.int8), np.ones(6, np.float32))
    (account,) = source.write(tmp_path, "dynamic_int8", grids=[*source.grids, other])
    assert account.missing == ("gone/kernel",) and "gone/kernel" not in account.exact


def test_no_grid_at_all_is_an_error_and_no_file(source, tmp_path):
    for result in source.write(tmp_path, "weight_only_int8", "dynamic_int8", "static_int8", grids=()):
        assert isinstance(result, ConversionError) and "no quantized weight" in result.problem
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["weight_only_int4", "dynamic_int4"])
def test_four_bits_and_eight_live_in_one_file(source, tmp_path, name):
    orders = [(FORMATS[name], tmp_path / "4.tflite")]
    (account,) = write_files(source.four_path, orders, grids=source.four, inputs={"image": source.x})
    assert account.exact == {"conv/kernel": True, "hidden/kernel": True, "last/kernel": True}
    found = integer_weights(account.path)
    np.testing.assert_array_equal(found[6, 144][0], source.four[1].codes)
    np.testing.assert_array_equal(found[6, 6][0], source.four[2].codes)


def test_known_ranges_reach_the_file_and_what_lies_between_stays_float(source, tmp_path):
    names = ("relu", "hidden")
    tapped = keras.Model(source.model.inputs[0], [source.model.get_layer(name).output for name in names])
    values = [np.asarray(tensor) for tensor in tapped(source.x)]
    known = Range("h", 0.0, 1.5, values[1][:4])
    others = [Range(name, float(v.min()), float(v.max()), v[:4]) for name, v in (("x", source.x), ("relu", values[0]))]
    (account,) = source.write(tmp_path, "static_int8", ranges=[known])
    assert account.float_ops and "h" not in account.ranges
    (account,) = source.write(tmp_path, "static_int8", ranges=[known, *others])
    assert account.ranges["h"] == (pytest.approx(1.5 / 255, rel=1e-6), -128)
    scales = [d["quantization"] for d in Interpreter(str(account.path)).get_tensor_details() if d["dtype"] is np.int8]
    width = max(0.0, source.x.max()) - min(0.0, source.x.min())
    assert any(scale == pytest.approx(width / 255, rel=1e-5) for scale, _ in scales)


def test_integers_in_and_out(source, tmp_path):
    (account,) = source.write(tmp_path, "static_int8", io="int8")
    lite = LiteModel(account.path)
    assert (lite.inputs[0].dtype, lite.outputs[0].dtype) == ("int8", "int8")
    expected = np.asarray(source.model(source.x))
    assert np.abs(lite.predict(source.x) - expected).max() < 0.1 * np.abs(expected).max()


def test_layers_of_equal_weights_are_both_found(source, tmp_path):
    orders = [(FORMATS["dynamic_int8"], tmp_path / "a.tflite")]
    (account,) = write_files(source.twins_path, orders, grids=source.twins)
    assert account.exact == {"first/kernel": True, "second/kernel": True} and account.missing == ()


# --- children that die ------------------------------------------------------------------------------------------------

posix = pytest.mark.skipif(os.name != "posix", reason="signals")


def with_task(monkeypatch, name):
    """Children run this task in place of the writer; they look for it where their parent does."""
    monkeypatch.syspath_prepend(Path(__file__).parent)
    task = functools.partial(run_batch, f"writer_tasks:{name}")
    monkeypatch.setattr(quantized, "run_batch", lambda _, jobs, *, timeout_s: task(jobs, timeout_s=timeout_s))


@posix
def test_a_format_whose_child_dies_is_an_error_among_results(source, monkeypatch, tmp_path):
    with_task(monkeypatch, "killed_at_float16")
    first, second, third = source.write(tmp_path, "weight_only_int8", "float16", "dynamic_int8")
    assert isinstance(second, ConversionError) and "SIGSEGV" in second.problem
    assert all(first.exact.values()) and all(third.exact.values())
    assert {path.name for path in tmp_path.iterdir()} == {"weight_only_int8.tflite", "dynamic_int8.tflite"}


@posix
def test_a_child_killed_in_the_middle_leaves_nothing(source, monkeypatch, tmp_path):
    with_task(monkeypatch, "killed_before_the_last_step")
    (result,) = source.write(tmp_path, "dynamic_int8")
    assert isinstance(result, ConversionError) and "SIGKILL" in result.problem
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_was_there_is_replaced_whole(source, tmp_path):
    target = tmp_path / "float32.tflite"
    target.write_bytes(b"older")
    source.write(tmp_path, "float32")
    assert target.read_bytes() == source.path.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["float32.tflite"]
