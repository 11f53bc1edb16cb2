"""The formats of a .tflite file, and what a model hands to the file: the grids of its weights and its ranges."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

import numpy as np

from bigmodel.errors import ArgumentError

Activations = Literal["float", "dynamic", "static"]


@dataclasses.dataclass(frozen=True)
class Format:
    """How a file stores weights and computes.

    Args:
        name: Its name in reports.
        bits: Bits of the weights: 32, 16, 8 or 4.
        activations: "float": computed in float. "dynamic": inputs quantized by the kernels at run time.
            "static": 8-bit ranges fixed in the file.
    """

    name: str
    bits: int
    activations: Activations = "float"

    @property
    def quantized(self) -> bool:
        """Whether weights are stored as integers."""
        return self.bits <= 8


FORMATS = {
    format_.name: format_
    for format_ in (
        Format("float32", 32),
        Format("float16", 16),
        Format("weight_only_int8", 8),
        Format("dynamic_int8", 8, "dynamic"),
        Format("static_int8", 8, "static"),
        Format("weight_only_int4", 4),
        Format("dynamic_int4", 4, "dynamic"),
    )
}


def format_named(name: str) -> Format:
    """Returns the format of a name.

    Raises:
        ArgumentError: There is none.
    """
    if name not in FORMATS:
        raise ArgumentError(
            "There is no such file format.",
            received=repr(name),
            expected="one of " + ", ".join(FORMATS),
            fix="Pass one of the names above.",
        )
    return FORMATS[name]


def format_of(bits: int, activations: Activations) -> Format:
    """Returns the format with these bits and activations.

    Raises:
        ArgumentError: The runtime has no such format.
    """
    for format_ in FORMATS.values():
        if (format_.bits, format_.activations) == (bits, activations):
            return format_
    raise ArgumentError(
        "There is no file format with these bits and activations.",
        received=f"bits={bits}, activations={activations!r}",
        expected="one of " + ", ".join(f"{f.bits} bits with {f.activations} activations" for f in FORMATS.values()),
        fix="Use 8 bits with static activations, or dynamic activations with 4 bits.",
    )


@dataclasses.dataclass(frozen=True)
class Grid:
    """The trained grid of one weight.

    Args:
        layer: The layer's name.
        path: The weight's path inside the layer.
        bits: Bits of a code.
        codes: Codes of shape (channels, values per channel), int8, in the order of the file's buffer.
        scale: One scale per channel, float32.
    """

    layer: str
    path: str
    bits: int
    codes: np.ndarray
    scale: np.ndarray

    @property
    def name(self) -> str:
        """The weight's name in a file's account."""
        return f"{self.layer}/{self.path}"


@dataclasses.dataclass(frozen=True)
class Range:
    """The range of one activation, and its values on the first calibration samples, which identify the file's tensor.

    Args:
        name: Its name in a file's account.
        low: The least value.
        high: The largest value.
        values: Float values of shape (samples, ...).
    """

    name: str
    low: float
    high: float
    values: np.ndarray


@dataclasses.dataclass(frozen=True)
class Written:
    """A file that was written, and what it holds.

    Args:
        format: The format's name.
        path: Where it is.
        exact: For each trained grid found in the file, whether its buffer holds exactly the trained codes.
        missing: Names of grids not found in the file: those weights stayed float.
        ranges: Scale and zero point that the file gives to each range found in it.
    """

    format: str
    path: Path
    exact: dict[str, bool]
    missing: tuple[str, ...]
    ranges: dict[str, tuple[float, int]]
