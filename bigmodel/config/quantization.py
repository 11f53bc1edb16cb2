"""Bits of weights and activations, and how their grids are found."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, cast

from bigmodel.config.base import Config, Where, resolve
from bigmodel.config.target import size_bytes

Method = Literal["auto", "post_training", "aware"]
Activations = Literal["auto", "dynamic", "static", "float"]
Bits = int | Literal["mixed"] | Mapping[str, int] | Callable[[Any], int]
Observer = Literal["auto", "min_max", "moving_average", "percentile", "mse", "entropy", "learned"]
Clipping = Literal["auto", "min_max", "mse", "learned"]
Rounding = Literal["auto", "nearest", "adaptive"]
WeightGranularity = Literal["channel", "tensor"]

WIDTHS = (8, 4, 2, 1)
"""Bits that a weight may have: 2 is ternary (-1, 0, 1), 1 is binary (-1, 1) and stored as 2."""


@dataclasses.dataclass(frozen=True)
class QuantizeConfig(Config):
    """Bits of weights and activations, whether training goes with them, and how their grids are found.

    Args:
        bits: Bits of the weights: 8, 4, 2 (ternary) or 1 (binary, stored as 2); "mixed": allotted to the layers by
            their sensitivity, within `size`; or a dict of bits by layer name (others take 8), or a function
            `layer -> bits`. Where the runtime computes no kernel of these bits rightly, the next more are taken and
            reported.
        activations: "dynamic" (the runtime finds each input's range at run time), "static" (ranges fixed by
            calibration, integer arithmetic throughout), "float" (weight-only storage), or "auto": `compress_and_tune`
            measures files of each kind, a single step takes dynamic ones.
        method: "post_training" (calibrate, no training), "aware" (quantization-aware training), or "auto" (trains only
            where post-training misses the target).
        where: Which layers; `None`: all layers the runtime can hold quantized.
        size: Of bits "mixed": most bytes of the file, as a number or text like "20KB"; `None`: halfway between the
            file of 8 bits and that of 4.
        activation_bits: Of activations: 8, or 16 with 8-bit weights and static ranges: as right as a float file where
            activations spread too far for 256 codes, but without XNNPACK's kernels slower.
        observer: How a static activation's range is found: "min_max", "moving_average", "percentile" (99.99 %), "mse"
            (least squared error), "entropy" (least Kullback-Leibler divergence), "learned" (trained with the weights:
            PACT, Choi et al., 2018; method "aware" only), or "auto": by measurement.
        clipping: How a weight's scale is found: "min_max", "mse" (least squared error), "learned" (trained
            with the weights: LSQ, Esser et al., 2020; method "aware" only), or "auto": by measurement.
        granularity: What has a scale: each output "channel" of a weight, or the "tensor" as a whole, where the kernel
            takes that (fully connected ones and convolutions, but no depthwise ones). It saves 12 bytes a channel.
        rounding: Of post-training weights: "nearest", "adaptive" (so that each layer's output changes least on
            calibration data), or "auto": adaptive below 8 bits, where it measures better.
        equalization: Whether post-training evens out the channels' ranges across layers (Nagel et al., 2019);
            "auto": where it measures better.
        bias_correction: Whether post-training corrects the biases for the mean error of a layer's output (Nagel et
            al., 2019); "auto": where it measures better.
        delay: Of training: steps with float weights and activations before quantization starts.
        freeze: Of training: step from which ranges and normalisation statistics stay; `None`: the last quarter.

    Raises:
        ArgumentError: A value is out of range, or the combination does not exist in the runtime.

    Example:
        >>> QuantizeConfig(bits=4).activations
        'auto'
        >>> QuantizeConfig(bits="mixed", size="20KB").size
        20000
    """

    bits: Bits = dataclasses.field(default=8, hash=False)  # a dict has no hash
    activations: Activations = "auto"
    method: Method = "auto"
    where: Where | None = None
    size: int | str | None = None
    activation_bits: int = 8
    observer: Observer = "auto"
    clipping: Clipping = "auto"
    granularity: WeightGranularity = "channel"
    rounding: Rounding = "auto"
    equalization: bool | Literal["auto"] = "auto"
    bias_correction: bool | Literal["auto"] = "auto"
    delay: int = 0
    freeze: int | None = None

    def __post_init__(self) -> None:
        self._check_bits()
        self._check_choice("activations", ("auto", "dynamic", "static", "float"))
        self._check_choice("method", ("auto", "post_training", "aware"))
        self._check(self.where is None or callable(self.where), "where", "a function of a layer, or None")
        object.__setattr__(self, "size", size_bytes(self.size, "QuantizeConfig.size"))
        self._check_number("size", 1, math.inf, whole=True, optional=True)
        self._check(self.size is None or self.bits == "mixed", "size", "None unless bits='mixed'")
        self._check_choice("observer", ("auto", "min_max", "moving_average", "percentile", "mse", "entropy", "learned"))
        self._check_choice("clipping", ("auto", "min_max", "mse", "learned"))
        self._check_choice("granularity", ("channel", "tensor"))
        self._check_choice("rounding", ("auto", "nearest", "adaptive"))
        self._check_choice("equalization", (True, False, "auto"))
        self._check_choice("bias_correction", (True, False, "auto"))
        for name in ("observer", "clipping"):
            learned = getattr(self, name) == "learned"
            fits = not (learned and self.method == "post_training")
            self._check(
                fits, name, "another with method='post_training': learned ones are trained", "Pass method='aware'."
            )
        self._check_activation_bits()
        self._check_number("delay", 0, math.inf, whole=True)
        self._check_number("freeze", 0, math.inf, whole=True, optional=True)

    def _check_activation_bits(self) -> None:
        bits = self.activation_bits
        self._check(type(bits) is int and bits in (8, 16), "activation_bits", "8 or 16")
        if bits == 8:
            return
        self._check(
            self.activations == "static" and self.bits == 8,
            "activation_bits",
            "8 unless weights have 8 bits and ranges are static: the runtime has no other kernels of 16 bits",
            "Pass bits=8 and activations='static' with it.",
        )
        self._check(
            self.observer in ("auto", "min_max", "moving_average", "percentile"),
            "observer",
            "'min_max', 'moving_average' or 'percentile' with 16 bits: the others trade range for steps of 8 bits",
            "Leave it to 'auto'.",
        )

    def _check_bits(self) -> None:
        bits = self.bits
        if isinstance(bits, Mapping):
            fits = bool(bits) and all(isinstance(name, str) and _is_width(part) for name, part in bits.items())
        else:
            fits = callable(bits) or bits == "mixed" or _is_width(bits)
        self._check(fits, "bits", "8, 4, 2, 1, 'mixed', a dict of them by layer name, or a function of a layer")

    @property
    def label(self) -> str:
        """The bits in a word: "int8", or "mixed" where layers differ."""
        return f"int{self.bits}" if isinstance(self.bits, int) else "mixed"

    def bits_of(self, layer: Any) -> int:
        """Returns the bits ordered for a layer; of "mixed", which are allotted later, the most.

        Args:
            layer: The layer.

        Raises:
            ArgumentError: A function of the layer returned what are no bits.
        """
        bits = self.bits
        if isinstance(bits, Mapping):
            return bits.get(layer.name, WIDTHS[0])
        if not callable(bits):
            return WIDTHS[0] if bits == "mixed" else bits
        given = bits(layer)
        self._check(
            _is_width(given), "bits", f"a function that returns 8, 4, 2 or 1, not {given!r} as for {layer.name!r}"
        )
        return given


def resolve_quantize(value: object) -> QuantizeConfig | Literal["auto"] | None:
    """Resolves a face's argument: a config, "auto", `None`, or what `QuantizeConfig.bits` takes.

    Raises:
        ArgumentTypeError: It is none of these.

    Example:
        >>> resolve_quantize(4).bits, resolve_quantize({"head": 8}).bits
        (4, {'head': 8})
    """
    if value == "mixed" or isinstance(value, Mapping) or (callable(value) and not isinstance(value, type)):
        return QuantizeConfig(bits=cast(Bits, value))
    return resolve(value, QuantizeConfig, "bits")


def _is_width(bits: object) -> bool:
    return isinstance(bits, int) and not isinstance(bits, bool) and bits in WIDTHS
