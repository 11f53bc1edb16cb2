"""What a run was ordered to do: the arguments of `compress_and_tune`, resolved and checked before anything runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

from bigmodel.config import Config, PruneConfig, QuantizeConfig, Target, TrainConfig, resolve
from bigmodel.errors import ArgumentError, ArgumentTypeError, describe
from bigmodel.export.formats import FORMATS, Format, format_of


@dataclasses.dataclass(frozen=True)
class Plan:
    """The orders of a run.

    Args:
        target: Bounds and order of the candidates.
        train: How steps train.
        prunes: Prunings in order.
        quantize: A config where bits were ordered; "auto"; or `None`, where only the storage may change.
        notes: What was left to the library and how it decided.
    """

    target: Target
    train: TrainConfig
    prunes: tuple[PruneConfig, ...]
    quantize: QuantizeConfig | Literal["auto"] | None
    notes: tuple[str, ...]

    @classmethod
    def of(cls, *, target: Any, augment: Any, tune: Any, prune: Any, quantize: Any, train: Any) -> Plan:
        """Resolves the arguments of `compress_and_tune`.

        Raises:
            ArgumentError: A value is out of range, or asks for what this version does not do.
            ArgumentTypeError: A value is of a type that can't be used.
        """
        notes = []
        for name, value in (("augment", augment), ("tune", tune)):
            if value not in ("auto", None):
                raise ArgumentError(
                    f"{name} can't be ordered.",
                    received=f"{name}={describe(value)}",
                    expected="'auto' or None: this version does no such step",
                    fix=f"Leave {name} out.",
                )
            if value == "auto":
                notes.append(f"{name}='auto': this version has no such step, nothing was done")
        if prune == "auto":
            notes.append("prune='auto': zeros do not shrink a .tflite, so that nothing was pruned")
        return cls(
            target=_of_type(target, Target, "target"),
            train=_of_type(train, TrainConfig, "train"),
            prunes=_prunes(prune),
            quantize=resolve(quantize, QuantizeConfig, "bits"),
            notes=tuple(notes),
        )

    @property
    def float_formats(self) -> list[Format]:
        """The formats of float files that compete."""
        return [] if isinstance(self.quantize, QuantizeConfig) else [FORMATS["float32"], FORMATS["float16"]]

    def quantized_formats(self) -> dict[QuantizeConfig, list[Format]]:
        """The formats of quantized files that compete, by the config that makes their weights."""
        if self.quantize is None:
            storage = QuantizeConfig(bits=8, activations="float", method="post_training")
            return {storage: [format_of(8, "float")]}
        configs = [QuantizeConfig(bits=8), QuantizeConfig(bits=4)] if self.quantize == "auto" else [self.quantize]
        return {config: _formats(config) for config in configs}

    def to_dict(self) -> dict[str, Any]:
        """Returns the orders, JSON-ready, functions by their names: what makes two runs the same."""
        return {
            "target": self.target.to_dict(),
            "train": _named(self.train),
            "prune": [_named(config) for config in self.prunes],
            "quantize": _named(self.quantize) if isinstance(self.quantize, QuantizeConfig) else self.quantize,
        }


def _formats(config: QuantizeConfig) -> list[Format]:
    kinds = ("float", "dynamic", "static") if config.activations == "auto" else (config.activations,)
    return [f for f in FORMATS.values() if f.bits == config.bits and f.activations in kinds]


def _prunes(value: Any) -> tuple[PruneConfig, ...]:
    values: Sequence[Any] = value if isinstance(value, (list, tuple)) else [value]
    resolved = [resolve(v, PruneConfig, "sparsity") for v in values if v is not None]
    if len(values) > 1 and any(not isinstance(config, PruneConfig) for config in resolved):
        raise ArgumentTypeError(
            "This can't be used as a list of prunings.",
            received=describe(value),
            expected="numbers or PruneConfigs",
            fix="Pass prune='auto' alone, or a list of PruneConfig(sparsity=...).",
        )
    return tuple(config for config in resolved if isinstance(config, PruneConfig) and config.sparsity > 0)


def _of_type(value: Any, config: type[Any], name: str) -> Any:
    if value is None:
        return config()
    if not isinstance(value, config):
        raise ArgumentTypeError(
            f"{name} can't be used.",
            received=describe(value),
            expected=f"a {config.__name__} or None",
            fix=f"Pass {name}=bm.{config.__name__}(...).",
        )
    return value


def _named(config: Config) -> dict[str, Any]:
    def name(value: Any) -> Any:
        if isinstance(value, Callable):  # type: ignore[arg-type]
            return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value).__qualname__)}"
        return value if value is None or isinstance(value, (str, int, float, bool)) else type(value).__qualname__

    return {field.name: name(getattr(config, field.name)) for field in dataclasses.fields(config)}
