"""What a .tflite file holds: bytes, parameters, zeros, operations, memory. Needs neither Keras nor TensorFlow."""

from __future__ import annotations

import dataclasses
import gzip
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ai_edge_litert.tools import flatbuffer_utils

from bigmodel.errors import ArgumentError, ConversionError
from bigmodel.evaluation.arena import Lifetime, plan_arena
from bigmodel.evaluation.constants import Constant, bits_of, read_constant, type_name
from bigmodel.evaluation.macs import count_macs

# Which inputs of an operation hold its weights. Elsewhere (ADD, MUL) a constant is a parameter, but no weight tensor.
_WEIGHT_INPUTS: dict[str, tuple[int, ...]] = {
    "FULLY_CONNECTED": (1,),
    "CONV_2D": (1,),
    "DEPTHWISE_CONV_2D": (1,),
    "CONV_3D": (1,),
    "TRANSPOSE_CONV": (1,),
    "CONV_3D_TRANSPOSE": (1,),
    "BATCH_MATMUL": (1, 0),
    "GATHER": (0,),
    "EMBEDDING_LOOKUP": (1,),
    "UNIDIRECTIONAL_SEQUENCE_LSTM": (1, 2, 3, 4, 5, 6, 7, 8, 16),
    "UNIDIRECTIONAL_SEQUENCE_RNN": (1, 2),
}


@dataclasses.dataclass(frozen=True)
class OpFacts:
    """One operation of a file.

    Args:
        index: Its place in its graph.
        name: The runtime's name, such as "FULLY_CONNECTED".
        weight_bits: Bits of one weight as stored (a weight behind a DEQUANTIZE counts as what is stored); `None` for an
            operation without a weight tensor.
        activation: Type of the first computed values it reads: "float", "int8", "int16", ...
        weight_tensor: Name of its weight tensor, the largest where there are several.
        sparsity: Share of exact zeros in its weight tensors, 0..1.
        distinct: Number of different codes in its largest weight tensor.
        parameters: Elements of the constants that only this operation, or this one first, reads.
        macs: Multiply-accumulates for one sample.
        graph: Index of its graph; 0 is the main one, others are bodies of loops and branches.
        output: Name of its first output tensor.
    """

    index: int
    name: str
    weight_bits: int | None
    activation: str
    weight_tensor: str | None
    sparsity: float | None
    distinct: int | None
    parameters: int
    macs: int
    graph: int = 0
    output: str = ""


@dataclasses.dataclass(frozen=True)
class FileFacts:
    """A file's figures.

    Args:
        size_bytes: Raw bytes.
        gzip_bytes: `len(gzip.compress(data, 9))`.
        parameters: Elements of all weights, biases and other real-valued constants of rank one and more, each buffer
            once.
        macs: Multiply-accumulates for one sample, free axes taken as the file has them (usually 1); the body of a loop
            counts once, whatever the number of its turns.
        sparsity: Share of exact zeros in all weight tensors, 0..1; `None` in a file without weights.
        arena_bytes: Bytes that the tensors between operations need at the same time, for one sample, planned as the
            runtime plans its arena. The scratch memory of single kernels comes on top, and text and list tensors have
            no size before they are run.
        ops: The operations, main graph first.
    """

    size_bytes: int
    gzip_bytes: int
    parameters: int
    macs: int
    sparsity: float | None
    arena_bytes: int
    ops: tuple[OpFacts, ...]


def inspect_file(path: str | os.PathLike[str]) -> FileFacts:
    """Returns a file's figures, all read from the file itself. The file is not changed and not run.

    Args:
        path: A .tflite file.

    Raises:
        ArgumentError: There is no such file.
        ConversionError: The file is not a .tflite file.
    """
    data = _read(Path(path))
    try:
        model = flatbuffer_utils.read_model_from_bytearray(bytearray(data))
    except (ValueError, TypeError, IndexError, AttributeError) as error:
        raise ConversionError(
            f"{Path(path).name} can't be read.", received=str(error), expected="a complete .tflite file"
        ) from error
    seen: set[int] = set()
    ops: list[OpFacts] = []
    weights: dict[int, Constant] = {}
    for graph in range(len(model.subgraphs)):
        for facts, constants in _walk(model, graph, seen):
            ops.append(facts)
            weights.update({constant.buffer: constant for constant in constants})
    return FileFacts(
        size_bytes=len(data),
        gzip_bytes=len(gzip.compress(data, 9, mtime=0)),
        parameters=sum(op.parameters for op in ops),
        macs=sum(op.macs for op in ops),
        sparsity=_zero_share(list(weights.values())),
        arena_bytes=sum(_arena_bytes(model, subgraph) for subgraph in model.subgraphs),
        ops=tuple(ops),
    )


def _read(path: Path) -> bytes:
    if not path.is_file():
        raise ArgumentError(
            "There is no such file.", received=str(path), expected="the path of a .tflite file", fix="Check the path."
        )
    data = path.read_bytes()
    if data[4:8] != b"TFL3":
        raise ConversionError(
            f"{path.name} is not a .tflite file.",
            received=f"{len(data)} bytes that start with {data[:8]!r}",
            expected="the identifier TFL3 at byte 4",
            fix="Check that the file is complete.",
        )
    return data


def _walk(model: Any, graph: int, seen: set[int]) -> Iterator[tuple[OpFacts, list[Constant]]]:
    """Yields every operation of a graph with its weight constants; `seen` collects the buffers already counted."""
    subgraph = model.subgraphs[graph]
    constants = _constants(model, subgraph)
    for index, op in enumerate(subgraph.operators or []):
        name = flatbuffer_utils.opcode_to_name(model, op.opcodeIndex) or "UNKNOWN"
        if name == "DEQUANTIZE" and _source(op) in constants:
            continue  # a stored weight on its way to its operation, which reports it
        inputs = [int(i) for i in op.inputs] if op.inputs is not None else []
        read = [constants[i] for i in inputs if i in constants]
        positions = _WEIGHT_INPUTS.get(name, ())
        weights = [constants[inputs[p]] for p in positions if p < len(inputs) and inputs[p] in constants]
        fresh = {c.buffer: c for c in read if c.buffer not in seen and _is_parameter(c)}
        seen.update(fresh)
        largest = max(weights, key=lambda c: c.size, default=None)
        outputs = [int(i) for i in op.outputs] if op.outputs is not None else []
        yield (
            OpFacts(
                index=index,
                name=name,
                weight_bits=largest.bits if largest else None,
                activation=_activation(subgraph, inputs, constants),
                weight_tensor=largest.name if largest else None,
                sparsity=_zero_share(weights),
                distinct=largest.distinct if largest else None,
                parameters=sum(c.size for c in fresh.values()),
                macs=count_macs(
                    name,
                    [_shape(subgraph.tensors[i]) if i >= 0 else None for i in inputs],
                    [_shape(subgraph.tensors[i]) for i in outputs],
                    op.builtinOptions,
                ),
                graph=graph,
                output=_name(subgraph.tensors[outputs[0]]) if outputs else "",
            ),
            weights,
        )


def _constants(model: Any, subgraph: Any) -> dict[int, Constant]:
    """Returns the constants of a graph by tensor, those behind a DEQUANTIZE under its output too."""
    found = {}
    for index, tensor in enumerate(subgraph.tensors or []):
        constant = read_constant(tensor, model.buffers[tensor.buffer])
        if constant is not None:
            found[index] = constant
    for op in subgraph.operators or []:
        if flatbuffer_utils.opcode_to_name(model, op.opcodeIndex) == "DEQUANTIZE" and _source(op) in found:
            found[int(op.outputs[0])] = found[_source(op)]
    return found


def _source(op: Any) -> int:
    return int(op.inputs[0])


def _is_parameter(constant: Constant) -> bool:
    # Axes, shapes and indices are plain integers; a scalar is a constant of the formula and not a learned value.
    return bool(constant.shape) and (constant.is_float or constant.quantized)


def _zero_share(weights: list[Constant]) -> float | None:
    total = sum(c.size for c in weights)
    return sum(c.zeros for c in weights) / total if total else None


def _activation(subgraph: Any, inputs: list[int], constants: Mapping[int, Constant]) -> str:
    types = [type_name(subgraph.tensors[i].type) for i in inputs if i >= 0 and i not in constants]
    values = [name for name in types if name not in ("int32", "int64")]  # these are shapes and indices
    name = (values or types or ["float"])[0]
    return "float" if "float" in name else name


def _arena_bytes(model: Any, subgraph: Any) -> int:
    constants = _constants(model, subgraph)
    ops = list(subgraph.operators or [])
    kept = {int(i) for i in [*(subgraph.inputs or []), *(subgraph.outputs or [])]}
    first: dict[int, int] = dict.fromkeys((int(i) for i in subgraph.inputs or []), -1)
    last: dict[int, int] = {}
    for step, op in enumerate(ops):
        for i in op.inputs if op.inputs is not None else []:
            last[int(i)] = step
        for i in op.outputs if op.outputs is not None else []:
            first.setdefault(int(i), step)
    lifetimes = []
    for index, begin in first.items():
        tensor = subgraph.tensors[index]
        bits = bits_of(tensor.type)
        if bits is None:
            continue
        size = math.ceil(math.prod(_shape(tensor)) * bits / 8)
        if index in constants or tensor.isVariable:  # a stored weight, unpacked once and kept; a state
            lifetimes.append(Lifetime(size, -1, len(ops)))
        else:
            lifetimes.append(Lifetime(size, begin, len(ops) if index in kept else last.get(index, begin)))
    return plan_arena(lifetimes)


def _shape(tensor: Any) -> tuple[int, ...]:
    return tuple(max(int(n), 1) for n in tensor.shape) if tensor.shape is not None else ()


def _name(tensor: Any) -> str:
    return tensor.name.decode("utf-8", "replace") if isinstance(tensor.name, bytes) else str(tensor.name or "")
