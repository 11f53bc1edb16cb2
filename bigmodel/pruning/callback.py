"""Keras callbacks that prune, or keep what was pruned, in anybody's own `model.fit`."""

from __future__ import annotations

import abc
import copy
import math
from collections.abc import Callable
from typing import Any, Final, final

import keras
import numpy as np

from bigmodel.config import Where
from bigmodel.errors import ArgumentError, ModelError, describe
from bigmodel.pruning import schedules
from bigmodel.pruning.constraints import Masks
from bigmodel.pruning.layers import prunable
from bigmodel.pruning.masks import magnitude_mask, sparsity_of, zero_count

_RAMP: Final = 1 / 2
"""Share of a fit in which the default schedule prunes; the rest is for the network to recover. With two thirds the loss
ends higher: 0.422 for 0.417 on Fashion-MNIST, 0.549 for 0.512 on digits, both at 80 % and falling learning rates."""
_LEAST_UPDATES: Final = 10
"""A schedule has at least so many updates of the masks, also when a fit is shorter than `frequency` allows."""


class _MaskedFit(keras.callbacks.Callback):
    """Holds masks on a model from the start of a fit until every other callback is done with it."""

    def __init__(self) -> None:
        super().__init__()
        self._masks: Masks | None = None
        self._comes_last = self._ended = False

    @abc.abstractmethod
    def _variables(self) -> list[keras.Variable]:
        """Which variables of `self.model` are masked."""

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
        if self._masks is None and self.model.built:  # A model that was built by its first step.
            self._begin()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        if self._masks is None:
            self._begin()
        self._finish()
        self._end()

    @property
    def _held(self) -> Masks:
        assert self._masks is not None
        return self._masks

    def _begin(self) -> None:
        self._masks = Masks(self.model, self._variables(), fit=self.params)

    def _end(self) -> None:
        # The later of two: our own turn, and that of Keras' History (a History of the caller's may stand before us).
        if self._comes_last and not self._ended:
            self._ended = True
        elif self._masks is not None:
            self._finish()
            self._release()

    def _release(self) -> None:
        if self._masks is not None:
            self._masks.release()
            self._masks = None

    def __deepcopy__(self, memo: dict[int, Any]) -> _MaskedFit:
        # Tuners copy callbacks. A copy takes the settings, not the model or the masks of a fit that is under way.
        clone = copy.copy(self)
        clone._model, clone.params, clone._masks = None, None, None
        return clone


@final
class MagnitudePruning(_MaskedFit):
    """Prunes a model while it trains: the smallest weights of each layer become zero, more of them as `fit` goes on.

    Nothing has to be stripped afterwards: when `fit` has returned, the kernels hold exact zeros and the model is as it
    was otherwise, its own constraints included. The masks act inside the compiled training step, and work with
    `jit_compile`, `steps_per_execution`, gradient accumulation, weight averaging, mixed precision and `tf.distribute`.
    An `EarlyStopping(restore_best_weights=True)` may stand anywhere in the list; give it a `start_from_epoch` behind
    the end of the schedule, or it compares epochs of unlike sparsity.

    A kernel that holds zeros already starts from there, and a weight that is zero stays zero. If `fit` raises, the
    masks stay until the next `fit` with a callback of this kind.

    Args:
        sparsity: Share of each kernel's weights that end as zero, as a fraction in 0..1.
        schedule: "polynomial" (the cubic rise of Zhu and Gupta, 2017), "constant" (all at `begin_step`), or a function
            `step -> progress` with progress in 0..1 as in `bigmodel.pruning.schedules`.
        where: Which layers, as a function `layer -> bool`; `None`: all layers with a kernel, except depthwise ones.
        begin_step: Training step, counted from the start of `fit`, at which pruning begins.
        end_step: Step at which a polynomial schedule reaches `sparsity`; `None`: after half of `fit`'s steps.
        frequency: Most steps between two updates of the masks; fewer where the schedule would have less than ten.
        frozen: Whether kernels that are not trainable are pruned too; they can't recover. By default `fit` leaves them
            as they are.

    Raises:
        ArgumentError: A value is out of range, or the schedule does not end within `fit`.
        ModelError: The model has no kernel to prune.

    Source:
        Zhu and Gupta, "To prune, or not to prune", 2017, https://arxiv.org/abs/1710.01878.

    Example:
        >>> import keras, numpy as np
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
        >>> model.compile("adam", "mse")
        >>> history = model.fit(np.ones((8, 8)), np.ones((8, 4)), verbose=0, callbacks=[MagnitudePruning(0.75)])
        >>> int(np.sum(model.layers[0].kernel.numpy() == 0))
        24
    """

    def __init__(
        self,
        sparsity: float,
        *,
        schedule: str | schedules.Schedule = "polynomial",
        where: Where | None = None,
        begin_step: int = 0,
        end_step: int | None = None,
        frequency: int = 100,
        frozen: bool = False,
    ) -> None:
        super().__init__()
        _check("sparsity", sparsity, 0 <= sparsity < 1, "a number from 0 to below 1")
        known = callable(schedule) or schedule in ("polynomial", "constant")
        _check("schedule", schedule, known, "'polynomial', 'constant' or a function of the step")
        _check("begin_step", begin_step, begin_step >= 0, "a number of steps of at least 0")
        _check("end_step", end_step, end_step is None or end_step >= begin_step, f"at least begin_step ({begin_step})")
        _check("frequency", frequency, frequency >= 1, "a number of steps of at least 1")
        if end_step is not None and schedule != "polynomial":
            _check("end_step", end_step, False, "None with a schedule that sets its own end")
        if begin_step and callable(schedule):
            _check("begin_step", begin_step, False, "0 with a schedule that sets its own begin")
        self.sparsity, self.schedule, self.where = sparsity, schedule, where
        self.begin_step, self.end_step, self.frequency = begin_step, end_step, frequency
        self.frozen = frozen
        self._restored: dict[str, Any] | None = None
        self._forget()

    def _forget(self) -> None:
        self._progress_at: schedules.Schedule | None = None
        self._progress = 0.0
        self._initial: list[float] = []
        self._total: int | None = None
        self._epoch_step = self._seen = self._updated = 0
        self._next: float = math.inf

    @property
    def settled(self) -> bool:
        """Whether the masks are at the full sparsity, so that epochs are comparable from here on."""
        return self._progress == 1.0

    def get_state(self) -> dict[str, Any]:
        """What a checkpoint has to hold, next to the weights, to go on at this point of the schedule."""
        return {"step": self._epoch_step, "total": self._total, "updated": self._updated, "initial": self._initial}

    def set_state(self, state: dict[str, Any]) -> None:
        """Makes the next `fit` go on where `get_state` was called."""
        self._restored = dict(state)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._forget()
        super().on_train_begin(logs)

    def _begin(self) -> None:
        super()._begin()
        shares = [sparsity_of(weights) for weights in self._held.values()]
        # An all-zero kernel was not pruned: it was initialised so.
        self._initial = [0.0 if share == 1 else min(share, self.sparsity) for share in shares]
        state, self._restored = self._restored, None
        if state is not None:
            self._epoch_step, self._total, self._initial = state["step"], state["total"], state["initial"]
        if any(self._initial):
            self._mask(0.0)
        if state is not None and self._total is not None:
            self._plan(self._total)
            self._update(state["updated"])

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if self._progress_at is None:
            steps, epochs = self.params.get("steps"), self.params["epochs"] - epoch
            if steps is not None:
                self._plan(steps * epochs)
            elif self._epoch_step:  # A stream of unknown length: the first epoch has told it.
                self._plan(self._epoch_step * (epochs + 1))
            elif self.end_step is not None or self.schedule != "polynomial":
                self._plan(None)
            elif epochs == 1:
                raise ArgumentError(
                    "The end of the pruning schedule is not known.",
                    received="data of unknown length, one epoch and no end_step",
                    expected="an end_step, or a fit whose number of steps is known",
                    fix="Pass end_step= to MagnitudePruning, or steps_per_epoch= to fit.",
                )

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        # Not on_train_batch_end: a callback that overrides it makes Keras wait for every step's logs.
        super().on_train_batch_begin(batch, logs)
        self._seen = batch + 1
        if self._epoch_step + batch >= self._next and self._masks is not None:
            self._update(self._epoch_step + batch)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        # With steps_per_execution the last call of an epoch names the first of its steps only.
        self._epoch_step += self.params.get("steps") or self._seen

    def _variables(self) -> list[keras.Variable]:
        variables = [kernel for _, kernel in prunable(self.model, self.where, frozen=self.frozen)]
        if not variables:
            raise ModelError(
                "The model has no kernel to prune.",
                received=f"{type(self.model).__name__} {self.model.name!r}"
                + (" with where=" + describe(self.where) if self.where else ""),
                expected="a trainable layer with a kernel, such as Dense or Conv2D",
                fix="Let `where` select a layer, or name the weights of your own layer in get_prunable_weights().",
            )
        return variables

    def _plan(self, total: int | None) -> None:
        self._total, self._every = total, self.frequency
        if callable(self.schedule):
            self._progress_at, self._end_step = self.schedule, total or math.inf
        elif self.schedule == "constant":
            self._progress_at, self._end_step = schedules.constant(self.begin_step), self.begin_step
        else:
            end = self.end_step if self.end_step is not None else math.ceil(_RAMP * (total or 0))
            self._progress_at, self._end_step = schedules.polynomial(self.begin_step, end), end
            self._every = min(self.frequency, max(1, (end - self.begin_step) // _LEAST_UPDATES))
        if not callable(self.schedule) and total is not None and not self.begin_step <= self._end_step <= total:
            raise ArgumentError(
                "The pruning schedule does not end within fit.",
                received=f"begin_step={self.begin_step}, end_step={self._end_step}, {total} steps of training",
                expected="begin_step <= end_step <= steps of training",
                fix="Pass a smaller end_step or begin_step, or train for more epochs.",
            )
        self._next = max(self.begin_step, self._epoch_step)

    def _update(self, step: int) -> None:
        assert self._progress_at is not None
        before, self._progress = self._progress, float(self._progress_at(step))
        if self._progress != before:
            self._mask(self._progress)
        self._updated = step
        due = step + self._every
        self._next = min(due, self._end_step) if step < self._end_step else due
        if self.settled and not callable(self.schedule):
            self._next = math.inf

    def _mask(self, progress: float) -> None:
        masks = self._held
        targets = [initial + (self.sparsity - initial) * progress for initial in self._initial]
        masks.assign([magnitude_mask(w, target) for w, target in zip(masks.values(), targets, strict=True)])

    def _finish(self) -> None:
        # Averaged or restored weights are not masked, and a fit may end before its schedule.
        self._mask(1.0)
        self._progress = 1.0

    def __deepcopy__(self, memo: dict[int, Any]) -> MagnitudePruning:
        clone = super().__deepcopy__(memo)
        assert isinstance(clone, MagnitudePruning)
        clone._forget()
        return clone


@final
class KeepZeros(_MaskedFit):
    """Keeps the zeros of a pruned model at zero during any `fit`.

    Acts on kernels that have some zeros, but not zeros alone, when training starts; all other weights train freely.

    Args:
        where: Which layers, as a function `layer -> bool`; `None`: all layers with a kernel.

    Example:
        >>> import keras, numpy as np
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
        >>> model.set_weights([np.array([[0.0], [1.0], [0.0], [2.0]]), np.zeros(1)])
        >>> model.compile("adam", "mse")
        >>> history = model.fit(np.ones((8, 4)), np.ones((8, 1)), verbose=0, callbacks=[KeepZeros()])
        >>> (model.layers[0].kernel.numpy() == 0).ravel()
        array([ True, False,  True, False])
    """

    def __init__(self, where: Where | None = None) -> None:
        super().__init__()
        self.where = where

    def _variables(self) -> list[keras.Variable]:
        kernels = prunable(self.model, self.where or _everywhere)
        return [kernel for _, kernel in kernels if 0 < sparsity_of(np.asarray(kernel)) < 1]

    def _begin(self) -> None:
        super()._begin()
        self._held.assign([weights != 0 for weights in self._held.values()])


def _everywhere(layer: keras.Layer) -> bool:
    return True


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


def _check(name: str, value: object, condition: bool, expected: str) -> None:
    if not condition:
        raise ArgumentError(
            f"MagnitudePruning's {name} can't be used.",
            received=f"{name}={describe(value)}",
            expected=expected,
            fix=f"Pass {name} as {expected}.",
        )


def missing_zeros(model: keras.Model, sparsity: float, where: Where | None = None) -> dict[str, int]:
    """Names the kernels with fewer exact zeros than `sparsity` asks for, and how many each lacks."""
    missing = {}
    for _, kernel in prunable(model, where, frozen=True):
        weights = np.asarray(kernel)
        lacking = zero_count(weights.size, sparsity) - int(np.count_nonzero(weights == 0))
        if lacking > 0:
            missing[kernel.path] = lacking
    return missing
