"""What the compressed file has to keep and to reach."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any, Literal

from bigmodel.config.base import Config
from bigmodel.errors import ArgumentError, describe

Optimize = Literal["balanced", "size", "latency"]

_SIZE = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*([kKmMgG]?)[bB]\s*$")
_SIZE_UNITS = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3}


@dataclasses.dataclass(frozen=True)
class Target(Config):
    """What the compressed file has to keep and to reach.

    Args:
        max_drop: How far the metric may fall below the float file's. In the metric's own units for bounded
            higher-is-better metrics (0.01 is one point of accuracy); for a loss or an error, where lower is better,
            the allowed relative rise.
        size: Most raw bytes of the file, as a number or text like "200KB" (KB is 1000 bytes); `None`: no bound.
        latency_ms: Most median milliseconds of one warm call of batch size 1; `None`: no bound.
        optimize: What ranks the files within the bounds. "balanced": those at most 1.1x the float file's latency
            come first, then the smallest raw file. "size" and "latency" rank by that alone.
        threads: CPU threads of the runtime that the files are measured on.
        delegate: Who runs their kernels there: "xnnpack", or `None` for the runtime's own.

    Raises:
        ArgumentError: A value is out of range.

    Example:
        >>> Target(size="200KB").size
        200000
    """

    max_drop: float = 0.01
    size: int | str | None = None
    latency_ms: float | None = None
    optimize: Optimize = "balanced"
    threads: int = 1
    delegate: Literal["xnnpack"] | None = "xnnpack"

    def __post_init__(self) -> None:
        self._check_number("max_drop", 0, math.inf)
        object.__setattr__(self, "size", size_bytes(self.size, "Target.size"))
        self._check_number("size", 1, math.inf, whole=True, optional=True)
        self._check_number("latency_ms", 1e-9, math.inf, optional=True)
        self._check_choice("optimize", ("balanced", "size", "latency"))
        self._check_number("threads", 1, math.inf, whole=True)
        self._check_choice("delegate", ("xnnpack", None))

    @property
    def runtime(self) -> dict[str, Any]:
        """Threads and delegate, as the functions that run a file take them."""
        return {"threads": self.threads, "delegate": self.delegate}


def size_bytes(size: object, name: str) -> object:
    """Returns the bytes of a size written as text; anything else as it is.

    Args:
        size: What the caller passed.
        name: What it was passed as, for the error.

    Raises:
        ArgumentError: The text can't be read.
    """
    if not isinstance(size, str):
        return size
    match = _SIZE.match(size)
    if match is None:
        raise ArgumentError(
            f"{name} can't be read.",
            received=describe(size),
            expected="bytes as a number, or text like '200KB' or '1.5MB' (KB = 1000 bytes)",
            fix="Write the size as '200KB'.",
        )
    return round(float(match[1]) * _SIZE_UNITS[match[2].lower()])
