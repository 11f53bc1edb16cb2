"""What is searched, by which tuner, for how long, and what makes a trial good."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal

from bigmodel.config.base import Config

Tuner = Literal["bayesian", "random", "grid", "hyperband"]
Space = Literal["training", "compression", "joint"] | Callable[[Any], Any]

TUNERS = ("bayesian", "random", "grid", "hyperband")
SPACES = ("training", "compression", "joint")


@dataclasses.dataclass(frozen=True)
class TuneConfig(Config):
    """What is searched, by which tuner, for how long, and what makes a trial good.

    Args:
        max_trials: Most trials. Hyperband makes as many as its brackets ask for, within this bound.
        tuner: "bayesian" (a Gaussian process guesses where to look), "random", "grid" (every combination), or
            "hyperband" (many short trainings, of which the best go on; Li et al., 2018).
        max_seconds: Seconds after which no trial starts and the running one ends its training; `None`: no limit.
        objective: "auto": the smallest file (the fastest with `Target(optimize="latency")`) within the target's
            bounds; "size", "latency" or "macs": the least of that within the bounds; or the name of a Keras metric or
            loss on validation data, such as "accuracy", "AUC", "mse" or "loss", without any bound.
        direction: "min" or "max" for a metric whose name Keras does not know; `None`: Keras tells.
        space: "training", "compression" or "joint"; or a function `hp -> dict` of values that
            `bigmodel.tuning.VALUES` names. `None`: compression of a trained model; with `build`, what it declares.
        build: A function `hp -> keras.Model`, compiled, or a `keras_tuner.HyperModel`: each trial trains a model of its
            own. `None`: trials start from the given model with its weights.
        parallel_trials: Trials at a time, each in a process of its own, without the GPU.
        holdout: Share of the validation split that takes no part in the search; the winner has to keep the bounds on
            it.
        tensorboard: Directory for TensorBoard's HParams dashboard; `None`: none is written.

    Raises:
        ArgumentError: A value is out of range, or the combination makes no sense.

    Example:
        >>> TuneConfig(20, tuner="random").to_dict()["max_trials"]
        20
    """

    max_trials: int = 20
    tuner: Tuner = "bayesian"
    max_seconds: float | None = None
    objective: str = "auto"
    direction: Literal["min", "max"] | None = None
    space: Space | None = None
    build: Any = None
    parallel_trials: int = 1
    holdout: float = 0.3
    tensorboard: str | None = None

    def __post_init__(self) -> None:
        self._check_number("max_trials", 1, math.inf, whole=True)
        self._check_choice("tuner", TUNERS)
        self._check_number("max_seconds", 1e-9, math.inf, optional=True)
        self._check(isinstance(self.objective, str) and bool(self.objective), "objective", "a name such as 'size'")
        self._check_choice("direction", (None, "min", "max"))
        is_bounded = self.objective in ("auto", "size", "latency", "macs")
        fits = not (is_bounded and self.direction == "max")
        self._check(fits, "direction", f"'min' or None with objective={self.objective!r}, which is to be small")
        known = self.space is None or callable(self.space) or self.space in SPACES
        self._check(known, "space", "a function of hp, or one of " + ", ".join(map(repr, SPACES)))
        is_model = self.build is None or callable(self.build) or callable(getattr(self.build, "build", None))
        self._check(is_model, "build", "a function hp -> model, a HyperModel, or None")
        self._check_number("parallel_trials", 1, math.inf, whole=True)
        self._check_number("holdout", 0, 0.9)
        self._check(
            self.tensorboard is None or isinstance(self.tensorboard, str), "tensorboard", "a directory, or None"
        )
