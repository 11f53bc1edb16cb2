"""Bits of weights and activations, and how they are found."""

from __future__ import annotations

import dataclasses
from typing import Literal

from bigmodel.config.base import Config, Where

Method = Literal["auto", "post_training", "aware"]
Activations = Literal["auto", "dynamic", "static", "float"]


@dataclasses.dataclass(frozen=True)
class QuantizeConfig(Config):
    """Bits of weights and activations, and whether training goes with them.

    Args:
        bits: Bits of the weights: 8 or 4.
        activations: "dynamic" (the runtime finds each input's range at run time), "static" (8-bit ranges fixed by
            calibration, integer arithmetic throughout), "float" (weight-only storage), or "auto": `compress_and_tune`
            measures files of each kind, a single step takes dynamic ones.
        method: "post_training" (calibrate, no training), "aware" (quantization-aware training), or "auto" (trains only
            where post-training misses the target).
        where: Which layers; `None`: all layers the runtime can hold quantized.

    Raises:
        ArgumentError: A value is out of range, or the combination does not exist in the runtime.

    Example:
        >>> QuantizeConfig(bits=4).activations
        'auto'
    """

    bits: int = 8
    activations: Activations = "auto"
    method: Method = "auto"
    where: Where | None = None

    def __post_init__(self) -> None:
        self._check_choice("bits", (8, 4))
        self._check_choice("activations", ("auto", "dynamic", "static", "float"))
        self._check(
            not (self.bits == 4 and self.activations == "static"),
            "activations",
            "'dynamic' or 'float' with bits=4",
            "Use activations='dynamic' for 4 bits, or bits=8 for static activations.",
        )
        self._check_choice("method", ("auto", "post_training", "aware"))
        self._check(self.where is None or callable(self.where), "where", "a function of a layer, or None")
