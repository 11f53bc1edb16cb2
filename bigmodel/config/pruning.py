"""What is pruned or clustered, in which pattern, and how it is chosen."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

from bigmodel.config.base import Config, Where

Granularity = Literal["weight", "channel", "2:4", "block"]
Criterion = Literal["taylor", "l1", "l2", "batchnorm", "random"] | Callable[[Any], Any]


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


def _pair(value: object) -> tuple[int, int] | None:
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        return None
    whole = all(isinstance(size, int) and not isinstance(size, bool) and size >= 1 for size in value)
    return (value[0], value[1]) if whole else None
