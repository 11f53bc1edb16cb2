"""What makes a trial good, as one number in stated units."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

import keras
import numpy as np

from bigmodel.config import Target, TuneConfig
from bigmodel.errors import ArgumentError, describe
from bigmodel.evaluation import primary_metric
from bigmodel.evaluation.evaluation import Evaluation

# Quantities of a file, by the objective's name: where they stand in a trial's figures.
QUANTITIES = {"size": "size_bytes", "latency": "latency_ms", "macs": "macs"}
_BOUNDS_FROM = 2.0
SLOWER_ALLOWED = 1.1
"""How many times the float file's latency a file may take before "balanced" puts it behind; timings are noisy."""
# Figures are means over samples: what differs by less than this is equal.
_ROUNDING = 1e-9


@dataclasses.dataclass(frozen=True)
class Objective:
    """What makes a trial good: `score` turns its figures into one number.

    With a quantity of the file ("size", "latency", "macs") the score is to be small, and says

    - below 2: the file keeps every bound. Its quantity is `r` times the float file's; the score is `r` itself up to 1,
      and `2 - 1/r` beyond, which goes on at the same slope and never reaches 2.
    - 2 and more: a bound is broken by `v`; the score is `2 + v / (1 + v)`. `v` adds up how far the metric falls below
      what is allowed (in the units of `Target.max_drop`) and by which share size and latency exceed their bounds.
    - 3: there is no file.

    So every trial within the bounds beats every one that breaks them, less is better among the first, and closer is
    better among the others. With a metric the score is that metric, and there is no bound.

    Args:
        name: "size", "latency", "macs", or a metric's.
        direction: Whether the score is to be small ("min") or large ("max").
        target: The bounds.

    Example:
        >>> size = Objective("size", "min", Target(max_drop=0.01))
        >>> size.score({"size_bytes": 250, "metric_drop": 0.002}, {"size_bytes": 1000})
        0.25
        >>> size.score({"size_bytes": 100, "metric_drop": 1.01}, {"size_bytes": 1000})
        2.5
    """

    name: str
    direction: Literal["min", "max"]
    target: Target

    @property
    def is_bounded(self) -> bool:
        """Whether the target's bounds count."""
        return self.name in QUANTITIES

    @property
    def worst(self) -> float:
        """The score of a trial that came to nothing."""
        return 3.0 if self.is_bounded else math.inf if self.direction == "min" else -math.inf

    def score(self, figures: Mapping[str, Any], baseline: Mapping[str, Any]) -> float:
        """Returns the score of a trial.

        Args:
            figures: Its figures; what could not be measured is missing.
            baseline: Those of the float file of the model that the search started from.
        """
        if not self.is_bounded:
            value = figures.get("objective")
            return self.worst if value is None or math.isnan(value) else float(value)
        violation = self.violation(figures)
        key = QUANTITIES[self.name]
        if violation > _ROUNDING:
            return _BOUNDS_FROM + (1.0 if math.isinf(violation) else violation / (1 + violation))
        if figures.get(key) is None:
            return self.worst
        ratio = figures[key] / baseline[key] if baseline.get(key) else float(figures[key])
        return float(ratio if ratio <= 1 else _BOUNDS_FROM - 1 / ratio)

    def violation(self, figures: Mapping[str, Any]) -> float:
        """Returns how far the bounds are broken, all added up; 0 within them."""
        drop = figures.get("metric_drop", math.inf)
        parts = [drop - self.target.max_drop if not math.isnan(drop) else math.inf]
        for key, bound in (("size_bytes", self.target.size), ("latency_ms", self.target.latency_ms)):
            if bound is not None and figures.get(key) is not None:
                parts.append(figures[key] / float(bound) - 1)
        if self.name == "size" and self.target.optimize == "balanced":
            parts.append(figures.get("slowdown", 0.0) / SLOWER_ALLOWED - 1)
        return sum(max(part, 0.0) for part in parts)

    def is_within(self, score: float | None) -> bool:
        """Says whether a score is that of a trial that may win."""
        if score is None:
            return False
        return score < _BOUNDS_FROM if self.is_bounded else math.isfinite(score)

    def is_better(self, score: float, other: float) -> bool:
        """Says whether a score beats another."""
        return score < other if self.direction == "min" else score > other


def objective_of(config: TuneConfig, target: Target, model: keras.Model) -> Objective:
    """Returns the objective that a config asks for.

    "auto" is a quantity of the file where trials compress a trained model; where they only train, it is the metric
    that the model was compiled with.

    Args:
        config: Its `objective`, `direction`, `space` and `build` count.
        target: The bounds; with "auto" also what is to be small.
        model: A compiled model.

    Raises:
        ArgumentError: Keras knows no metric or loss of that name.

    Example:
        >>> objective_of(TuneConfig(objective="AUC"), Target(), keras.Sequential()).direction
        'max'
    """
    name = config.objective
    only_trains = config.space == "training" or (config.build is not None and config.space is None)
    if name == "auto" and only_trains:
        metric = primary_metric(model)
        return Objective(metric.name, "max" if metric.higher_is_better else "min", target)
    if name == "auto":
        name = "latency" if target.optimize == "latency" else "size"
    if name in QUANTITIES:
        return Objective(name, "min", target)
    name = name.removeprefix("val_")
    return Objective(name, config.direction or _direction(name), target)


def _direction(name: str) -> Literal["min", "max"]:
    if name == "loss":
        return "min"
    try:
        known: Any = getattr(_metric(name), "_direction", None)
    except (ValueError, TypeError):
        known = None
    if known in ("up", "down"):
        return "max" if known == "up" else "min"
    raise ArgumentError(
        "The objective is not known.",
        received=f"objective={describe(name)}",
        expected="'size', 'latency', 'macs', 'loss', or the name of a metric or loss of Keras",
        fix="Pass direction='min' or 'max' for a metric of your own that the model was compiled with.",
    )


def metric_value(name: str, evaluation: Evaluation) -> float:
    """Returns a metric of predictions by its name.

    Args:
        name: A metric that the model was compiled with, "loss", or any metric or loss of Keras. One that compares
            values position by position, such as AUC, takes whole-number labels as one-hot rows.
        evaluation: The predictions and their labels.

    Raises:
        ArgumentError: There is no such metric.
    """
    for key in (name, name.lower()):
        if key in evaluation.metrics:
            return evaluation.metrics[key]
    try:
        metric = _metric(name)
    except (ValueError, TypeError) as error:
        raise ArgumentError(
            "The objective was not measured.",
            received=f"objective={describe(name)}",
            expected="one of " + ", ".join(sorted(evaluation.metrics)) + ", or the name of a metric of Keras",
            fix="Compile the model with the metric.",
        ) from error
    outputs, labels = np.asarray(evaluation.outputs), np.asarray(evaluation.labels)
    is_sparse = outputs.ndim > 1 and outputs.shape[-1] > 1 and labels.size * outputs.shape[-1] == outputs.size
    if is_sparse and not name.lower().startswith("sparse"):
        labels = np.eye(outputs.shape[-1], dtype="float32")[labels.reshape(outputs.shape[:-1]).astype(int)]
    metric.update_state(labels.reshape(outputs.shape) if labels.size == outputs.size else labels, outputs)
    return float(metric.result())


def _metric(name: str) -> keras.metrics.Metric:
    found = keras.metrics.get(name)
    if isinstance(found, type):
        found = found()
    return found if isinstance(found, keras.metrics.Metric) else keras.metrics.MeanMetricWrapper(found, name=name)
