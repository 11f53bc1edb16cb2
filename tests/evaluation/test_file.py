"""Every figure of a file against one computed by hand or by the interpreter."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bigmodel.errors import ArgumentError, ConversionError
from bigmodel.evaluation.constants import unpack
from bigmodel.evaluation.file import inspect_file
from bigmodel.evaluation.macs import count_macs

CONV, DEPTHWISE, DENSE = 9 * 8, 9 * 8, 128 * 5
BIASES = 8 + 8 + 5


@pytest.mark.parametrize("name", ["float", "dynamic8", "dynamic4", "weights8", "int8"])
def test_parameters_macs_and_bytes_are_those_of_the_network(files: dict[str, Path], name: str) -> None:
    facts = inspect_file(files[name])
    data = files[name].read_bytes()
    assert facts.parameters == CONV + DEPTHWISE + DENSE + BIASES
    assert facts.macs == 64 * CONV + 64 * DEPTHWISE + DENSE
    assert facts.size_bytes == len(data)
    assert facts.gzip_bytes == len(gzip.compress(data, 9))


@pytest.mark.parametrize(
    ("name", "bits", "activation"),
    [
        ("float", [32, 32, 32], "float"),
        ("dynamic8", [8, 8, 8], "float"),
        ("weights8", [8, 8, 8], "float"),
        ("dynamic4", [4, 32, 4], "float"),  # the runtime has no 4-bit depthwise convolution
        ("int8", [8, 8, 8], "int8"),
    ],
)
def test_operations_say_their_bits(files: dict[str, Path], name: str, bits: list[int], activation: str) -> None:
    ops = [op for op in inspect_file(files[name]).ops if op.weight_bits]
    assert [op.name for op in ops] == ["CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"]
    assert [op.weight_bits for op in ops] == bits
    assert {op.activation for op in ops} == {activation}


@pytest.mark.parametrize("name", ["dynamic8", "dynamic4"])
def test_zeros_and_distinct_codes_are_those_of_the_quantizer(files: dict[str, Path], network: Any, name: str) -> None:
    kernel = network.get_layer("label").kernel.numpy().T  # the file holds (units, inputs)
    top = 7 if name == "dynamic4" else 127
    scale = np.abs(kernel).max(axis=1, keepdims=True) / top
    codes = np.rint(kernel / scale)
    op = next(op for op in inspect_file(files[name]).ops if op.name == "FULLY_CONNECTED")
    assert op.sparsity == pytest.approx(np.mean(codes == 0), abs=2 / kernel.size)
    assert op.distinct == pytest.approx(len(np.unique(codes)), abs=1)


def test_pruned_weights_are_found_as_zeros(network: Any, tmp_path: Path) -> None:
    import keras
    from ai_edge_quantizer import quantizer, recipe

    model = keras.Sequential([keras.Input((16,)), keras.layers.Dense(10, use_bias=False)])
    kernel = model.layers[0].kernel.numpy()
    kernel[:, :] = np.where(np.arange(160).reshape(16, 10) % 5 == 0, 1 + np.abs(kernel), 0)  # 80 % zeros
    model.layers[0].kernel.assign(kernel)
    path = tmp_path / "pruned.tflite"
    model.export(path, format="litert", verbose=False)
    assert inspect_file(path).sparsity == pytest.approx(0.8)
    for steps in (recipe.dynamic_wi8_afp32(), recipe.dynamic_wi4_afp32()):
        quantizer.Quantizer(str(path), steps).quantize().export_model(str(path) + "q", overwrite=True)
        assert inspect_file(str(path) + "q").sparsity == pytest.approx(0.8)


def test_packed_codes_come_out_in_order() -> None:
    codes = np.array([-8, 7, 0, -1, 3], np.int8)
    packed = np.array([(7 << 4) | 8, (15 << 4) | 0, 3], np.uint8)
    assert unpack(packed, 4, 5).tolist() == codes.tolist()
    assert unpack(np.array([0b11_10_01_00], np.uint8), 2, 4).tolist() == [0, 1, -2, -1]
    assert unpack(np.array([0xF0], np.uint8), 4, 2, signed=False).tolist() == [0, 15]


@pytest.mark.parametrize(
    ("name", "inputs", "outputs", "macs"),
    [
        ("FULLY_CONNECTED", [(1, 20), (7, 20), (7,)], [(1, 7)], 140),
        ("CONV_2D", [(1, 8, 8, 4), (6, 3, 3, 4), (6,)], [(1, 8, 8, 6)], 64 * 6 * 36),
        ("CONV_2D", [(1, 8, 8, 4), (6, 3, 3, 2), (6,)], [(1, 8, 8, 6)], 64 * 6 * 18),  # two groups
        ("DEPTHWISE_CONV_2D", [(1, 8, 8, 4), (1, 3, 3, 4), (4,)], [(1, 8, 8, 4)], 64 * 4 * 9),
        ("TRANSPOSE_CONV", [(4,), (6, 3, 3, 4), (1, 8, 8, 4)], [(1, 16, 16, 6)], 64 * 4 * 9 * 6),
        ("CONV_3D", [(1, 4, 4, 4, 2), (3, 3, 3, 2, 5)], [(1, 4, 4, 4, 5)], 64 * 5 * 27 * 2),
        ("BATCH_MATMUL", [(2, 3, 4), (2, 4, 5)], [(2, 3, 5)], 2 * 3 * 4 * 5),
        ("ADD", [(1, 8), (1, 8)], [(1, 8)], 0),
    ],
)
def test_macs(name: str, inputs: list, outputs: list, macs: int) -> None:
    class Options:
        adjX = False

    assert count_macs(name, inputs, outputs, Options) == macs


def test_the_body_of_a_loop_counts_once(tmp_path: Path) -> None:
    import tensorflow as tf

    weights = tf.constant(np.random.default_rng(0).normal(size=(6, 6)).astype(np.float32))

    @tf.function(input_signature=[tf.TensorSpec((1, 6))])
    def loop(x: Any) -> Any:
        return tf.while_loop(lambda i, _: i < 5, lambda i, h: (i + 1, tf.tanh(h @ weights)), (0, x))[1]

    path = tmp_path / "loop.tflite"
    path.write_bytes(tf.lite.TFLiteConverter.from_concrete_functions([loop.get_concrete_function()]).convert())
    facts = inspect_file(path)
    assert facts.macs == 36 and facts.parameters == 36
    assert [op.graph > 0 for op in facts.ops if op.macs] == [True]


def test_arena_of_a_chain_is_its_widest_neighbours(tmp_path: Path) -> None:
    import keras

    units = (64, 128, 256, 16)
    model = keras.Sequential([keras.Input((units[0],)), *(keras.layers.Dense(n, use_bias=False) for n in units[1:])])
    path = tmp_path / "chain.tflite"
    model.export(path, format="litert", verbose=False)
    # The input is kept throughout; the widest pair of neighbours (128 and 256) lives at the same time.
    assert inspect_file(path).arena_bytes == 4 * (64 + 128 + 256)


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="no such file"):
        inspect_file(tmp_path / "none.tflite")
    (tmp_path / "text.tflite").write_text("not a model")
    with pytest.raises(ConversionError, match="TFL3"):
        inspect_file(tmp_path / "text.tflite")
