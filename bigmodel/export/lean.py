"""Makes a .tflite file lean: the same graph and numbers, without what no runtime reads and with nothing stored twice.

Runtimes refuse scales without as many zero points, though all are zero. So they stay, but equal vectors stand in the
file once: a flatbuffer refers to them by place.
"""

from __future__ import annotations

import re
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

_IDENTIFIER = b"TFL3"
# Read by TensorFlow's telemetry alone. "min_runtime_version" and what others put in stay.
_UNREAD_METADATA = b"CONVERSION_METADATA"
# What the quantizer, this library and numbering append to the name of a tensor.
_APPENDED = re.compile(r"(_quantized|_dequant|_settled|_widened|:\d+)+$")


def lean(content: bytes | bytearray) -> bytes:
    """Returns a file that computes the same from fewer bytes. The given file is not changed.

    Inputs and outputs are called as the signature calls them, weights and computed tensors by their layer, with a
    number from the second on, and other constants by a number: no two tensors have the same name.

    Args:
        content: A .tflite file.
    """
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
    model.description = model.metadataBuffer = None
    model.metadata = [entry for entry in model.metadata or () if entry.name != _UNREAD_METADATA] or None
    for graph in model.subgraphs:
        graph.name = (graph.name or b"").rpartition(b"/")[2]
        for tensor in graph.tensors:
            tensor.quantization = _read_quantization(tensor.quantization)
    _drop_unused_tensors(model)
    _name_tensors(model)
    _number_codes(model)
    _number_buffers(model)
    builder = _SharingBuilder(1024)
    builder.Finish(model.Pack(builder), file_identifier=_IDENTIFIER)
    return bytes(builder.Output())


def _read_quantization(quantization: Any) -> Any:
    """The part of it that kernels read: the ranges that a calibration has seen are not."""
    if quantization is None:
        return None
    quantization.min = quantization.max = None
    has_scales = quantization.scale is not None and len(quantization.scale)
    return quantization if has_scales or quantization.details is not None else None


def _drop_unused_tensors(model: Any) -> None:
    """Leaves the tensors that an operation or the file's ends take: the quantizer forgets some."""
    for index, graph in enumerate(model.subgraphs):
        if any(tensor.quantization is not None and tensor.quantization.details for tensor in graph.tensors):
            continue  # scales for blocks of weights are tensors of their own
        places = [part for op in graph.operators for part in (op.inputs, op.outputs, op.intermediates)]
        places = [part for part in (*places, graph.inputs, graph.outputs) if part is not None]
        used = sorted({int(i) for part in places for i in part} - {-1})
        number = {-1: -1, **{old: new for new, old in enumerate(used)}}
        for holder in (graph, *graph.operators):
            for field in ("inputs", "outputs", "intermediates"):
                if getattr(holder, field, None) is not None:
                    setattr(holder, field, np.array([number[int(i)] for i in getattr(holder, field)], np.int32))
        for signature in model.signatureDefs or ():
            for entry in (*(signature.inputs or ()), *(signature.outputs or ())):
                if signature.subgraphIndex == index:
                    entry.tensorIndex = number[entry.tensorIndex]
        graph.tensors = [graph.tensors[i] for i in used]


def _name_tensors(model: Any) -> None:
    ends = _ends(model)
    taken = set(ends.values())
    for g, graph in enumerate(model.subgraphs):
        for i, tensor in enumerate(graph.tensors):
            if (g, i) in ends:
                tensor.name = ends[g, i]
                continue
            is_small = len(_data(model, tensor)) > 0 and (tensor.shape is None or len(tensor.shape) < 2)
            tensor.name = _free(str(i) if is_small else _layer(tensor.name) or str(i), taken)
            taken.add(tensor.name)


def _ends(model: Any) -> dict[tuple[int, int], bytes]:
    """Names of the tensors that go in and come out, by graph and tensor: those of the first signature, or their own."""
    main, names = model.subgraphs[0], {}
    for i in () if model.signatureDefs else (*main.inputs, *main.outputs):
        names[0, int(i)] = _bytes(main.tensors[i].name)
    for signature in model.signatureDefs or ():
        for entry in (*(signature.inputs or ()), *(signature.outputs or ())):
            names.setdefault((signature.subgraphIndex, entry.tensorIndex), _bytes(entry.name))
    return names


def _layer(name: Any) -> str:
    """The layer in a converter's name, such as "model/dense/MatMul;model/dense/Relu"."""
    path = _bytes(name).decode("utf-8", "replace").partition(";")[0].split("/")
    return _APPENDED.sub("", path[-2] if len(path) > 1 else path[0])


def _bytes(name: Any) -> bytes:
    return name.encode() if isinstance(name, str) else name or b""


def _free(name: str, taken: set[bytes]) -> bytes:
    number, unique = 0, name.encode()
    while unique in taken:
        number += 1
        unique = f"{name}:{number}".encode()
    return unique


def _number_codes(model: Any) -> None:
    """Leaves the operator codes that are used, each once, in the order of their use."""
    codes: dict[tuple[Any, ...], int] = {}
    kept: list[Any] = []
    for graph in model.subgraphs:
        for op in graph.operators:
            code = model.operatorCodes[op.opcodeIndex]
            key = (code.builtinCode, code.deprecatedBuiltinCode, code.version, code.customCode)
            if key not in codes:
                codes[key] = len(kept)
                kept.append(code)
            op.opcodeIndex = codes[key]
    model.operatorCodes = kept


def _number_buffers(model: Any) -> None:
    """Leaves the buffers that are used; equal constants of equal quantization share one.

    Not float ones: the quantizer gives each of those its own grid.
    """
    numbers: dict[Any, int] = {}
    kept = [schema.BufferT()]
    holders = [tensor for graph in model.subgraphs for tensor in graph.tensors]
    for holder in [*holders, *(model.metadata or ())]:
        data = _data(model, holder)
        key = _content(holder, data) if len(data) else None
        if key is None:
            holder.buffer = 0
            continue
        if key not in numbers:
            numbers[key] = len(kept)
            kept.append(model.buffers[holder.buffer])
        holder.buffer = numbers[key]
    model.buffers = kept


def _content(holder: Any, data: Any) -> Any:
    if getattr(holder, "type", None) in (None, schema.TensorType.FLOAT32):
        return holder.buffer
    quantization, raw = holder.quantization, np.asarray(data, np.uint8).tobytes()
    if quantization is None:
        return raw
    if quantization.details is not None:
        return holder.buffer
    scale, zero_point = np.asarray(quantization.scale, np.float32), np.asarray(quantization.zeroPoint, np.int64)
    return raw, scale.tobytes(), zero_point.tobytes(), quantization.quantizedDimension


def _data(model: Any, holder: Any) -> Any:
    data = model.buffers[holder.buffer].data
    return () if data is None else data


class _SharingBuilder(flatbuffers.Builder):
    """A builder that refers to an equal vector of numbers, or an equal string, instead of writing it again."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self._written: dict[Any, int] = {}
        self._begun: tuple[int, int, int] | None = None

    def StartVector(self, elemSize: int, numElems: int, alignment: int) -> int:
        before = self.Offset()
        start: int = super().StartVector(elemSize, numElems, alignment)
        # Buffers have been compared already.
        self._begun = (before, elemSize * numElems, alignment) if elemSize > 1 else None
        return start

    def PrependUOffsetTRelative(self, off: int) -> None:
        self._begun = None  # a vector of places: equal bytes mean something else elsewhere
        super().PrependUOffsetTRelative(off)

    def EndVector(self, numElems: int | None = None) -> int:
        begun, self._begun = self._begun, None
        offset: int = super().EndVector(numElems)
        if begun is None:
            return offset
        before, size, alignment = begun
        head = self.Head()
        found = self._written.setdefault((alignment, bytes(self.Bytes[head : head + 4 + size])), offset)
        if found != offset:
            self.head = len(self.Bytes) - before
        return found

    def CreateString(self, s: Any, encoding: str = "utf-8", errors: str = "strict") -> int:
        key = _bytes(s)
        if key not in self._written:
            self._written[key] = super().CreateString(s, encoding, errors)
        return self._written[key]
