"""Which number counts, and how far it may fall."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any

import keras

from bigmodel.errors import ModelError

_UP = ("acc", "auc", "precision", "recall", "f1", "fbeta", "f_beta", "iou", "r2", "similarity", "correlation", "dice")


@dataclasses.dataclass(frozen=True)
class Metric:
    """The metric that decides.

    Args:
        name: Its name, without the output's name in front.
        higher_is_better: Whether it is to be maximised.
    """

    name: str
    higher_is_better: bool

    def drop(self, reference: float, value: float) -> float:
        """Returns how much worse `value` is than `reference`; negative where it is better.

        Absolute where higher is better (0.01 is one point of accuracy). Where lower is better, as for a loss or an
        error, the rise relative to the reference (0.01 is one per cent more).

        Example:
            >>> round(Metric("accuracy", True).drop(0.90, 0.89), 6), round(Metric("loss", False).drop(0.50, 0.55), 6)
            (0.01, 0.1)
        """
        if math.isnan(value) or math.isnan(reference):
            return math.inf
        if self.higher_is_better:
            return reference - value
        rise = value - reference
        if reference == 0:
            return math.copysign(math.inf, rise) if rise else 0.0
        return rise / abs(reference)

    def is_better(self, value: float, other: float) -> bool:
        """Returns whether `value` is strictly better than `other`."""
        return value > other if self.higher_is_better else value < other

    def standard_error(self, value: float, samples: int) -> float:
        """Returns how far chance alone moves `value`: the standard error of a share of so many samples.

        Zero where the metric isn't an accuracy: what one sample adds to others is not known.

        Example:
            >>> Metric("accuracy", True).standard_error(0.5, 2500), Metric("mae", False).standard_error(0.5, 2500)
            (0.01, 0.0)
        """
        if "acc" not in self.name.lower() or not 0 <= value <= 1:
            return 0.0
        return math.sqrt(value * (1 - value) / samples)


def primary_metric(model: keras.Model) -> Metric:
    """Returns the first metric the model was compiled with, else its loss. The model is not changed.

    Args:
        model: A compiled model.

    Raises:
        ModelError: The model is not compiled, or has neither metrics nor a loss.

    Example:
        >>> import keras
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        >>> model.compile(loss="mse", metrics=["mae"])
        >>> primary_metric(model)
        Metric(name='mae', higher_is_better=False)
    """
    compiled = compiled_with(model)
    for kind in ("metrics", "weighted_metrics"):
        leaves = [leaf for leaf in keras.tree.flatten(compiled.get(kind)) if leaf is not None]
        if leaves:
            return Metric(_name(leaves[0]), _higher_is_better(leaves[0]))
    if compiled.get("loss") is None:
        raise ModelError(
            "The model has neither a metric nor a loss.",
            received=f"model {model.name!r}, compiled without loss and metrics",
            expected="a model compiled with a loss",
            fix="Call model.compile(loss=..., metrics=[...]) first.",
        )
    return Metric("loss", False)


def compiled_with(model: keras.Model) -> dict[str, Any]:
    """Returns the arguments of the model's `compile`, as the caller passed them.

    Raises:
        ModelError: The model is not compiled.
    """
    # Keras' public get_compile_config() is serialised, and would lose functions that nobody registered.
    config = getattr(model, "_compile_config", None)
    if not model.compiled or config is None:
        raise ModelError(
            "The model is not compiled.",
            received=f"model {model.name!r}",
            expected="a model with a loss and metrics",
            fix="Call model.compile(optimizer=..., loss=..., metrics=[...]) first.",
        )
    return dict(config.config)


def _name(metric: Any) -> str:
    if isinstance(metric, str):
        return metric
    name = getattr(metric, "name", None)
    return name if isinstance(name, str) else keras_name(getattr(metric, "__name__", type(metric).__name__))


def keras_name(name: str) -> str:
    """Returns the name Keras gives to a metric function: snake case.

    >>> keras_name("MyError")
    'my_error'
    """
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", name))
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()


def _higher_is_better(metric: Any) -> bool:
    """Asks Keras where it knows; a metric of the caller's own goes by its name, as callbacks of Keras once did."""
    if isinstance(metric, str) and metric.lower() not in ("accuracy", "acc", "crossentropy", "ce"):
        metric = keras.metrics.get(metric)
    direction = getattr(metric, "_direction", None)
    if direction in ("up", "down"):
        return bool(direction == "up")
    return any(part in _name(metric).lower() for part in _UP)
