"""Measure, without training, how much each group of channels matters."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from bigmodel.config import Where
from bigmodel.data import Data, as_data
from bigmodel.evaluation import evaluate_model, primary_metric
from bigmodel.pruning.channels.groups import Group, Member, find_channels
from bigmodel.pruning.channels.ranking import Criterion, score_channels
from bigmodel.pruning.channels.selection import choose_channels
from bigmodel.training import clone, ensure_compiled


@dataclasses.dataclass(frozen=True)
class Sensitivity:
    """The metric against the share of channels removed from one group at a time.

    Args:
        metric: Name of the metric.
        baseline: Its value for the whole model, on the same samples.
        higher_is_better: Which way it points.
        shares: Shares of a group's channels that were removed.
        values: For each group, by its name: the metric at each share.
    """

    metric: str
    baseline: float
    higher_is_better: bool
    shares: tuple[float, ...]
    values: dict[str, tuple[float, ...]]

    def largest_shares(self, max_drop: float) -> dict[str, float]:
        """Returns for each group the largest measured share that costs at most `max_drop` of the metric.

        The dict can be given to `choose_channels` as its `sparsity`.

        Args:
            max_drop: In the metric's own units.

        Example:
            >>> measured = Sensitivity("accuracy", 0.9, True, (0.25, 0.5), {"a": (0.89, 0.6), "b": (0.9, 0.9)})
            >>> measured.largest_shares(0.02)
            {'a': 0.25, 'b': 0.5}
        """
        sign = 1.0 if self.higher_is_better else -1.0
        result = {}
        for name, values in self.values.items():
            held = 0.0
            for share, value in zip(self.shares, values, strict=True):
                if sign * (self.baseline - value) > max_drop:
                    break
                held = share
            result[name] = held
        return result

    def __str__(self) -> str:
        """One row for each group, the most sensitive first."""
        width = max(len("removed"), *map(len, self.values)) if self.values else len("removed")
        head = f"{'removed':{width}}" + "".join(f"{share:>9.0%}" for share in self.shares)
        sign = 1.0 if self.higher_is_better else -1.0
        order = sorted(self.values, key=lambda name: sign * sum(self.values[name]))
        rows = [f"{name:{width}}" + "".join(f"{value:9.4f}" for value in self.values[name]) for name in order]
        return "\n".join([f"{self.metric} {self.baseline:.4f} with all channels", head, *rows])


def sensitivity(
    model: keras.Model,
    data: Data | Any,
    *,
    shares: Sequence[float] = (0.25, 0.5, 0.75),
    criterion: Criterion = "l2",
    where: Where | None = None,
    samples: int = 1000,
    seed: int = 0,
) -> Sensitivity:
    """Measures the metric with a share of one group's channels gone, for every group. Nothing is trained or changed.

    Channels are made unreadable in a copy of the model, which gives what their removal would give.

    Args:
        model: A functional model, or a built Sequential one.
        data: Data in any form that `as_data` takes; the validation split counts.
        shares: Shares of a group's channels, as fractions in 0..1, in rising order.
        criterion: Which channels go first; see `score_channels`.
        where: Which layers may lose channels.
        samples: Most samples of the validation split to measure on.
        seed: Picks the samples.

    Raises:
        ModelError: The model has no graph of layers.
        DataError: The data does not fit the model.

    Source:
        H. Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017, section 3.2.
    """
    model, _ = ensure_compiled(model, data)
    data = as_data(data, model=model, seed=seed)
    channels = find_channels(model, where=where)
    scores = score_channels(model, channels, criterion, data=data.calibration, seed=seed)
    split = data.validation.sample(samples, seed=seed)
    probe = clone(model)
    twins = {id(own): twin for own, twin in zip(model.variables, probe.variables, strict=True)}
    measured = {}
    for group in channels.groups:
        values = []
        for share in shares:
            keep = choose_channels(channels, scores, {group.name: share}).get(group.name)
            changed = [] if keep is None else _hide(group, keep, twins)
            values.append(evaluate_model(probe, split, like=model).metric)
            for variable, value in changed:
                variable.assign(value)
        measured[group.name] = tuple(values)
    metric = primary_metric(model)
    baseline = evaluate_model(probe, split, like=model).metric
    return Sensitivity(metric.name, baseline, metric.higher_is_better, tuple(shares), measured)


def _hide(group: Group, keep: np.ndarray, twins: dict[int, keras.Variable]) -> list[tuple[keras.Variable, np.ndarray]]:
    """Zeroes what reads the channels that go; returns the variables with their former values."""
    former: dict[int, tuple[keras.Variable, np.ndarray]] = {}
    for member in _hidden_at(group):
        variable = twins[id(member.variable)]
        value = np.array(keras.ops.convert_to_numpy(variable))
        former.setdefault(id(variable), (variable, value.copy()))
        gone = (member.channels >= 0) & ~keep[member.channels]
        np.moveaxis(value, member.axis, 0)[gone] = 0.0
        variable.assign(value)
    return list(former.values())


def _hidden_at(group: Group) -> list[Member]:
    """Where a zero takes a channel out: at its readers; where it is made, if no kernel reads it (queries and keys)."""
    products = (keras.layers.MultiHeadAttention, keras.layers.GroupQueryAttention)
    found = [m for m in group.members if m.role == "reads" or isinstance(m.operation, products)]
    return found or [member for member in group.members if member.role == "makes"]
