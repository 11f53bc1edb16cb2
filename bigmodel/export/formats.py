"""The formats of a .tflite file, and what a model hands to the file: the grids of its weights and its ranges."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

import numpy as np

from bigmodel.errors import ArgumentError, describe

Activations = Literal["float", "dynamic", "static"]


@dataclasses.dataclass(frozen=True)
class Format:
    """How a file stores weights and computes.

    Args:
        name: Its name in reports.
        bits: Bits of the weights: 32, 16, 8, 4 or 2; of mixed ones the most.
        activations: "float": computed in float. "dynamic": inputs quantized by the kernels at run time.
            "static": ranges fixed in the file.
        mixed: Whether weights of the same kind of layer have different bits.
        activation_bits: Of static activations: 8, or 16 around a zero point of 0.
    """

    name: str
    bits: int
    activations: Activations = "float"
    mixed: bool = False
    activation_bits: int = 8

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
        Format("static_int8_a16", 8, "static", activation_bits=16),
        Format("weight_only_int4", 4),
        Format("dynamic_int4", 4, "dynamic"),
        Format("static_int4", 4, "static"),
        Format("dynamic_int2", 2, "dynamic"),
        Format("weight_only_mixed", 8, mixed=True),
        Format("dynamic_mixed", 8, "dynamic", mixed=True),
        Format("static_mixed", 8, "static", mixed=True),
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


def format_of(bits: int | Literal["mixed"], activations: Activations, activation_bits: int = 8) -> Format:
    """Returns the format with these bits and activations.

    Binary weights are stored in two bits, and both they and ternary ones in four where the kernels are not dynamic: in
    the format that takes any bits.

    Raises:
        ArgumentError: The runtime has no such format.
    """
    stored: int | str = bits
    if bits in (1, 2):
        stored = 2 if activations == "dynamic" else "mixed"
    wanted = stored, activations, activation_bits
    for format_ in FORMATS.values():
        if wanted == ("mixed" if format_.mixed else format_.bits, format_.activations, format_.activation_bits):
            return format_
    raise ArgumentError(
        "There is no file format with these bits and activations.",
        received=f"bits={bits}, activations={activations!r}, activation_bits={activation_bits}",
        expected="one of " + ", ".join(FORMATS),
        fix="Use 8 bits with static activations, or dynamic activations with fewer bits.",
    )


def check_io(io: str, format_: Format) -> None:
    """Checks that files of a format can take their inputs and give their outputs so.

    Args:
        io: "float" or "int8".
        format_: The format.

    Raises:
        ArgumentError: They can't.
    """
    if io not in ("float", "int8") or (
        io == "int8" and (format_.activations, format_.activation_bits) != ("static", 8)
    ):
        raise ArgumentError(
            "io can't be used.",
            received=f"io={describe(io)} with format {format_.name!r}",
            expected="'float', or 'int8' with format 'static_int8'",
            fix="Pass format='static_int8' with io='int8', or leave io out.",
        )


@dataclasses.dataclass(frozen=True)
class Grid:
    """The trained grid of one weight.

    Args:
        layer: The layer's name.
        path: The weight's path inside the layer.
        bits: Bits of a code.
        codes: Codes of shape (channels, values per channel), int8, in the order of the file's buffer.
        scale: One scale per channel, or one for all, float32.
        weights_only: Whether the kernel computes in float where a file finds ranges at run time.
    """

    layer: str
    path: str
    bits: int
    codes: np.ndarray
    scale: np.ndarray
    weights_only: bool = False

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
class Rounding:
    """How a kernel comes from its sums to codes, where that is not one exact rounding.

    Args:
        shifts: For each channel, by how many bits a kernel that rounds twice shifts in between.
        factors: For each channel, by what factor the kernel's multiplier is off.
        away: For each channel, whether a kernel that rounds twice takes halves away from 0, and not upwards.
    """

    shifts: tuple[int, ...] = ()
    factors: tuple[float, ...] = ()
    away: tuple[bool, ...] = ()


@dataclasses.dataclass(frozen=True)
class Scaling:
    """What a kernel does to the sums of its codes: it multiplies each channel's by a factor and adds a bias.

    Args:
        factors: For each channel the scale of its weights; negative where the file holds the codes with the other sign.
        biases: For each channel the bias; empty: the op has none.
        steps: Of a static kernel that rounds once and exactly, the steps of its input and its output; else empty.
    """

    factors: tuple[float, ...]
    biases: tuple[float, ...] = ()
    steps: tuple[float, ...] = ()


@dataclasses.dataclass(frozen=True)
class Written:
    """A file that was written, and what it holds.

    Args:
        format: The format's name.
        path: Where it is.
        exact: For each trained grid found in the file, whether its buffer holds exactly the trained codes.
        missing: Names of grids not found in the file: those weights stayed float.
        ranges: Scale and zero point that the file gives to each range found in it.
        dynamic: Of a static file, the names of the grids whose ops find the range of their input at run time.
        float_ops: Of a static file, how many ops of each kind compute in float. An integer-only file has none.
        biases: Of a static file, by grid, what rounding to integers added to each bias, in steps of the weight.
        rounding: Of a static file, by range, how a kernel rounds that does so otherwise than once and exactly.
        scalings: By grid the numbers of its integer kernel, of grids that stand whole in one op.
    """

    format: str
    path: Path
    exact: dict[str, bool]
    missing: tuple[str, ...]
    ranges: dict[str, tuple[float, int]]
    dynamic: tuple[str, ...] = ()
    float_ops: dict[str, int] = dataclasses.field(default_factory=dict)
    biases: dict[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)
    rounding: dict[str, Rounding] = dataclasses.field(default_factory=dict)
    scalings: dict[str, Scaling] = dataclasses.field(default_factory=dict)
