"""Early stopping that never gives back something worse than it got."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

import keras
import numpy as np

from bigmodel.errors import ModelError
from bigmodel.evaluation.metric import Metric

_MOST_CHANCE: Final = 0.005
"""A metric that is lower by more than this is never taken for as good, however few samples it was measured on."""


class BestWeights(keras.callbacks.Callback):
    """Keeps the weights of the best epoch, stops when there is no better one, and puts them back at the end.

    Epochs of equal metric are ranked by their loss. The start counts as an epoch if `start` is given, and stands only
    where it is better beyond chance: an epoch of lower loss takes its place if its accuracy is lower by less than one
    standard error. The start's own accuracy is often one that was chosen, as the best of many on the same samples.

    Args:
        metric: What decides, measured on the validation split.
        patience: Epochs without a better one after which training stops.
        is_comparable: Says at the end of an epoch whether it may compete; epochs before do not count for `patience`.
        samples: Size of the validation split, where it is known.
        start: What `evaluate` returned before training, where the model as it came competes too.

    Source:
        The one-standard-error rule of Breiman, Friedman, Olshen and Stone, "Classification and Regression Trees",
        1984, section 3.4.3.
    """

    def __init__(
        self,
        metric: Metric,
        *,
        patience: int,
        is_comparable: Callable[[], bool],
        samples: int | None = None,
        start: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        self.metric, self.patience, self.is_comparable = metric, patience, is_comparable
        self.samples, self.start = samples, start
        self.rank: tuple[float, float] | None = None
        self.epoch: int | None = None
        self.waited = 0
        self.weights: list[np.ndarray] | None = None

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        if self.start is not None and self.weights is None:
            self._keep(0, self._rank(self.start, ""))

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if not self.is_comparable():
            return
        rank = self._rank(logs or {}, "val_")
        if self.rank is None or rank > self.rank or (self.epoch == 0 and self._is_as_good_as_start(rank)):
            self._keep(epoch + 1, rank)
            return
        self.waited += 1
        if self.waited >= self.patience:
            self.model.stop_training = True

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        if self.weights is not None:
            self.model.set_weights(self.weights)

    def get_state(self) -> dict[str, Any]:
        """What a checkpoint has to hold, next to `weights`."""
        return {"rank": self.rank, "epoch": self.epoch, "waited": self.waited}

    def set_state(self, state: dict[str, Any], weights: list[np.ndarray] | None) -> None:
        """Goes on where `get_state` was called."""
        self.rank = None if state["rank"] is None else (float(state["rank"][0]), float(state["rank"][1]))
        self.epoch, self.waited, self.weights = state["epoch"], state["waited"], weights

    def _keep(self, epoch: int, rank: tuple[float, float]) -> None:
        self.epoch, self.rank, self.waited = epoch, rank, 0
        self.weights = self.model.get_weights()

    def _is_as_good_as_start(self, rank: tuple[float, float]) -> bool:
        if self.rank is None or self.samples is None:
            return False
        (value, loss), (before, loss_before) = rank, self.rank
        chance = min(self.metric.standard_error(before, self.samples), _MOST_CHANCE)
        return loss > loss_before and before - value < chance

    def _rank(self, logs: Mapping[str, float], prefix: str) -> tuple[float, float]:
        value = logs[_key(self.metric.name, logs, prefix)]
        signed = float(value) if self.metric.higher_is_better else -float(value)
        loss = -float(logs.get(prefix + "loss", 0.0))
        return (-math.inf if math.isnan(signed) else signed, -math.inf if math.isnan(loss) else loss)


def _key(name: str, logs: Mapping[str, float], prefix: str) -> str:
    # Keras puts the output's name in front where there are several.
    for key in (prefix + name, *logs):
        if key in logs and key.startswith(prefix) and (key == prefix + name or key.endswith("_" + name)):
            return key
    raise ModelError(
        "The metric that decides was not measured on the validation split.",
        received=", ".join(logs) or "no measures",
        expected=prefix + name,
        fix="Compile the model with the metric's name or a keras.metrics.Metric object.",
    )
