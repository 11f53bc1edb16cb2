"""The constants of a .tflite file: their codes, unpacked, and what can be counted in them."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

_PLAIN: dict[int, str] = {
    schema.TensorType.FLOAT32: "float32",
    schema.TensorType.FLOAT16: "float16",
    schema.TensorType.FLOAT64: "float64",
    schema.TensorType.INT8: "int8",
    schema.TensorType.UINT8: "uint8",
    schema.TensorType.INT16: "int16",
    schema.TensorType.UINT16: "uint16",
    schema.TensorType.INT32: "int32",
    schema.TensorType.UINT32: "uint32",
    schema.TensorType.INT64: "int64",
    schema.TensorType.UINT64: "uint64",
    schema.TensorType.BOOL: "bool",
    schema.TensorType.BFLOAT16: "uint16",  # NumPy has no bfloat16; its zero is the code 0, and -0 the code 0x8000
}
_PACKED_BITS: dict[int, int] = {
    schema.TensorType.INT4: 4,
    schema.TensorType.UINT4: 4,
    schema.TensorType.INT2: 2,
}
_TYPE_NAMES: dict[int, str] = {
    code: name.lower() for name, code in vars(schema.TensorType).items() if not name.startswith("_")
}


def type_name(code: int) -> str:
    """Returns the lower-case name of a tensor type, such as "int4"."""
    return _TYPE_NAMES.get(code, f"type {code}")


def bits_of(code: int) -> int | None:
    """Returns how many bits one element takes in the file; `None` for types without a fixed size."""
    if code in _PACKED_BITS:
        return _PACKED_BITS[code]
    return np.dtype(_PLAIN[code]).itemsize * 8 if code in _PLAIN else None


def unpack(data: np.ndarray, bits: int, count: int, *, signed: bool = True) -> np.ndarray:
    """Returns the codes of a packed buffer, lowest bits of each byte first (the runtime's order).

    Args:
        data: The buffer, uint8.
        bits: Bits per code, 2 or 4.
        count: Number of codes; the padding of the last byte is dropped.
        signed: Whether codes are two's complement.

    Returns:
        The codes, int8 (uint8 if not signed), of shape (count,).

    Example:
        >>> unpack(np.array([0x2F, 0x08], np.uint8), 4, 3).tolist()
        [-1, 2, -8]
    """
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    codes = ((data[:, None] >> shifts) & np.uint8(2**bits - 1)).reshape(-1)[:count]
    if not signed:
        return codes
    signed_codes = codes.astype(np.int8)
    return np.where(signed_codes >= 2 ** (bits - 1), signed_codes - np.int8(2 ** (bits - 1)) * 2, signed_codes).astype(
        np.int8
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Constant:
    """One constant tensor of a file.

    Args:
        name: The tensor's name.
        buffer: Index of its buffer; two tensors with the same buffer are stored once.
        shape: Its shape.
        bits: Bits of one element in the file.
        is_float: Whether elements are floating-point.
        quantized: Whether elements are codes of a scale.
        codes: The stored elements, flat; fewer than the shape says where the file stores them sparsely.
        zero_point: The code of 0.0: a number, or one per element.
    """

    name: str
    buffer: int
    shape: tuple[int, ...]
    bits: int
    is_float: bool
    quantized: bool
    codes: np.ndarray
    zero_point: Any = 0

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def zeros(self) -> int:
        """Number of elements that stand for exactly 0.0."""
        codes = self.codes
        if self.is_float and codes.dtype == np.uint16:
            codes = codes & 0x7FFF  # bfloat16: plus and minus zero
        return self.size - int(np.count_nonzero(codes != self.zero_point))

    @property
    def distinct(self) -> int:
        """Number of different codes (of different values for floats)."""
        missing = {0} if len(self.codes) < self.size else set()
        return len(set(np.unique(self.codes).tolist()) | missing)


def read_constant(tensor: Any, buffer: Any) -> Constant | None:
    """Returns the tensor's constant, or `None` for a tensor that is computed or holds text.

    Args:
        tensor: A `TensorT` of the flatbuffer.
        buffer: Its `BufferT`.
    """
    if buffer.data is None or len(buffer.data) == 0:
        return None
    shape = tuple(int(n) for n in tensor.shape) if tensor.shape is not None else ()
    raw = np.frombuffer(bytes(buffer.data), np.uint8)
    bits = bits_of(tensor.type)
    if bits is None:
        return None
    if tensor.type in _PACKED_BITS:
        codes = unpack(raw, bits, math.prod(shape), signed=tensor.type != schema.TensorType.UINT4)
    else:
        codes = raw.view(_PLAIN[tensor.type])
    quantization = tensor.quantization
    scales = quantization.scale if quantization is not None else None
    blockwise = quantization is not None and quantization.details is not None
    return Constant(
        name=_text(tensor.name),
        buffer=tensor.buffer,
        shape=shape,
        bits=bits,
        is_float="float" in type_name(tensor.type),
        quantized=blockwise or (scales is not None and len(scales) > 0),
        codes=codes,
        zero_point=_zero_point(quantization, shape, codes.size),
    )


def _zero_point(quantization: Any, shape: tuple[int, ...], count: int) -> Any:
    points = None if quantization is None else quantization.zeroPoint
    if points is None or len(points) == 0 or not np.any(points):
        return 0
    if len(points) == 1:
        return int(points[0])
    axis = quantization.quantizedDimension
    spread = [1] * len(shape)
    spread[axis] = len(points)
    full = np.broadcast_to(np.asarray(points).reshape(spread), shape).reshape(-1)
    return full if full.size == count else 0


def _text(name: Any) -> str:
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name or "")
