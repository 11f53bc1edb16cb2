"""Choose which channels stay, from their scores."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np

from bigmodel.errors import ArgumentError, describe
from bigmodel.pruning.channels.cost import CostModel
from bigmodel.pruning.channels.groups import ChannelMap, Group

Sparsity = float | Mapping[str, float] | Callable[[Group], float]
"""The share of channels to remove: of every group, of the groups that these layers make, or as a function says."""
Keep = dict[str, np.ndarray]
"""For each group that loses channels, by its name: a boolean per channel, `True` where it stays."""


def choose_channels(
    channels: ChannelMap,
    scores: Mapping[str, Any],
    sparsity: Sparsity,
    *,
    ranking: Literal["layer", "global"] = "layer",
    floor: float = 0.0,
    round_to: int = 1,
) -> Keep:
    """Chooses the channels that stay: those with the highest scores. Equal scores keep the earlier channel.

    Args:
        channels: What `find_channels` found.
        scores: What `score_channels` gave.
        sparsity: Share of the channels that go, as a fraction in 0..1. A dict holds a share for the name of a layer
            or group (others stay whole); a function gives one for a group.
        ranking: "layer": the share holds in every group. "global": it holds for all channels together, and the
            scores decide from which groups they go; `sparsity` is then one number.
        floor: Share of each group that always stays; one channel always does.
        round_to: Widths are rounded up to a multiple of this, as far as there are channels.

    Returns:
        The masks, for the groups that lose channels.

    Raises:
        ArgumentError: A share is out of range, or a name fits no group.

    Example:
        >>> import keras
        >>> from bigmodel.pruning.channels import find_channels
        >>> inputs = keras.Input((2,))
        >>> hidden = keras.layers.Dense(4, name="a")(inputs)
        >>> channels = find_channels(keras.Model(inputs, keras.layers.Dense(1)(hidden)))
        >>> choose_channels(channels, {"a": [0.3, 0.1, 0.9, 0.2]}, 0.5)["a"]
        array([ True, False,  True, False])
    """
    if ranking == "global":
        counts = _global_counts(channels, scores, sparsity, floor)
    else:
        shares = _shares(channels, sparsity)
        counts = {group.name: _kept(group, shares[group.name], floor) for group in channels.groups}
    keep: Keep = {}
    for group in channels.groups:
        count = _rounded(group, counts[group.name], round_to)
        if count < group.size:
            order = np.argsort(-np.asarray(scores[group.name], dtype=np.float64), kind="stable")
            keep[group.name] = np.isin(np.arange(group.size), order[:count])
    return keep


def _shares(channels: ChannelMap, sparsity: Sparsity) -> dict[str, float]:
    """The share of each group that goes."""
    if isinstance(sparsity, Mapping):
        shares = dict.fromkeys((group.name for group in channels.groups), 0.0)
        for name, share in sparsity.items():
            named = [group.name for group in channels.groups if name == group.name] or [
                group.name for group in channels.groups if name in {layer.name for layer in group.layers}
            ]
            if not named:
                raise ArgumentError(
                    f"No channels can be removed from {name!r}.",
                    received=channels.pinned.get(name, f"no layer {name!r} makes channels"),
                    expected=f"names among {[group.name for group in channels.groups]}",
                    fix="See `find_channels(model)` for groups, and for reasons why layers are left whole.",
                )
            shares.update({group: max(share, shares[group]) for group in named})
    else:
        shares = {g.name: sparsity(g) if callable(sparsity) else sparsity for g in channels.groups}
    for name, share in shares.items():
        if not 0 <= share < 1:
            raise ArgumentError(
                f"The share of channels to remove from {name!r} can't be used.",
                received=describe(share),
                expected="a number from 0 to below 1",
            )
    return shares


def _kept(group: Group, share: float, floor: float) -> int:
    return max(1, math.ceil(floor * group.size), group.size - round(share * group.size))


def _rounded(group: Group, count: int, round_to: int) -> int:
    """The count whose width is the next multiple; a channel may be several positions wide."""
    step = round_to // math.gcd(round_to, group.width)
    return min(group.size, math.ceil(count / step) * step)


def _global_counts(channels: ChannelMap, scores: Mapping[str, Any], sparsity: Sparsity, floor: float) -> dict[str, int]:
    if not isinstance(sparsity, (int, float)) or not 0 <= sparsity < 1:
        raise ArgumentError(
            "A global ranking takes one share for all channels.",
            received=describe(sparsity),
            expected="a number from 0 to below 1",
            fix="Pass one number, or ranking='layer' with shares for each group.",
        )
    least = {group.name: _kept(group, 1.0, floor) for group in channels.groups}
    candidates: list[tuple[float, str]] = []
    for group in channels.groups:
        lowest = np.sort(np.asarray(scores[group.name], dtype=np.float64))[: group.size - least[group.name]]
        candidates.extend((score, group.name) for score in lowest.tolist())
    candidates.sort(key=lambda candidate: candidate[0])
    total = sum(group.size for group in channels.groups)
    counts = {group.name: group.size for group in channels.groups}
    for _, name in candidates[: round(sparsity * total)]:
        counts[name] -= 1
    return counts


def choose_for_cost(
    channels: ChannelMap,
    scores: Mapping[str, Any],
    costs: CostModel,
    *,
    macs: float | None = None,
    parameters: float | None = None,
    ranking: Literal["layer", "global"] = "global",
    floor: float = 0.1,
    round_to: int = 1,
    per_cost: bool = False,
) -> Keep:
    """Chooses the smallest share of channels to remove that brings a model to a cost.

    Args:
        channels: What `find_channels` found.
        scores: What `score_channels` gave.
        costs: The cost model of the same model.
        macs: Most multiply-accumulates, as a fraction of the whole model's; `None`: no bound.
        parameters: Most parameters, likewise.
        ranking: See `choose_channels`; so are `floor` and `round_to`.
        floor: Share of each group that always stays.
        round_to: Widths are rounded up to a multiple of this.
        per_cost: Whether scores are divided by what one channel of the group costs, so that what goes first loses
            least for what it saves. For estimates of the loss ("taylor"): a ResNet-8 with half of its MACs kept 0.80
            of its 0.87 accuracy after repair, and 0.49 without. Not for norms, which say nothing about the loss.

    Returns:
        The masks; see `choose_channels`.

    Source:
        L. Theis et al., Faster gaze prediction with dense networks and Fisher pruning, 2018 (scores per cost).

    Raises:
        ArgumentError: No bound is given, or the bound can't be reached above the floor.

    Example:
        >>> import keras
        >>> from bigmodel.pruning.channels import CostModel, find_channels
        >>> inputs = keras.Input((4,))
        >>> hidden = keras.layers.Dense(20, name="a")(inputs)
        >>> model = keras.Model(inputs, keras.layers.Dense(2)(hidden))
        >>> channels = find_channels(model)
        >>> keep = choose_for_cost(channels, {"a": range(20)}, CostModel(model, channels), macs=0.5)
        >>> int(keep["a"].sum())
        10
    """
    whole = costs.after({})
    most_parameters = whole.parameters * (1.0 if parameters is None else parameters)
    most_macs = whole.macs * (1.0 if macs is None else macs)
    total = sum(group.size for group in channels.groups)
    if per_cost:
        scores = {g.name: np.asarray(scores[g.name]) / _saving(g, costs, macs is not None) for g in channels.groups}

    def choose(count: int) -> tuple[Keep, bool]:
        share = count / total
        keep = choose_channels(channels, scores, share, ranking=ranking, floor=floor, round_to=round_to)
        cost = costs.after(keep)
        return keep, cost.parameters <= most_parameters and cost.macs <= most_macs

    low, high = 0, total - 1
    best, fits = choose(high)
    if not fits or (macs is None and parameters is None):
        least = costs.after(best)
        raise ArgumentError(
            "The cost can't be reached by removing channels.",
            received=f"macs={macs}, parameters={parameters}",
            expected=f"fractions of at least macs={least.macs / max(1, whole.macs):.3f} and "
            f"parameters={least.parameters / whole.parameters:.3f}, or one of them",
            fix="Allow more, lower `floor`, or let more layers lose channels.",
        )
    while low < high:
        middle = (low + high) // 2
        keep, fits = choose(middle)
        if fits:
            best, high = keep, middle
        else:
            low = middle + 1
    return best


def _saving(group: Group, costs: CostModel, in_macs: bool) -> float:
    """The share of the whole cost that goes with one channel."""
    whole, less = costs.after({}), costs.after({group.name: np.arange(group.size) > 0})
    saved = (
        (whole.macs - less.macs) / whole.macs if in_macs else (whole.parameters - less.parameters) / whole.parameters
    )
    return max(saved, 1e-12)
