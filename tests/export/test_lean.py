"""Lean files: the same graph and numbers from fewer bytes. The files here are put together by hand."""

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from ai_edge_litert.tools import flatbuffer_utils

from bigmodel.export.lean import lean

RNG = np.random.default_rng(0)
CODES = RNG.integers(-127, 128, (3, 8)).astype(np.int8)
SCALES = {"a": [0.5, 0.25, 0.125], "b": [1.0, 2.0, 0.0625], "c": [0.5, 0.25, 0.125]}
METADATA = {"CONVERSION_METADATA": b"read by nobody", "min_runtime_version": b"2.21.0", "author": b"somebody"}


class File:
    """A model of three dense layers on one input, with integer weights of equal codes and, twice, of equal scales."""

    def __init__(self, *, signature=True):
        self.model = schema.ModelT()
        self.model.version, self.model.description = 3, "made by a converter"
        self.model.buffers, self.model.metadata = [schema.BufferT()], []
        self.model.operatorCodes = [self.code(schema.BuiltinOperator.CONV_2D)]
        self.graph = schema.SubGraphT()
        self.graph.name, self.graph.tensors, self.graph.operators = "model/main", [], []
        self.model.subgraphs, self.model.signatureDefs = [self.graph], []
        self.tensor("never read", [5], schema.TensorType.FLOAT32, np.ones(5, np.float32))
        source = self.tensor("serving_default_x:0", [1, 8], schema.TensorType.FLOAT32)
        self.graph.inputs, self.graph.outputs = [source], []
        for layer, scale in SCALES.items():
            self.dense(f"model_1/{layer}", source, scale)
        for name, data in METADATA.items():
            entry = schema.MetadataT()
            entry.name, entry.buffer = name, self.buffer(np.frombuffer(data, np.uint8))
            self.model.metadata.append(entry)
        if signature:
            self.sign()

    def code(self, builtin):
        code = schema.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = builtin
        code.version = 5
        return code

    def buffer(self, data):
        buffer = schema.BufferT()
        buffer.data = None if data is None else np.ascontiguousarray(data).view(np.uint8).ravel()
        self.model.buffers.append(buffer)
        return len(self.model.buffers) - 1

    def tensor(self, name, shape, kind, data=None, scale=()):
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type, tensor.buffer = name, shape, kind, self.buffer(data)
        tensor.quantization = schema.QuantizationParametersT()
        if len(scale):
            tensor.quantization.scale, tensor.quantization.zeroPoint = list(scale), [0] * len(scale)
            tensor.quantization.min, tensor.quantization.max = [-1.0], [1.0]
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def dense(self, name, source, scale):
        """A layer with a code of its own, as if some other tool had added it."""
        self.model.operatorCodes.append(self.code(schema.BuiltinOperator.FULLY_CONNECTED))
        op = schema.OperatorT()
        op.opcodeIndex = len(self.model.operatorCodes) - 1
        op.builtinOptionsType = schema.BuiltinOptions.FullyConnectedOptions
        op.builtinOptions = schema.FullyConnectedOptionsT()
        weight = self.tensor(f"{name}/MatMul;{name}/BiasAdd", [3, 8], schema.TensorType.INT8, CODES, scale)
        bias = self.tensor(f"{name}/BiasAdd", [3], schema.TensorType.FLOAT32, np.float32([1, 2, 3]))
        result = self.tensor(f"{name}/MatMul1", [1, 3], schema.TensorType.FLOAT32)
        op.inputs, op.outputs = [source, weight, bias], [result]
        self.graph.operators.append(op)
        self.graph.outputs.append(result)

    def sign(self):
        signature = schema.SignatureDefT()
        signature.signatureKey, signature.subgraphIndex = "serving_default", 0

        def entries(tensors, names):
            pairs = zip(tensors, names, strict=True)
            for tensor, name in pairs:
                entry = schema.TensorMapT()
                entry.name, entry.tensorIndex = name, tensor
                yield entry

        signature.inputs = list(entries(self.graph.inputs, ["x"]))
        signature.outputs = list(entries(self.graph.outputs, ["first", "second", "third"]))
        self.model.signatureDefs.append(signature)

    def content(self):
        return bytes(flatbuffer_utils.convert_object_to_bytearray(self.model))


def read(content):
    return flatbuffer_utils.read_model_from_bytearray(bytearray(content))


def run(content, x):
    interpreter = Interpreter(model_content=content)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
    interpreter.invoke()
    return [interpreter.get_tensor(detail["index"]) for detail in interpreter.get_output_details()]


@pytest.fixture(scope="module")
def before():
    return File().content()


@pytest.fixture(scope="module")
def after(before):
    return lean(before)


def test_it_computes_the_same_from_fewer_bytes(before, after):
    x = RNG.normal(size=(1, 8)).astype(np.float32)
    for old, new in zip(run(before, x), run(after, x), strict=True):
        np.testing.assert_array_equal(old, new)
    assert len(after) < len(before) - 500


def test_a_lean_file_is_as_lean_as_it_gets_whoever_makes_it(before, after):
    assert lean(after) == after == lean(bytearray(before)) == lean(File().content())


def test_ends_are_called_as_in_the_signature_and_the_rest_by_layers_and_numbers(after):
    graph = read(after).subgraphs[0]
    names = [tensor.name.decode() for tensor in graph.tensors]
    assert names == ["x", "a", "2", "first", "b", "5", "second", "c", "8", "third"]
    runner = Interpreter(model_content=after).get_signature_runner("serving_default")
    assert list(runner.get_input_details()) == ["x"]
    assert sorted(runner.get_output_details()) == ["first", "second", "third"]


def test_without_a_signature_ends_keep_their_names():
    graph = read(lean(File(signature=False).content())).subgraphs[0]
    assert [graph.tensors[i].name for i in graph.inputs] == [b"serving_default_x:0"]
    assert [graph.tensors[i].name for i in graph.outputs] == [f"model_1/{name}/MatMul1".encode() for name in SCALES]


def test_tensors_of_one_layer_are_numbered():
    file = File()
    for name in ("model_1/a/Relu_quantized", "model_1/a/Relu_dequant", ""):
        file.tensor(name, [1, 3], schema.TensorType.FLOAT32)
    extra = [len(file.graph.tensors) - 3 + i for i in range(3)]
    file.graph.operators[0].outputs = [*file.graph.operators[0].outputs, *extra]  # not run, only read
    names = [tensor.name for tensor in read(lean(file.content())).subgraphs[0].tensors]
    assert names[-3:] == [b"a:1", b"a:2", b"12"] and len(set(names)) == len(names)


def test_only_metadata_that_nobody_reads_goes(after):
    model = read(after)
    kept = {entry.name.decode(): bytes(model.buffers[entry.buffer].data) for entry in model.metadata}
    assert kept == {name: data for name, data in METADATA.items() if name != "CONVERSION_METADATA"}
    assert model.description is None


def test_what_no_operation_takes_goes(after):
    model = read(after)
    assert len(model.operatorCodes) == 1 and b"never read" not in after
    used = [tensor.buffer for tensor in model.subgraphs[0].tensors] + [entry.buffer for entry in model.metadata]
    assert set(used) == set(range(len(model.buffers)))
    assert all(buffer.data is not None for buffer in model.buffers[1:])
    assert not any(tensor.quantization is not None and tensor.buffer == 0 for tensor in model.subgraphs[0].tensors)


def test_weights_are_shared_where_codes_and_scales_are_equal(after):
    weights = [tensor for tensor in read(after).subgraphs[0].tensors if tensor.type == schema.TensorType.INT8]
    a, b, c = (tensor.buffer for tensor in weights)
    assert a == c != b
    for tensor, scale in zip(weights, SCALES.values(), strict=True):
        assert tensor.quantization.scale.tolist() == scale and tensor.quantization.zeroPoint.tolist() == [0, 0, 0]
        assert tensor.quantization.min is None and tensor.quantization.max is None
    assert after.count(CODES.tobytes()) == 2


def test_float_constants_keep_buffers_of_their_own(after):
    biases = [tensor.buffer for tensor in read(after).subgraphs[0].tensors if list(tensor.shape) == [3]]
    assert len(biases) == len(set(biases)) == 3


def test_equal_vectors_and_strings_stand_in_the_file_once(before, after):
    shared = np.float32(SCALES["a"]).tobytes()
    assert before.count(shared) == 2 and after.count(shared) == 1
    zeros = np.uint32(3).tobytes() + bytes(3 * 8)  # a flatbuffer's vector: its length, then three 64-bit zero points
    assert before.count(zeros) == 3 and after.count(zeros) == 1
    assert after.count(b"first\0") == 1  # in the signature and at the tensor


def test_scales_of_blocks_stay_where_they_are():
    file = File()
    details = schema.BlockwiseQuantizationT()
    details.scales = 0  # the tensor that no operation takes
    quantization = file.graph.tensors[2].quantization
    quantization.scale = quantization.zeroPoint = None
    quantization.detailsType, quantization.details = schema.QuantizationDetails.BlockwiseQuantization, details
    graph = read(lean(file.content())).subgraphs[0]
    assert len(graph.tensors) == len(file.graph.tensors) and list(graph.tensors[0].shape) == [5]
    assert graph.tensors[2].quantization.details.scales == 0
