"""The configs of all steps: frozen dataclasses, validated when made, to and from JSON.

A shorthand (`prune=0.5`, `quantize=8`, `size="200KB"`) is resolved here and nowhere else.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar

from bigmodel.errors import ArgumentError, ArgumentTypeError, describe

CONFIG_VERSION = 1

Where = Callable[[Any], bool]
"""Says whether a step may touch a layer: `where(layer) -> bool`, called once for every layer that has weights."""

Granularity = Literal["weight", "channel", "2:4", "block"]
Criterion = Literal["taylor", "l1", "l2", "batchnorm", "random"] | Callable[[Any], Any]
Optimize = Literal["balanced", "size", "latency"]
Method = Literal["auto", "post_training", "aware"]
Activations = Literal["auto", "dynamic", "static", "float"]

_SIZE = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*([kKmMgG]?)[bB]\s*$")
_SIZE_UNITS = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3}
_Config = TypeVar("_Config", bound="Config")


@dataclasses.dataclass(frozen=True)
class Config:
    """What all configs share: checks when made, and a versioned dict both ways."""

    def to_dict(self) -> dict[str, Any]:
        """Returns the config as a JSON-ready dict with its version.

        Raises:
            ArgumentError: A field holds a function, which JSON can't carry.
        """
        fields = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if callable(value):
                raise ArgumentError(
                    f"{type(self).__name__}.{field.name} can't be written as JSON.",
                    received=describe(value),
                    expected="a value that JSON can carry",
                    fix=f"Write the config without {field.name} and set it again after reading.",
                )
            fields[field.name] = _jsonable(value)
        return {"version": CONFIG_VERSION, "config": type(self).__name__, **fields}

    @classmethod
    def from_dict(cls: type[_Config], values: Mapping[str, Any]) -> _Config:
        """Makes the config from `to_dict`'s result. The mapping is not changed.

        Raises:
            ArgumentError: The version is newer than this library's, or a field is unknown.
        """
        values = dict(values)
        version, name = values.pop("version", CONFIG_VERSION), values.pop("config", cls.__name__)
        known = {field.name for field in dataclasses.fields(cls)}
        if version > CONFIG_VERSION or name != cls.__name__ or not set(values) <= known:
            raise ArgumentError(
                f"This is not a {cls.__name__} that this version can read.",
                received=f"{name} of version {version} with {sorted(values)}",
                expected=f"{cls.__name__} of version <= {CONFIG_VERSION} with fields among {sorted(known)}",
                fix="Read it with the version of bigmodel that wrote it.",
            )
        return cls(**values)

    def to_json(self) -> str:
        """Returns `to_dict()` as JSON text."""
        return json.dumps(self.to_dict(), indent=2)

    @classmethod
    def from_json(cls: type[_Config], text: str) -> _Config:
        """Makes the config from `to_json`'s result."""
        return cls.from_dict(json.loads(text))

    def _check(self, condition: bool, name: str, expected: str, fix: str = "") -> None:
        if not condition:
            raise ArgumentError(
                f"{type(self).__name__}.{name} can't be used.",
                received=f"{name}={describe(getattr(self, name))}",
                expected=expected,
                fix=fix or f"Pass {name} as {expected}.",
            )

    def _check_number(self, name: str, low: float, high: float, *, whole: bool = False, optional: bool = False) -> None:
        value = getattr(self, name)
        if value is None and optional:
            return
        kind = "a whole number" if whole else "a number"
        is_number = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
        bounds = f"{kind} from {low} to {high}" if math.isfinite(high) else f"{kind} of at least {low}"
        self._check(is_number and low <= value <= high, name, bounds)

    def _check_choice(self, name: str, choices: tuple[Any, ...]) -> None:
        self._check(getattr(self, name) in choices, name, "one of " + ", ".join(repr(c) for c in choices))


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

    def __post_init__(self) -> None:
        self._check_number("max_drop", 0, math.inf)
        object.__setattr__(self, "size", _size_bytes(self.size))
        self._check_number("size", 1, math.inf, whole=True, optional=True)
        self._check_number("latency_ms", 1e-9, math.inf, optional=True)
        self._check_choice("optimize", ("balanced", "size", "latency"))


@dataclasses.dataclass(frozen=True)
class TrainConfig(Config):
    """How the steps train.

    Args:
        epochs: Epochs of fine-tuning for each step that trains.
        batch_size: Samples per step for arrays and unbatched streams; a batched stream keeps its own.
        learning_rate: Peak learning rate of fine-tuning; `None`: the model's compiled one for pruning and for 4 bits, a
            tenth of it for 8 bits, which start close to their goal.
        pretrain_epochs: Epochs that train the caller's architecture before anything is measured; for untrained models.
        precision: "float32", "mixed_float16", "mixed_bfloat16", or "auto" (mixed where a GPU has fast units).
        strategy: A `tf.distribute` strategy, or `None`.
        patience: Epochs without a better validation metric after which training stops and the best weights come back.

    Raises:
        ArgumentError: A value is out of range.

    Example:
        >>> TrainConfig(epochs=10, learning_rate=1e-4).patience
        3
    """

    epochs: int = 5
    batch_size: int = 128
    learning_rate: float | None = None
    pretrain_epochs: int = 0
    precision: Literal["auto", "float32", "mixed_float16", "mixed_bfloat16"] = "auto"
    strategy: Any = None
    patience: int = 3

    def __post_init__(self) -> None:
        self._check_number("epochs", 0, math.inf, whole=True)
        self._check_number("batch_size", 1, math.inf, whole=True)
        self._check_number("learning_rate", 0, math.inf, optional=True)
        self._check_number("pretrain_epochs", 0, math.inf, whole=True)
        self._check_choice("precision", ("auto", "float32", "mixed_float16", "mixed_bfloat16"))
        self._check_number("patience", 1, math.inf, whole=True)


@dataclasses.dataclass(frozen=True)
class PruneConfig(Config):
    """How much is pruned, in which pattern, and how what goes is chosen.

    Args:
        sparsity: The share that goes, as a fraction in 0..1: of each kernel's weights, of each group's channels, or of
            all together with `ranking="global"`. For channels also a dict of shares by layer (others stay whole), or a
            function of a `bigmodel.pruning.channels.Group`.
        granularity: What goes: "weight" (single weights become zero), "2:4" (two of every four along the input axis),
            "block" (blocks of `block_shape`), or "channel" (channels are removed: a smaller network).
        schedule: Of zeros: "polynomial" (the cubic rise of Zhu and Gupta, 2017), "constant", or a function
            `step -> progress` with progress in 0..1 as in `bigmodel.pruning.schedules`.
        where: Which layers; `None`: all layers with a kernel.
        frequency: Of zeros: steps between two updates of the masks.
        block_shape: Of granularity "block": (inputs, outputs) of one block.
        criterion: Of channels: what one is worth: "taylor", "l1", "l2", "batchnorm", "random", or a function
            `group -> one number per channel`; see `bigmodel.pruning.channels.score_channels`.
        ranking: "layer": the share holds in each layer. "global": one ranking over all of them.
        floor: Of channels: share of each group that always stays.
        round_to: Of channels: widths are rounded up to a multiple of this; kernels work in tiles of 8 or 16.
        budget: Of channels: instead of a share, the most that may remain as fractions of the whole model:
            `{"macs": 0.5}`, "parameters", "size" (of the float file) or "latency" (of the float file).
        max_drop: Of channels: removal goes on in rounds and stops before the validation metric, fine-tuned, falls by
            more than this; `None`: one round, no threshold.
        normalized: Of channels: also remove widths that a normalisation over the channel axis (LayerNormalization,
            GroupNormalization) sees; its statistics change with them.

    Raises:
        ArgumentError: A value is out of range, or does not belong to the granularity.

    Example:
        >>> PruneConfig(granularity="channel", budget={"macs": 0.25}, round_to=8).to_dict()["budget"]
        {'macs': 0.25}
    """

    sparsity: float | Mapping[str, float] | Callable[[Any], float] = 0.5
    granularity: Granularity = "weight"
    schedule: str | Callable[[Any], Any] = "polynomial"
    where: Where | None = None
    frequency: int = 100
    block_shape: tuple[int, int] = (1, 4)
    criterion: Criterion = "taylor"
    ranking: Literal["layer", "global"] = "layer"
    floor: float = 0.0
    round_to: int = 1
    budget: Mapping[str, float] | None = None
    max_drop: float | None = None
    normalized: bool = False

    def __post_init__(self) -> None:
        self._check_choice("granularity", ("weight", "2:4", "block", "channel"))
        self._check_sparsity()
        self._check(
            callable(self.schedule) or self.schedule in ("polynomial", "constant"),
            "schedule",
            "'polynomial', 'constant' or a function of the step",
        )
        self._check(self.where is None or callable(self.where), "where", "a function of a layer, or None")
        self._check_number("frequency", 1, math.inf, whole=True)
        object.__setattr__(self, "block_shape", _pair(self.block_shape))
        self._check(self.block_shape is not None, "block_shape", "two whole numbers of at least 1, (inputs, outputs)")
        criteria = ("taylor", "l1", "l2", "batchnorm", "random")
        self._check(
            callable(self.criterion) or self.criterion in criteria,
            "criterion",
            "a function of a group, or one of " + ", ".join(map(repr, criteria)),
        )
        self._check_choice("ranking", ("layer", "global"))
        self._check_number("floor", 0, 1)
        self._check_number("round_to", 1, math.inf, whole=True)
        self._check_budget()
        self._check_number("max_drop", 0, math.inf, optional=True)
        self._check_choice("normalized", (True, False))
        self._check_granularity()

    @property
    def share(self) -> float:
        """The sparsity as the one number that it is with any granularity but "channel"."""
        assert isinstance(self.sparsity, (int, float))
        return self.sparsity

    def _check_sparsity(self) -> None:
        if not callable(self.sparsity):
            shares = list(self.sparsity.values()) if isinstance(self.sparsity, Mapping) else [self.sparsity]
            numbers = all(isinstance(share, (int, float)) and not isinstance(share, bool) for share in shares)
            self._check(numbers and all(0 <= share < 1 for share in shares), "sparsity", "numbers from 0 to below 1")
        if self.granularity == "2:4":
            self._check(self.sparsity == 0.5, "sparsity", "0.5 with granularity='2:4'")
        varied = self.granularity == "channel" or isinstance(self.sparsity, (int, float))
        self._check(varied, "sparsity", f"one number with granularity={self.granularity!r}")

    def _check_budget(self) -> None:
        known = ("macs", "parameters", "size", "latency")
        budget = self.budget
        fits = budget is None or (
            isinstance(budget, Mapping)
            and bool(budget)
            and all(key in known and isinstance(part, (int, float)) and 0 < part < 1 for key, part in budget.items())
        )
        self._check(fits, "budget", "a dict of fractions between 0 and 1 for some of " + ", ".join(map(repr, known)))

    def _check_granularity(self) -> None:
        """Settings of one pattern with another are a mistake, not a matter of precedence."""
        channels = ("criterion", "floor", "round_to", "budget", "max_drop", "normalized")
        zeros = ("schedule", "frequency")
        foreign = {
            "channel": (*zeros, "block_shape"),
            "weight": (*channels, "block_shape"),
            "2:4": (*channels, "block_shape", "ranking"),
            "block": channels,
        }[self.granularity]
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        for name in foreign:
            self._check(
                getattr(self, name) == defaults[name],
                name,
                f"its default with granularity={self.granularity!r}",
                f"Leave {name} out, or pass another granularity.",
            )


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


@dataclasses.dataclass(frozen=True)
class ClusterConfig(Config):
    """How many values the weights of a kernel share.

    Args:
        clusters: Most different values of each kernel, the zero of a pruned one included.
        where: Which layers; `None`: all layers with a kernel.

    Raises:
        ArgumentError: A value is out of range.

    Example:
        >>> ClusterConfig(32).to_dict()["clusters"]
        32
    """

    clusters: int = 16
    where: Where | None = None

    def __post_init__(self) -> None:
        self._check_number("clusters", 2, math.inf, whole=True)
        self._check(self.where is None or callable(self.where), "where", "a function of a layer, or None")


def _size_bytes(size: object) -> object:
    if not isinstance(size, str):
        return size
    match = _SIZE.match(size)
    if match is None:
        raise ArgumentError(
            "Target.size can't be read.",
            received=describe(size),
            expected="bytes as a number, or text like '200KB' or '1.5MB' (KB = 1000 bytes)",
            fix="Write the size as '200KB'.",
        )
    return round(float(match[1]) * _SIZE_UNITS[match[2].lower()])


def _jsonable(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    return list(value) if isinstance(value, tuple) else value


def _pair(value: object) -> tuple[int, int] | None:
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        return None
    whole = all(isinstance(size, int) and not isinstance(size, bool) and size >= 1 for size in value)
    return (value[0], value[1]) if whole else None


def resolve(value: object, config: type[_Config], number: str) -> _Config | Literal["auto"] | None:
    """Resolves a face's argument: a config, its shorthand number, "auto" or `None`.

    Args:
        value: What the caller passed.
        config: The config's class.
        number: The field that a bare number sets.

    Raises:
        ArgumentTypeError: It is none of these.

    Example:
        >>> resolve(0.5, PruneConfig, "sparsity").sparsity
        0.5
    """
    if value is None or isinstance(value, config):
        return value
    if isinstance(value, str) and value == "auto":
        return "auto"
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return config(**{number: value})
    raise ArgumentTypeError(
        f"This can't be used as a {config.__name__}.",
        received=describe(value),
        expected=f"a {config.__name__}, a number ({number}), 'auto' or None",
        fix=f"Pass {config.__name__}({number}=...).",
    )
