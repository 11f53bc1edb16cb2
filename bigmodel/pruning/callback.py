"""Keras callbacks that prune, or keep what was pruned, in anybody's own `model.fit`."""

from __future__ import annotations

import functools
import math
from typing import Any, Final, final

import keras
import numpy as np
from numpy.typing import NDArray

from bigmodel.config import Where
from bigmodel.errors import ArgumentError, ModelError, check_argument, describe, whole_from
from bigmodel.pruning import schedules
from bigmodel.pruning.constrained_fit import ConstrainedFit
from bigmodel.pruning.constraints import Masks
from bigmodel.pruning.layers import Kernel, check_where, input_axis, prunable
from bigmodel.pruning.masks import magnitude_mask, sparsity_of
from bigmodel.pruning.patterns import Pattern, Ranking

_RAMP: Final = 1 / 2
"""Share of a fit in which the default schedule prunes; the rest is for the network to recover. With two thirds the loss
ends higher: 0.422 for 0.417 on Fashion-MNIST, 0.549 for 0.512 on digits, both at 80 % and falling learning rates."""
_LEAST_UPDATES: Final = 10
"""A schedule has at least so many updates of the masks, also when a fit is shorter than `frequency` allows."""


class MagnitudePruning(ConstrainedFit):
    """Prunes a model while it trains: the smallest weights of each layer become zero, more of them as `fit` goes on.

    Nothing has to be stripped afterwards: when `fit` has returned, the kernels hold exact zeros and the model is as it
    was otherwise, its own constraints included. The masks act inside the compiled training step, and work with
    `jit_compile`, `steps_per_execution`, gradient accumulation, weight averaging, mixed precision and `tf.distribute`.
    An `EarlyStopping(restore_best_weights=True)` may stand anywhere in the list; give it a `start_from_epoch` behind
    the end of the schedule, or it compares epochs of unlike sparsity.

    A kernel that holds zeros already starts from there, and a weight that is zero stays zero. If `fit` raises, the
    masks stay until the next `fit` with a callback of this kind.

    A criterion of one's own overrides `score`, a pattern of one's own `mask`; a schedule is a function.

    Args:
        sparsity: Share of each kernel's weights (of its blocks) that end as zero, as a fraction in 0..1; of all
            kernels together with `ranking="global"`.
        granularity: "weight" (single weights), "block" (blocks of `block_shape`, by their mean), or n of m like "2:4":
            of every four consecutive inputs two stay, and `sparsity` is 0.5.
        ranking: "layer": each kernel on its own. "global": one ranking over all kernels, with scores made comparable
            as in LAMP (Lee et al., 2021) and a floor for each.
        block_shape: (inputs, outputs) of a block.
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
        granularity: str = "weight",
        ranking: Ranking = "layer",
        block_shape: tuple[int, int] = (1, 4),
        schedule: str | schedules.Schedule = "polynomial",
        where: Where | None = None,
        begin_step: int = 0,
        end_step: int | None = None,
        frequency: int = 100,
        frozen: bool = False,
    ) -> None:
        super().__init__()
        check = functools.partial(check_argument, "MagnitudePruning")
        known = ("polynomial", "constant")
        check("sparsity", sparsity, lambda share: 0 <= share < 1, "a number from 0 to below 1")
        check("schedule", schedule, lambda s: callable(s) or s in known, "'polynomial', 'constant' or a function")
        check_where("MagnitudePruning", where)
        check("begin_step", begin_step, whole_from(0), "a whole number of steps of at least 0")
        check("frequency", frequency, whole_from(1), "a whole number of steps of at least 1")
        if end_step is not None:
            check("end_step", end_step, whole_from(begin_step), f"None, or steps of at least begin_step ({begin_step})")
            check("end_step", end_step, lambda _: schedule == "polynomial", "None with a schedule that sets its end")
        if callable(schedule):
            check("begin_step", begin_step, lambda begin: begin == 0, "0 with a schedule that sets its own begin")
        self.sparsity, self.schedule, self.where = sparsity, schedule, where
        self.begin_step, self.end_step, self.frequency = begin_step, end_step, frequency
        self.frozen = frozen
        self.pattern = Pattern(granularity, ranking, block_shape)
        self.pattern.check_sparsity(sparsity)
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

    def score(self, weights: NDArray[Any], variable: keras.Variable) -> NDArray[Any]:
        """Says how much each weight matters: the lowest scores become zero first. To be overridden.

        Args:
            weights: The kernel's weights, zeroed where they are pruned already. Not to be changed.
            variable: The kernel itself, for a criterion that needs to know which one it is.

        Returns:
            One number for each weight, here its magnitude. What a pruned weight gets does not count.
        """
        return np.abs(weights)

    def mask(self, scores: NDArray[Any], sparsity: float, variable: keras.Variable) -> NDArray[np.bool_]:
        """Says which weights of a kernel stay, here those with the highest scores in the pattern. To be overridden.

        Args:
            scores: What `score` gave; minus infinity where a weight is pruned already.
            sparsity: Share of zeros at this point of the schedule.
            variable: The kernel.

        Returns:
            Boolean array of the shape of `scores`, `False` where a weight becomes zero. Not asked for with
            `ranking="global"`.
        """
        return self.pattern.mask(scores, sparsity, self._axes[id(variable)])

    def _hold(self) -> Masks:
        kernels = self._kernels()
        self._axes = {id(kernel): input_axis(layer, kernel) for layer, kernel in kernels}
        return Masks(self.model, [kernel for _, kernel in kernels], fit=self.params)

    def _begin(self) -> None:
        super()._begin()
        shares = [sparsity_of(weights) for weights in self._held.values()]
        # An all-zero kernel was not pruned: it was initialised so.
        self._initial = [0.0 if share == 1 else min(share, self.sparsity) for share in shares]
        state, self._restored = self._restored, None
        if state is not None:
            self._epoch_step, self._total, self._initial = state["step"], state["total"], state["initial"]
        if any(self._initial):
            shares = self._initial
            self._held.update(lambda values: [magnitude_mask(w, s) for w, s in zip(values, shares, strict=True)])
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
        if self._epoch_step + batch >= self._next and self._held is not None:
            self._update(self._epoch_step + batch)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        # With steps_per_execution the last call of an epoch names the first of its steps only.
        self._epoch_step += self.params.get("steps") or self._seen

    def _kernels(self) -> list[Kernel]:
        kernels = prunable(self.model, self.where, frozen=self.frozen)
        if not kernels:
            raise ModelError(
                "The model has no kernel to prune.",
                received=f"{type(self.model).__name__} {self.model.name!r}"
                + (" with where=" + describe(self.where) if self.where else ""),
                expected="a trainable layer with a kernel, such as Dense or Conv2D",
                fix="Let `where` select a layer, or name the weights of your own layer in get_prunable_weights().",
            )
        return kernels

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
        held, sizes = self._held, [kernel.size for kernel in self._held.kept]

        def target(initial: float) -> float:
            return initial + (self.sparsity - initial) * progress

        def choose(values: list[NDArray[Any]]) -> list[NDArray[np.bool_]]:
            scores = [self._scores(*kernel) for kernel in zip(values, held.kept, held.variables, strict=True)]
            if self.pattern.ranking == "global":
                masks = self.pattern.global_masks(scores, target(float(np.average(self._initial, weights=sizes))))
            else:
                targets = map(target, self._initial)
                masks = [self.mask(*kernel) for kernel in zip(scores, targets, held.variables, strict=True)]
            return [mask & kept for mask, kept in zip(masks, held.kept, strict=True)]

        held.update(choose)

    def _scores(self, weights: NDArray[Any], kept: NDArray[np.bool_], variable: keras.Variable) -> NDArray[Any]:
        scores = np.asarray(self.score(weights, variable))
        if scores.shape != weights.shape:
            raise ArgumentError(
                f"{type(self).__name__}.score does not fit the kernel {variable.path}.",
                received=describe(scores),
                expected=f"one number for each weight, in shape {weights.shape}",
            )
        # What is pruned goes first again, whatever the criterion says of a zero.
        return np.where(kept, scores, scores.dtype.type(-np.inf))

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
class KeepZeros(ConstrainedFit):
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
        check_where("KeepZeros", where)
        self.where = where

    def _hold(self) -> Masks:
        kernels = prunable(self.model, self.where or _everywhere)
        variables = [kernel for _, kernel in kernels if 0 < sparsity_of(np.asarray(kernel)) < 1]
        return Masks(self.model, variables, fit=self.params)

    def _begin(self) -> None:
        super()._begin()
        self._held.update(lambda values: [weights != 0 for weights in values])


def _everywhere(layer: keras.Layer) -> bool:
    return True


def missing_zeros(model: keras.Model, sparsity: float, where: Where | None = None, **pattern: Any) -> dict[str, int]:
    """Names the kernels with fewer exact zeros than a sparsity and a pattern ask for, and how many each lacks.

    Args:
        model: A pruned model.
        sparsity: See `MagnitudePruning`; so is `where`.
        where: See `MagnitudePruning`.
        **pattern: `granularity`, `ranking` and `block_shape` of `MagnitudePruning`.
    """
    shape = Pattern(**pattern)
    kernels = prunable(model, where, frozen=True)
    scores = [np.abs(np.asarray(kernel)) for _, kernel in kernels]
    if shape.ranking == "global":
        masks = shape.global_masks(scores, sparsity)
    else:
        pairs = zip(scores, kernels, strict=True)
        masks = [shape.mask(magnitudes, sparsity, input_axis(*kernel)) for magnitudes, kernel in pairs]
    # What the pattern would drop of a finished kernel is zero.
    lacking = [int(np.count_nonzero(magnitudes[~mask])) for magnitudes, mask in zip(scores, masks, strict=True)]
    return {kernel.path: count for (_, kernel), count in zip(kernels, lacking, strict=True) if count}
