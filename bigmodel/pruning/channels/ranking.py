"""Score every channel: how much would be lost with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import keras
import numpy as np

from bigmodel.data import Split
from bigmodel.errors import ArgumentError, describe
from bigmodel.pruning.channels.groups import ChannelMap, Group, Member
from bigmodel.training import clone
from bigmodel.training.loop import seed_random_layers

Criterion = Literal["l1", "l2", "batchnorm", "taylor", "random"] | Callable[[Group], Any]
Scores = dict[str, np.ndarray]
"""For each group, by its name, one number per channel; the lowest go first."""


def score_channels(
    model: keras.Model,
    channels: ChannelMap,
    criterion: Criterion = "l2",
    *,
    data: Split | None = None,
    batch_size: int = 8,
    seed: int = 0,
) -> Scores:
    """Scores the channels of all groups. The model and the data are not changed.

    Args:
        model: The model that `channels` describes; compiled for "taylor".
        channels: What `find_channels(model)` found.
        criterion: What a channel is worth.

            - "l1", "l2": the norm of the weights that make it (Li et al., 2017), over all layers that make it together.
            - "batchnorm": the size of its scale in the BatchNormalization behind it (Liu et al., 2017); groups without
              one fall back to "l2".
            - "taylor": the first-order estimate of the loss that its removal costs: the squared sum of gradient times
              weight over all weights that read it, averaged over batches (Molchanov et al., 2019).
            - "random": for comparison.
            - a function `group -> one number per channel`.

            Norms and scales are divided by their group's mean, so that layers of different size compare; estimates of
            the loss and the numbers of a function are compared as they are.
        data: Calibration samples with labels, for "taylor".
        batch_size: Samples for each gradient: few, for in the mean over many the gradients of a trained model vanish.
        seed: Of "random", and of the units that dropout drops in "taylor".

    Raises:
        ArgumentError: The criterion is unknown, needs data, or a function gave numbers that fit no channels.

    Source:
        H. Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017. Z. Liu et al., Learning Efficient
        Convolutional Networks through Network Slimming, ICCV 2017. P. Molchanov et al., Importance Estimation for
        Neural Network Pruning, CVPR 2019.

    Example:
        >>> from bigmodel.pruning.channels import find_channels
        >>> inputs = keras.Input((2,))
        >>> dense = keras.layers.Dense(2, name="a")
        >>> model = keras.Model(inputs, keras.layers.Dense(1)(dense(inputs)))
        >>> dense.set_weights([np.array([[3.0, 0.0], [4.0, 5.0]]), np.zeros(2)])
        >>> {name: scores.tolist() for name, scores in score_channels(model, find_channels(model), "l2").items()}
        {'a': [1.0, 1.0]}
    """
    if callable(criterion):
        return {group.name: _checked(group, criterion(group)) for group in channels.groups}
    if criterion == "taylor":
        return _taylor(model, channels, data, batch_size, seed)
    if criterion == "random":
        rng = np.random.default_rng(seed)
        return {group.name: rng.random(group.size) for group in channels.groups}
    if criterion not in _NORMS:
        raise ArgumentError(
            "This criterion is unknown.",
            received=describe(criterion),
            expected="'l1', 'l2', 'batchnorm', 'taylor', 'random' or a function of a group",
        )
    scores = {group.name: _NORMS[criterion](group) for group in channels.groups}
    return {name: values / (values.mean() or 1.0) for name, values in scores.items()}


def sum_by_channel(values: Any, member: Member, size: int) -> np.ndarray:
    """Sums an array of a member's shape over all positions that belong to each of a group's channels.

    Args:
        values: Numbers, of the variable's shape.
        member: Says which axis, and which position belongs to which channel.
        size: Number of channels.
    """
    others = tuple(axis for axis in range(len(member.variable.shape)) if axis != member.axis)
    totals = np.asarray(values, dtype=np.float64).sum(axis=others)
    inside = member.channels >= 0
    return np.bincount(member.channels[inside], weights=totals[inside], minlength=size)


def _makers(group: Group) -> list[Member]:
    """The kernels that make the channels; biases say nothing about how much passes through."""
    makers = [member for member in group.members if member.role == "makes"]
    return [member for member in makers if len(member.variable.shape) > 1] or makers or list(group.members)


def _l1(group: Group) -> np.ndarray:
    return sum((sum_by_channel(np.abs(_values(m)), m, group.size) for m in _makers(group)), np.zeros(group.size))


def _l2(group: Group) -> np.ndarray:
    squares = (sum_by_channel(_values(m) ** 2, m, group.size) for m in _makers(group))
    return np.sqrt(sum(squares, np.zeros(group.size)))


def _batchnorm(group: Group) -> np.ndarray:
    scales = [
        member
        for member in group.members
        if isinstance(member.operation, keras.layers.BatchNormalization) and member.variable is member.operation.gamma
    ]
    if not scales:
        return _l2(group)
    return sum((sum_by_channel(np.abs(_values(m)), m, group.size) for m in scales), np.zeros(group.size))


_NORMS: Mapping[str, Callable[[Group], np.ndarray]] = {"l1": _l1, "l2": _l2, "batchnorm": _batchnorm}


def _values(member: Member) -> np.ndarray:
    return keras.ops.convert_to_numpy(member.variable)


def _checked(group: Group, scores: Any) -> np.ndarray:
    scores = np.asarray(scores, dtype=np.float64)
    if scores.shape != (group.size,) or not np.isfinite(scores).all():
        raise ArgumentError(
            f"The criterion's scores don't fit the group {group.name!r}.",
            received=f"shape {scores.shape}, finite: {bool(np.isfinite(scores).all())}",
            expected=f"{group.size} finite numbers, one per channel",
            fix="Return one score per channel; `sum_by_channel` adds up arrays of a member's shape.",
        )
    return scores


def _taylor(model: keras.Model, channels: ChannelMap, data: Split | None, batch_size: int, seed: int) -> Scores:
    if data is None or not data.has_labels or not model.compiled:
        raise ArgumentError(
            "The criterion 'taylor' needs the gradient of the loss.",
            received=f"data={describe(data)}, compiled={model.compiled}",
            expected="a compiled model and data with labels",
            fix="Compile the model and pass data, or use criterion='l2'.",
        )
    probe = clone(model)
    seed_random_layers(probe, seed)
    probe.trainable = True
    twins = {id(own): twin for own, twin in zip(model.variables, probe.variables, strict=True)}
    recorder = _GradientRecorder(channels, twins)
    probe.optimizer = recorder
    recorder.build(probe.trainable_variables)
    probe.make_train_function(force=True)
    probe.fit(data.batches(batch_size), epochs=1, shuffle=False, verbose=0)
    return recorder.scores()


class _GradientRecorder(keras.optimizers.Optimizer):
    """In the place of an optimizer: leaves the weights, and adds up what each batch's gradient says about channels.

    An optimizer is where Keras hands over gradients on every backend.
    """

    def __init__(self, channels: ChannelMap, twins: Mapping[int, keras.Variable]) -> None:
        super().__init__(learning_rate=0.0)
        self.groups = channels.groups
        self.twins = twins
        self.totals: dict[str, keras.Variable] = {}

    def build(self, variables: list[keras.Variable]) -> None:
        """Makes one sum per channel."""
        if not self.built:
            super().build(variables)
            for group in self.groups:
                self.totals[group.name] = keras.Variable(np.zeros(group.size), dtype="float32", trainable=False)

    def apply(self, grads: Any, trainable_variables: Any = None) -> None:
        """Adds the squared estimate of one batch."""
        variables = self._trainable_variables if trainable_variables is None else trainable_variables
        found = {id(v): keras.ops.convert_to_tensor(g) for g, v in zip(grads, variables, strict=True) if g is not None}
        for group in self.groups:
            change = 0.0
            for member in _readers(group):
                twin = self.twins[id(member.variable)]
                if id(twin) in found:
                    change = change + _by_channel(found[id(twin)] * keras.ops.cast(twin, "float32"), member, group.size)
            self.totals[group.name].assign_add(keras.ops.broadcast_to(keras.ops.square(change), (group.size,)))
        self.iterations.assign_add(1)

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Nothing: the weights stay."""

    def scores(self) -> Scores:
        """The mean over all batches."""
        batches = max(1, int(keras.ops.convert_to_numpy(self.iterations)))
        return {
            name: keras.ops.convert_to_numpy(total).astype(np.float64) / batches for name, total in self.totals.items()
        }


def _readers(group: Group) -> list[Member]:
    """What is multiplied by a channel: zero there is what its removal does; else all that makes it."""
    return [member for member in group.members if member.role == "reads"] or _makers(group)


def _by_channel(values: Any, member: Member, size: int) -> Any:
    others = [axis for axis in range(len(member.variable.shape)) if axis != member.axis]
    totals = keras.ops.sum(values, axis=others)
    table = np.zeros((size, len(member.channels)), "float32")
    inside = member.channels >= 0
    table[member.channels[inside], np.flatnonzero(inside)] = 1.0
    return keras.ops.matmul(table, totals)
