"""Every file that is written is lean: it computes, bit for bit, what it would without, in every runtime."""

import itertools
import math

import keras
import numpy as np
import pytest
import small_networks
from ai_edge_litert.interpreter import Interpreter
from keras import layers as L

from bigmodel.config import QuantizeConfig
from bigmodel.errors import ConversionError
from bigmodel.evaluation import inspect_file
from bigmodel.export import conversion, writer
from bigmodel.export.formats import FORMATS
from bigmodel.export.lean import lean
from bigmodel.litert import LiteModel
from bigmodel.quantization.files import deploy
from bigmodel.quantization.simulation import quantized_layers, simulate

NAMES = ("mlp", "cnn", "depthwise_separable", "embedding", "lstm", "two_inputs_two_outputs", "transposed", "volumes")
# Files of 4 bits differ in the types of their buffers: those of two networks are as good as all.
SLOW = {(name, 4) for name in NAMES} - {("mlp", 4), ("depthwise_separable", 4)}
CASES = [*itertools.product(NAMES, (8, 4)), ("mlp", 2)]
SIZES, LAYERS = (784, 256, 128, 64, 10), ("first", "second", "third", "last")

pytestmark = pytest.mark.usefixtures("in_process")


def multilayer():
    layers = [L.Dense(n, activation="relu", name=name) for n, name in zip(SIZES[1:], LAYERS, strict=True)]
    model = keras.Sequential([keras.Input((SIZES[0],)), *layers])
    for layer in model.layers:  # biases of zeros are left out of a file
        layer.bias.assign(np.linspace(0.1, 1.0, layer.units))
    return model


def written(model, bits, folder):
    """Every format's file of so many bits, and by name the content that it would have had."""
    simulation, _ = simulate(model, QuantizeConfig(bits=bits, activations="dynamic"))
    for layer in quantized_layers(simulation):
        layer.fix_scales()
    formats = [f for f in FORMATS.values() if f.bits == bits or (bits == 8 and f.bits >= 16)]
    orders = [(format_, folder / f"{format_.name}.tflite") for format_ in formats]
    made = {}

    def recorded(content):
        made[lean(content)] = bytes(content)
        return lean(content)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conversion, "lean", recorded)
        patch.setattr(writer, "lean", recorded)
        files = deploy(simulation, orders, small_networks.samples(model, 64))
    paths = [file.written.path for file in files if not isinstance(file, ConversionError)]
    return paths, {path.stem: made[path.read_bytes()] for path in paths}


def answers(content, inputs):
    """What each runtime, with and without its delegate, gives: outputs by name, or why there are none."""
    import ai_edge_litert.interpreter as litert
    import tensorflow as tf

    resolvers = (litert.OpResolverType, tf.lite.experimental.OpResolverType)
    for interpreter, types in zip((litert.Interpreter, tf.lite.Interpreter), resolvers, strict=True):
        for resolver in (types.AUTO, types.BUILTIN_WITHOUT_DEFAULT_DELEGATES):
            try:
                runner = interpreter(
                    model_content=content, experimental_op_resolver_type=resolver
                ).get_signature_runner()
                yield {name: values.tobytes() for name, values in runner(**inputs).items()}
            except (RuntimeError, ValueError) as error:  # TensorFlow's runtime is older than some kernels
                yield str(error)


def inputs_of(path):
    """Random values for a file's inputs, one sample for those that take no more."""
    rng = np.random.default_rng(3)
    shapes = {info.name: [n or 4 for n in info.shape] for info in LiteModel(path).inputs}
    types = {info.name: info.dtype for info in LiteModel(path).inputs}
    return {name: rng.uniform(0, 9, shape).astype(types[name]) for name, shape in shapes.items()}


@pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated")
@pytest.mark.parametrize(
    ("name", "bits"), [pytest.param(*case, marks=pytest.mark.slow if case in SLOW else []) for case in CASES]
)
def test_every_format_computes_the_same_in_every_runtime(name, bits, tmp_path):
    paths, before = written(small_networks.make(name), bits, tmp_path)
    for path in paths:
        content, inputs = path.read_bytes(), inputs_of(path)
        old, new = list(answers(before[path.stem], inputs)), list(answers(content, inputs))
        assert old == new and isinstance(new[0], dict) and isinstance(new[1], dict), path.stem
        assert len(content) < len(before[path.stem]) and lean(content) == content


@pytest.fixture(scope="module")
def seed_files(tmp_path_factory, in_process):
    """By bits: the files of a multilayer perceptron, and what they would have been."""
    return {bits: written(multilayer(), bits, tmp_path_factory.mktemp(f"bits{bits}")) for bits in (8, 4)}


@pytest.mark.parametrize("bits", [8, 4])
def test_a_file_is_hardly_larger_than_the_numbers_in_it(seed_files, bits):
    paths, _ = seed_files[bits]
    codes = sum(math.ceil(a * b * bits / 8) for a, b in itertools.pairwise(SIZES))
    channels = sum(SIZES[1:])
    biases, scales, zero_points = 4 * channels, 4 * channels, 8 * channels
    numbers = dict.fromkeys(("weight_only", "dynamic"), codes + biases + scales + zero_points)
    numbers["static"] = numbers["dynamic"] + scales  # those of the biases; their zero points are the weights'
    for path in paths:
        kind = path.stem.rpartition("_int")[0]
        if kind in numbers and path.stem.endswith(f"int{bits}"):
            assert numbers[kind] < path.stat().st_size < numbers[kind] + 2200, path.stem


def test_a_file_names_its_layers_and_tells_what_it_holds(seed_files):
    paths, before = seed_files[8]
    for path in paths:
        if FORMATS[path.stem].quantized:
            facts = inspect_file(path)
            weights = [op.weight_tensor for op in facts.ops if op.weight_tensor]
            assert all(own.startswith(layer) for own, layer in zip(weights, LAYERS, strict=True)), weights
            assert facts.parameters == sum((a + 1) * b for a, b in itertools.pairwise(SIZES))
            plain = path.with_name("plain.tflite")
            plain.write_bytes(before[path.stem])
            for field in ("parameters", "macs", "sparsity", "arena_bytes"):
                assert getattr(facts, field) == getattr(inspect_file(plain), field)


def test_inputs_and_outputs_have_the_names_of_the_model(tmp_path):
    model = small_networks.make("two_inputs_two_outputs")
    paths, _ = written(model, 8, tmp_path)
    for path in paths:
        lite = LiteModel(path)
        assert [info.name for info in lite.inputs] == ["a", "b"]
        assert sorted(info.name for info in lite.outputs) == ["kind", "size"]
        interpreter = Interpreter(str(path))
        assert {detail["name"] for detail in interpreter.get_input_details()} == {"a", "b"}
        assert {detail["name"] for detail in interpreter.get_output_details()} == {"kind", "size"}
