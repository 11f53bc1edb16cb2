"""Measure, without training, how much each group of channels matters."""

from __future__ import annotations

import dataclasses
import html
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from bigmodel.config import Where
from bigmodel.data import Data, Split, as_data
from bigmodel.errors import ArgumentError
from bigmodel.evaluation import Metric, evaluate_model, primary_metric
from bigmodel.pruning.channels.groups import Group, Member, find_channels
from bigmodel.pruning.channels.ranking import Criterion, score_channels
from bigmodel.pruning.channels.selection import choose_channels
from bigmodel.pruning.channels.sensitivity_cache import (
    VERSION,
    Cache,
    fingerprint,
    model_fingerprint,
    split_fingerprint,
)
from bigmodel.report.facets import Panel, facets
from bigmodel.report.figures import metric_text, share_text
from bigmodel.report.style import STYLE
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

        The dict can be given to `choose_channels` and to `PruneConfig` as `sparsity`. Each group was measured alone:
        together they cost more.

        Args:
            max_drop: As in `Target`: absolute where higher is better, the relative rise of a loss or an error.

        Example:
            >>> measured = Sensitivity("accuracy", 0.9, True, (0.25, 0.5), {"a": (0.89, 0.6), "b": (0.9, 0.9)})
            >>> measured.largest_shares(0.02)
            {'a': 0.25, 'b': 0.5}
        """
        metric = Metric(self.metric, self.higher_is_better)
        result = {}
        for name, values in self.values.items():
            held = 0.0
            for share, value in zip(self.shares, values, strict=True):
                if metric.drop(self.baseline, value) > max_drop:
                    break
                held = share
            result[name] = held
        return result

    def to_dict(self) -> dict[str, Any]:
        """Returns the measurement as a JSON-ready dict with its version."""
        values = {name: list(row) for name, row in self.values.items()}
        return {"version": VERSION, **dataclasses.asdict(self), "shares": list(self.shares), "values": values}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Sensitivity:
        """Makes the measurement from `to_dict`'s result. The mapping is not changed.

        Raises:
            ArgumentError: It is not one, or a newer version of the library wrote it.
        """
        fields = {field.name for field in dataclasses.fields(cls)}
        if set(values) != {"version", *fields} or values["version"] > VERSION:
            raise ArgumentError(
                "This is not a Sensitivity that this version can read.",
                received=f"version {values.get('version')} with {sorted(values)}",
                expected=f"version <= {VERSION} with {sorted(fields)}",
                fix="Read it with the version of bigmodel that wrote it.",
            )
        made = {name: values[name] for name in fields}
        made["values"] = {name: tuple(row) for name, row in values["values"].items()}
        return cls(**{**made, "shares": tuple(values["shares"])})

    def __str__(self) -> str:
        """One row for each group, the most sensitive first."""
        width = max(len("removed"), *map(len, self.values)) if self.values else len("removed")
        head = f"{'removed':{width}}" + "".join(f"{share:>9.0%}" for share in self.shares)
        rows = [f"{n:{width}}" + "".join(f"{value:9.4f}" for value in self.values[n]) for n in self._order()]
        return "\n".join([self._headline(), head, *rows])

    def to_svg(self) -> str:
        """Returns the plot: the metric against the share for each group, the most sensitive first."""
        return facets(
            [Panel(name, self.values[name]) for name in self._order()],
            self.shares,
            self.baseline,
            label=f"{self.metric} against the share of channels removed, for every group",
            value_text=metric_text,
            share_text=share_text,
        )

    def plot(self, path: str | os.PathLike[str]) -> Path:
        """Writes the plot as an SVG file, and returns its path."""
        path = Path(path)
        path.write_text(self.to_svg(), encoding="utf-8")
        return path

    def to_html(self) -> str:
        """Returns plot and table as one page that loads nothing from elsewhere."""
        title = f"Sensitivity: {self._headline()}"
        return (
            '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
            f"<title>{html.escape(title)}</title><style>body{{margin:0}}{STYLE}</style></head>"
            f'<body class="bm"><main><h1>{html.escape(title)}</h1>{self._body()}</main></body></html>\n'
        )

    def _repr_html_(self) -> str:
        """Plot and table for a notebook's cell."""
        head = f"<h2>{html.escape(self._headline())}</h2>"
        return f'<style>{STYLE}</style><div class="bm bm-notebook"><main>{head}{self._body()}</main></div>'

    def _headline(self) -> str:
        return f"{self.metric} {metric_text(self.baseline)} with all channels"

    def _order(self) -> list[str]:
        metric = Metric(self.metric, self.higher_is_better)
        losses = {name: sum(metric.drop(self.baseline, value) for value in row) for name, row in self.values.items()}
        return sorted(losses, key=lambda name: -losses[name])

    def _body(self) -> str:
        head = "".join(f'<th class="num">{share_text(share)}</th>' for share in self.shares)
        rows = []
        for name in self._order():
            cells = "".join(f'<td class="num">{metric_text(value)}</td>' for value in self.values[name])
            rows.append(f'<tr><td class="name">{html.escape(name)}</td>{cells}</tr>')
        return (
            f"<section><header><h2>{html.escape(self.metric)} against the share of channels removed</h2>"
            f"<p>one group at a time, nothing trained; dashed: all channels</p></header>{self.to_svg()}</section>"
            f'<section><div class="scroll"><table><tr><th>group</th>{head}</tr>{"".join(rows)}</table></div></section>'
        )


def sensitivity(
    model: keras.Model,
    data: Data | Any,
    *,
    shares: Sequence[float] = (0.25, 0.5, 0.75),
    criterion: Criterion = "l2",
    where: Where | None = None,
    samples: int = 1000,
    seed: int = 0,
    cache: str | os.PathLike[str] | None = None,
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
        cache: A JSON file for what was measured, group by group: a call that was cut off goes on where it was, the
            same call again measures nothing. With another model, other samples, shares or criterion the file is
            replaced. `None`: no file.

    Returns:
        The metric for each group and share; print it, `plot(path)` it, or prune with its `largest_shares(max_drop)`.

    Raises:
        ModelError: The model has no graph of layers.
        DataError: The data does not fit the model.
        ArgumentError: A share is out of range, or the cache's path is that of another kind of file.

    Source:
        H. Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017, section 3.2.

    Example:
        `shares = sensitivity(model, data, cache="sensitivity.json").largest_shares(max_drop=0.01)`
    """
    shares = _checked(shares)
    model, _ = ensure_compiled(model, data)
    data = as_data(data, model=model, seed=seed)
    split = (data.validation or data.train).sample(samples, seed=seed)
    channels = find_channels(model, where=where)
    scores = score_channels(model, channels, criterion, data=data.calibration, seed=seed)
    known = Cache(cache, _identity(model, split, shares, _ranked(criterion, scores, data, seed)))
    probe = _Probe(model, split)
    baseline = known.recall("") or known.write("", (probe.metric(),))
    measured = {}
    for group in channels.groups:
        values = known.recall(f"group {group.name}")
        if values is None:
            kept = [choose_channels(channels, scores, {group.name: share}).get(group.name) for share in shares]
            values = known.write(f"group {group.name}", tuple(probe.metric(group, keep) for keep in kept))
        measured[group.name] = values
    metric = primary_metric(model)
    return Sensitivity(metric.name, baseline[0], metric.higher_is_better, shares, measured)


def _checked(shares: Sequence[float]) -> tuple[float, ...]:
    shares = tuple(float(share) for share in shares)
    if not shares or not all(0 < share < 1 for share in shares) or list(shares) != sorted(set(shares)):
        raise ArgumentError(
            "These shares can't be measured.",
            received=f"shares={shares}",
            expected="at least one number between 0 and 1, in rising order",
            fix="Pass shares=(0.25, 0.5, 0.75).",
        )
    return shares


def _identity(model: keras.Model, split: Split, shares: Sequence[float], ranked: Mapping[str, Any]) -> dict[str, Any]:
    """What values depend on. Not on `where`: a group's are the same, whichever others are measured."""
    samples = split_fingerprint(split)
    return {"model": model_fingerprint(model), "samples": samples, "shares": list(shares), "ranked": dict(ranked)}


def _ranked(criterion: Criterion, scores: Mapping[str, np.ndarray], data: Data, seed: int) -> dict[str, Any]:
    """What a ranking depends on. A function is known by its scores, for under its name it may give others tomorrow."""
    if callable(criterion):
        return {"scores": fingerprint(*(part for item in scores.items() for part in item))}
    if criterion == "taylor" and data.calibration is not None:
        return {"criterion": criterion, "samples": split_fingerprint(data.calibration)}
    return {"criterion": criterion, "seed": seed if criterion == "random" else None}


class _Probe:
    """A copy of a model, in which channels are made unreadable for a while."""

    def __init__(self, model: keras.Model, split: Split) -> None:
        self.model, self.split, self.copy = model, split, clone(model)
        self.twins = {id(own): twin for own, twin in zip(model.variables, self.copy.variables, strict=True)}

    def metric(self, group: Group | None = None, keep: np.ndarray | None = None) -> float:
        """The metric without the channels of a group that go; with all of them where none goes."""
        changed = [] if group is None or keep is None else _hide(group, keep, self.twins)
        value = evaluate_model(self.copy, self.split, like=self.model).metric
        for variable, former in changed:
            variable.assign(former)
        return value


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
