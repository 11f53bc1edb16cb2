"""Group lasso: training that drives whole channels to zero, so that they can be removed for nothing."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, Final, final

import keras
import numpy as np
from numpy.typing import NDArray

from bigmodel.config import Where
from bigmodel.errors import ModelError, check_argument, number
from bigmodel.pruning.channels import ChannelMap
from bigmodel.pruning.channels import Group as ChannelGroup
from bigmodel.pruning.constrained_fit import ConstrainedFit
from bigmodel.pruning.constraints import Held, StepConstraint
from bigmodel.pruning.layers import check_where, output_axis, prunable

_TINY: Final = 1e-30


@dataclasses.dataclass(frozen=True)
class Slice:
    """One axis of a variable, cut into channels.

    Args:
        variable: The variable.
        axis: The axis.
        channels: For each position of the axis its channel, -1 for none.
    """

    variable: keras.Variable
    axis: int
    channels: NDArray[Any]


@dataclasses.dataclass(frozen=True)
class Penalized:
    """Channels of which each is one group of the penalty: all its weights in all slices.

    Args:
        name: What it is called in messages.
        size: Number of channels.
        slices: Where the channels live.
    """

    name: str
    size: int
    slices: tuple[Slice, ...]

    def norms(self) -> NDArray[np.float64]:
        """The norm of each channel's weights."""
        squares = np.zeros(self.size)
        for part in self.slices:
            others = tuple(i for i in range(len(part.variable.shape)) if i != part.axis)
            sums = (np.asarray(part.variable).astype(np.float64) ** 2).sum(axis=others)
            np.add.at(squares, part.channels[part.channels >= 0], sums[part.channels >= 0])
        return np.sqrt(squares)

    def weights_per_channel(self) -> NDArray[np.int64]:
        """How many weights each channel has."""
        counts = np.zeros(self.size, dtype=np.int64)
        for part in self.slices:
            width = math.prod(part.variable.shape) // part.variable.shape[part.axis]
            np.add.at(counts, part.channels[part.channels >= 0], width)
        return counts


def shrinkage(norms: Any, thresholds: Any) -> Any:
    """The proximal operator of the group lasso, as factors: `max(0, 1 - threshold / norm)` for each group.

    Args:
        norms: Norm of each group's weights.
        thresholds: Step size times strength times the root of the group's size.

    Returns:
        What the weights of each group are multiplied with; exactly 0 where the norm is below the threshold.

    Source:
        Yuan and Lin, "Model selection and estimation in regression with grouped variables", 2006.

    Example:
        >>> np.asarray(shrinkage(np.array([2.0, 0.5]), np.array([1.0, 1.0]))).tolist()
        [0.5, 0.0]
    """
    return keras.ops.maximum(1.0 - thresholds / keras.ops.maximum(norms, _TINY), 0.0)


class Shrinkage(Held):
    """The proximal step of the group lasso on some variables, from when it is made until `release()`.

    Args:
        model: A compiled model.
        groups: What is penalised.
        strength: Weight of the penalty in the loss.
        fit: See `Held`.
    """

    def __init__(self, model: keras.Model, groups: Sequence[Penalized], strength: float, *, fit: object) -> None:
        self.groups, self.optimizer = list(groups), model.optimizer
        # An optimizer that accumulates gradients applies constraints at every step, and updates at some.
        inner = getattr(model.optimizer, "inner_optimizer", model.optimizer)
        self.strength = strength / (inner.gradient_accumulation_steps or 1)
        self._factors: list[keras.Variable] = []
        penalized = {id(part.variable) for group in groups for part in group.slices}
        # In the order in which the optimizer applies constraints.
        super().__init__(model, [v for v in model.trainable_variables if id(v) in penalized], fit=fit)

    def _constraint(self, index: int, inner: Any, fit: object) -> StepConstraint:
        if index == 0:  # In the scope of the strategy, which the variables of the constraints need.
            self._factors = [
                keras.Variable(
                    np.ones(group.size, dtype="float32"),
                    trainable=False,
                    aggregation="only_first_replica",
                    name="factors",
                )
                for group in self.groups
            ]
            self._thresholds = [np.sqrt(group.weights_per_channel()).astype("float32") for group in self.groups]
        return ShrinkageConstraint(self, index, inner, fit)

    def update_factors(self) -> None:
        """Computes the factors of all groups from the updated weights, within the step."""
        ops = keras.ops
        step = ops.cast(self.optimizer.learning_rate, "float32") * self.strength
        for group, factor, threshold in zip(self.groups, self._factors, self._thresholds, strict=True):
            squares = ops.zeros((group.size + 1,), dtype="float32")
            for part in group.slices:
                others = tuple(i for i in range(len(part.variable.shape)) if i != part.axis)
                sums = ops.sum(ops.square(ops.cast(part.variable.value, "float32")), axis=others)
                squares = squares + ops.segment_sum(sums, _positions(part, group), num_segments=group.size + 1)
            factor.assign(shrinkage(ops.sqrt(squares[:-1]), step * threshold))

    def factors_of(self, variable: keras.Variable) -> Any:
        """What a variable is multiplied with, in a shape that broadcasts against it."""
        ops = keras.ops
        product: Any = 1.0
        for group, factor in zip(self.groups, self._factors, strict=True):
            for part in group.slices:
                if part.variable is variable:
                    padded = ops.concatenate([factor.value, ops.ones((1,), dtype="float32")])
                    shape = [-1 if axis == part.axis else 1 for axis in range(len(variable.shape))]
                    product = product * ops.reshape(ops.take(padded, _positions(part, group)), shape)
        return product

    def apply(self) -> None:
        """Nothing: a penalty acts while training goes on, and leaves the weights that other callbacks bring back."""


def _positions(part: Slice, group: Penalized) -> NDArray[np.int32]:
    """The channels of a slice, with one number more for positions without a channel."""
    return np.where(part.channels < 0, group.size, part.channels).astype(np.int32)


class ShrinkageConstraint(StepConstraint):
    """Multiplies a variable with the factors of its channels.

    Args:
        shrinkage: What all variables have in common.
        index: Which of them it is. The first one computes the factors: all updates of a step come before its
            constraints, and every group is judged before any of its variables shrinks.
        inner: See `StepConstraint`; so is `fit`.
        fit: See `StepConstraint`.
    """

    def __init__(self, shrinkage: Shrinkage, index: int, inner: Any, fit: object) -> None:
        super().__init__(inner, fit)
        self.shrinkage, self.index = shrinkage, index

    def act(self, value: Any) -> Any:
        if self.index == 0:
            self.shrinkage.update_factors()
        factors = self.shrinkage.factors_of(self.shrinkage.variables[self.index])
        return keras.ops.cast(keras.ops.cast(value, "float32") * factors, value.dtype)


@final
class GroupLasso(ConstrainedFit):
    """Adds the group lasso to the loss of a `fit`: channels that matter little become exactly zero.

    The penalty is `strength` times the sum over all channels of `sqrt(number of weights) * norm of the weights`. It
    acts through its proximal operator, right after each update of the optimizer and inside the compiled step; its
    gradient would never reach zero. The epoch's logs tell the share of `zero_channels`.

    Without a channel map a group is one output channel of one kernel. With one, a group is all that has to go for the
    channel to be removed: its weights in the layers that make it, scale it and read it. Then `kept_channels` says what
    `remove_channels` may take away without changing the output. A weight in two groups is shrunk by both.

    Weight averaging (`use_ema`) keeps no exact zeros, and later training may leave them unless `KeepZeros` is there.

    Args:
        strength: Weight of the penalty in the loss, 0 or more. A place to start is 1e-3 with SGD, and 0.1 with Adam,
            whose steps are as long as the learning rate however small the gradient is.
        where: Which layers' outputs, as a function `layer -> bool`; `None`: all layers with a kernel. Leave out the
            layer that gives the model's output, unless channels are given, which leave it whole anyway.
        channels: What `bigmodel.pruning.channels.find_channels` gave for this model, or that function itself.

    Raises:
        ArgumentError: The strength is negative, or the channels are of another model.
        ModelError: There is no channel to penalise.

    Source:
        Yuan and Lin, 2006; Wen et al., "Learning Structured Sparsity in Deep Neural Networks", 2016,
        https://arxiv.org/abs/1608.03665.

    Example:
        >>> import keras, numpy as np
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
        >>> model.compile(keras.optimizers.SGD(0.1), "mse")
        >>> history = model.fit(np.ones((8, 8)), np.zeros((8, 4)), verbose=0, callbacks=[GroupLasso(100.0)])
        >>> history.history["zero_channels"]
        [1.0]
    """

    def __init__(
        self,
        strength: float,
        *,
        where: Where | None = None,
        channels: ChannelMap | Callable[[keras.Model], ChannelMap] | None = None,
    ) -> None:
        super().__init__()
        start = "Start with 1e-3 (SGD) or 0.1 (Adam), and raise it until channels go."
        check_argument(
            "GroupLasso", "strength", strength, number(lambda s: 0 <= s < math.inf), "a number of at least 0", start
        )
        check_where("GroupLasso", where)
        self.strength, self.where, self.channels = strength, where, channels

    def _hold(self) -> Shrinkage:
        channels = self.channels(self.model) if callable(self.channels) else self.channels
        groups = _by_kernel(self.model, self.where) if channels is None else _by_map(channels, self.where)
        known = {id(variable) for variable in self.model.trainable_variables}
        groups = [
            dataclasses.replace(group, slices=tuple(part for part in group.slices if id(part.variable) in known))
            for group in groups
        ]
        groups = [group for group in groups if group.slices]
        if not groups:
            raise ModelError(
                "There is no channel to penalise.",
                received=f"{type(self.model).__name__} {self.model.name!r}",
                expected="trainable layers whose output channels can go, and a channel map of this very model",
                fix="Pass channels=find_channels to have it made for the model that is trained, or widen `where`.",
            )
        return Shrinkage(self.model, groups, self.strength, fit=self.params)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if logs is not None and self._held is not None:
            zero = np.concatenate([group.norms() == 0 for group in self._held.groups])
            logs["zero_channels"] = float(zero.mean())


def _by_kernel(model: keras.Model, where: Where | None) -> list[Penalized]:
    groups = []
    for layer, variable in prunable(model, where):
        axis = output_axis(layer, variable) % len(variable.shape)
        size = variable.shape[axis]
        groups.append(Penalized(variable.path, size, (Slice(variable, axis, np.arange(size)),)))
    return groups


def _by_map(channels: ChannelMap, where: Where | None) -> list[Penalized]:
    return [
        _penalized(group) for group in channels.groups if where is None or all(where(layer) for layer in group.layers)
    ]


def _penalized(group: ChannelGroup) -> Penalized:
    return Penalized(group.name, group.size, tuple(Slice(m.variable, m.axis, m.channels) for m in group.members))


def kept_channels(channels: ChannelMap) -> dict[str, NDArray[np.bool_]]:
    """Says which channels are left of each group, for `remove_channels`. The model is not changed.

    A channel that no layer reads (all the weights that read it are zero) can be removed without a change of the output.

    Args:
        channels: What `find_channels` gave for the model.

    Returns:
        For each group with such channels a boolean array, `True` where a channel is kept; the first of a group is kept
        if none is read.

    Example:
        >>> from bigmodel.pruning.channels import find_channels
        >>> first = keras.layers.Dense(3, name="a")
        >>> model = keras.Sequential([keras.Input((2,)), first, keras.layers.Dense(1)])
        >>> model.layers[1].set_weights([np.array([[1.0], [0.0], [2.0]]), np.zeros(1)])
        >>> kept_channels(find_channels(model))
        {'a': array([ True, False,  True])}
    """
    kept = {}
    for group in channels.groups:
        readers = [Slice(m.variable, m.axis, m.channels) for m in group.members if m.role == "reads"]
        alive = Penalized(group.name, group.size, tuple(readers)).norms() > 0
        if readers and not alive.all():
            alive[0] |= not alive.any()
            kept[group.name] = alive
    return kept
