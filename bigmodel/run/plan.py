"""What a run was ordered to do: the arguments of `compress_and_tune`, resolved and checked before anything runs."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import keras

from bigmodel.config import (
    AugmentConfig,
    Config,
    PruneConfig,
    QuantizeConfig,
    Target,
    TrainConfig,
    TuneConfig,
    resolve,
    resolve_quantize,
)
from bigmodel.errors import ArgumentError, ArgumentTypeError, ModelError, describe
from bigmodel.export.formats import FORMATS, Format, format_of

NOTHING_PRUNED = "prune='auto': the target asks for no size or latency, so that nothing was pruned"


@dataclasses.dataclass(frozen=True)
class Plan:
    """The orders of a run.

    Args:
        target: Bounds and order of the candidates.
        train: How steps train.
        prunes: Prunings in order.
        quantize: A config where bits were ordered; "auto"; or `None`, where only the storage may change.
        augment: How training samples are varied; "auto": as is found to help; or `None`.
        tune: What is searched; "auto": where it may pay and nothing was ordered; or `None`.
        prune_is_auto: Whether pruning was left to the library.
        may_remove_channels: Whether channels may go where the target asks for a size or a latency.
        notes: What was left to the library and how it decided.
    """

    target: Target
    train: TrainConfig
    prunes: tuple[PruneConfig, ...]
    quantize: QuantizeConfig | Literal["auto"] | None
    augment: AugmentConfig | Literal["auto"] | None
    tune: TuneConfig | Literal["auto"] | None
    prune_is_auto: bool
    may_remove_channels: bool
    notes: tuple[str, ...]

    @classmethod
    def of(cls, *, target: Any, augment: Any, tune: Any, prune: Any, quantize: Any, train: Any) -> Plan:
        """Resolves the arguments of `compress_and_tune`.

        Raises:
            ArgumentError: A value is out of range, contradicts another, or asks for what this version does not do.
            ArgumentTypeError: A value is of a type that can't be used.
        """
        notes = []
        target, is_auto = _of_type(target, Target, "target"), isinstance(prune, str) and prune == "auto"
        asks = target.size is not None or target.latency_ms is not None
        if is_auto and not asks and tune is None:  # a search removes channels where they are not missed
            notes.append(NOTHING_PRUNED)
        if target.max_drop >= 1:
            notes.append(f"max_drop={target.max_drop:g} is no bound for a metric between 0 and 1: 0.05 is five points")
        plan = cls(
            target=target,
            train=_of_type(train, TrainConfig, "train"),
            prunes=_prunes(prune),
            quantize=_sized(resolve_quantize(quantize), target),
            augment=_augmentation(augment),
            tune=resolve(tune, TuneConfig, "max_trials"),
            prune_is_auto=is_auto,
            may_remove_channels=is_auto and asks,
            notes=tuple(notes),
        )
        plan._check_contradictions()
        return plan

    def _check_contradictions(self) -> None:
        if self.train.epochs == 0 and isinstance(self.quantize, QuantizeConfig) and self.quantize.method == "aware":
            raise ArgumentError(
                "The orders contradict each other.",
                received="quantize with method='aware', train with epochs=0",
                expected="at least one epoch for quantization-aware training",
                fix="Pass train=bm.TrainConfig(epochs=5), or method='post_training'.",
            )

        bits = self.quantize.bits if isinstance(self.quantize, QuantizeConfig) else 8
        if isinstance(self.tune, TuneConfig) and not isinstance(bits, int):
            raise ArgumentError(
                "The orders contradict each other.",
                received=f"tune next to quantize with bits={describe(bits)}",
                expected="bits that are one number: the trials differ in the rest",
                fix="Pass tune=None, or quantize=4.",
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
            "train": named(self.train),
            "prune": [named(config) for config in self.prunes] or self.may_remove_channels,
            "quantize": named(self.quantize) if isinstance(self.quantize, QuantizeConfig) else self.quantize,
            "augment": named(self.augment) if isinstance(self.augment, AugmentConfig) else self.augment,
            "tune": named(self.tune) if isinstance(self.tune, TuneConfig) else self.tune,
        }


def _augmentation(value: Any) -> AugmentConfig | Literal["auto"] | None:
    if isinstance(value, (list, tuple, Mapping)):
        return AugmentConfig(value)  # type: ignore[arg-type]
    return resolve(value, AugmentConfig, "strength")


def _sized(
    quantize: QuantizeConfig | Literal["auto"] | None, target: Target
) -> QuantizeConfig | Literal["auto"] | None:
    """Mixed bits without a size of their own are allotted within the target's."""
    if isinstance(quantize, QuantizeConfig) and quantize.bits == "mixed" and quantize.size is None:
        return dataclasses.replace(quantize, size=target.size)
    return quantize


def _formats(config: QuantizeConfig) -> list[Format]:
    # Bits are allotted for one kind of file, and two bits have dynamic kernels alone.
    is_dynamic = config.bits == "mixed" or (isinstance(config.bits, int) and config.bits <= 2)
    if config.activations != "auto" or is_dynamic:
        bits: Any = config.bits if isinstance(config.bits, int) else "mixed"
        kind: Any = "dynamic" if config.activations == "auto" else config.activations
        return [format_of(bits, kind, config.activation_bits)]
    if isinstance(config.bits, int):
        return [f for f in FORMATS.values() if f.bits == config.bits and f.activation_bits == 8 and not f.mixed]
    return [f for f in FORMATS.values() if f.mixed]


def _prunes(value: Any) -> tuple[PruneConfig, ...]:
    values: Sequence[Any] = value if isinstance(value, (list, tuple)) else [value]
    resolved = [resolve(v, PruneConfig, "sparsity") for v in values]
    if isinstance(value, (list, tuple)) and any(not isinstance(config, PruneConfig) for config in resolved):
        raise ArgumentTypeError(
            "This can't be used as a list of prunings.",
            received=describe(value),
            expected="numbers or PruneConfigs",
            fix="Pass prune='auto' alone, or a list of PruneConfig(sparsity=...).",
        )
    return tuple(config for config in resolved if isinstance(config, PruneConfig) and config.sparsity != 0)


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


def named(config: Config) -> dict[str, Any]:
    """Returns a config's values, JSON-ready, functions by their names."""
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    return {name: _plain(value) for name, value in values.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, tuple):
        return [_plain(part) for part in value]
    return value if value is None or isinstance(value, (str, int, float, bool)) else name_of(value)


def name_of(value: Any) -> str:
    """Returns the qualified name of a function or class; of any other value that of its class.

    >>> name_of(PruneConfig), name_of(PruneConfig())
    ('bigmodel.config.pruning.PruneConfig', 'bigmodel.config.pruning.PruneConfig')
    """
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{named.__module__}.{named.__qualname__}"


def check_call(model: Any, *, seed: Any, verbose: Any, callbacks: Any) -> None:
    """Checks the arguments of the verbs that are no orders.

    Raises:
        ArgumentError: The seed is negative.
        ArgumentTypeError: One is of a type that can't be used.
        ModelError: The model has no weights yet.
    """
    check_model(model)
    for name, value, kind, what in (
        ("seed", seed, int, "a whole number"),
        ("verbose", verbose, int, "0, 1 or 2"),
        ("callbacks", callbacks, Sequence, "a list of Keras callbacks"),
    ):
        if not isinstance(value, kind):
            raise ArgumentTypeError(
                f"{name} can't be used.", received=describe(value), expected=what, fix=f"Pass {name} as {what}."
            )
    strange = [callback for callback in callbacks if not isinstance(callback, keras.callbacks.Callback)]
    if strange:
        raise ArgumentTypeError(
            "callbacks can't be used.",
            received=describe(strange[0]),
            expected="instances of keras.callbacks.Callback",
            fix="Pass callbacks=[MyCallback()].",
        )
    if seed < 0:
        raise ArgumentError("seed can't be used.", received=describe(seed), expected="0 or more", fix="Pass seed=0.")


def check_model(model: Any) -> None:
    """Checks that a model is one of Keras 3, with weights.

    Raises:
        ArgumentTypeError: It is something else.
        ModelError: It has no weights yet.
    """
    if not isinstance(model, keras.Model):
        is_path = isinstance(model, (str, os.PathLike))
        raise ArgumentTypeError(
            "model can't be used.",
            received=describe(model),
            expected="a Keras 3 model, or one of tf_keras",
            fix="Load it: keras.models.load_model(path), or bm.from_legacy(path) if Keras 2 wrote it."
            if is_path
            else "Pass a model that keras.Sequential or keras.Model made.",
        )
    if not model.built:
        raise ModelError(
            "The model has no weights yet.",
            received=f"{type(model).__name__} {model.name!r}, not built",
            expected="a built model",
            fix="Start it with keras.Input(shape), or call model.build(input_shape).",
        )
