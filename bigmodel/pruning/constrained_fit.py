"""The life of constraints in somebody else's `model.fit`: when they come, act a last time, and go."""

from __future__ import annotations

import abc
import copy
from collections.abc import Callable
from typing import Any

import keras

from bigmodel.pruning.constraints import Held


class ConstrainedFit(keras.callbacks.Callback):
    """Holds constraints on a model's variables from the start of a fit until every other callback is done with them."""

    def __init__(self) -> None:
        super().__init__()
        self._held: Any = None
        self._comes_last = self._ended = False

    @abc.abstractmethod
    def _hold(self) -> Held:
        """What holds which variables of `self.model`, made at the start of a fit."""

    def _finish(self) -> None:
        self._held.apply()

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._release()
        self._ended = False
        history = getattr(self.model, "history", None)
        # All callbacks of one fit share one dict of parameters; a History with another is a former fit's.
        self._comes_last = isinstance(history, keras.callbacks.History) and history.params is self.params
        if self._comes_last:
            # Keras puts its History behind the callbacks of the user: the one place from which we come after an
            # EarlyStopping that restores weights, wherever it stands in the list.
            _call_at_train_end(history, self._end)
        if self.model.built:
            self._begin()

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        if self._held is None and self.model.built:  # A model that was built by its first step.
            self._begin()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        if self._held is None:
            self._begin()
        self._finish()
        self._end()

    def _begin(self) -> None:
        self._held = self._hold()

    def _end(self) -> None:
        # The later of two: our own turn, and that of Keras' History (a History of the caller's may stand before us).
        if self._comes_last and not self._ended:
            self._ended = True
        elif self._held is not None:
            self._finish()
            self._release()

    def _release(self) -> None:
        if self._held is not None:
            self._held.release()
            self._held = None

    def __deepcopy__(self, memo: dict[int, Any]) -> ConstrainedFit:
        # Tuners copy callbacks. A copy takes the settings, not the model or what is held in a fit that is under way.
        clone = copy.copy(self)
        clone._model, clone.params, clone._held = None, None, None
        return clone


def _call_at_train_end(history: keras.callbacks.History, action: Callable[[], None]) -> None:
    ours = vars(history).get("on_train_end")
    before = history.on_train_end

    def on_train_end(logs: dict[str, Any] | None = None) -> None:
        if ours is None:
            del history.on_train_end
        else:
            history.on_train_end = ours
        before(logs)
        action()

    history.on_train_end = on_train_end
