"""The channel algebra: every axis of every tensor carries one label per position, and operations tie labels together.

Two positions with the same label can only be removed together. A *pinned* label can't be removed at all, and remembers
why. There are no models here: shapes and integer arrays only.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

Axis = np.ndarray | None
"""The labels of an axis, one integer per position; `None`: every position stays (batch, time, space, inputs)."""


@dataclasses.dataclass(frozen=True, eq=False)
class Labelled:
    """A tensor as the rules see it: its shape, and the labels of each axis.

    Args:
        shape: Sizes; `None` where unknown.
        axes: For each axis its labels, or `None`.
    """

    shape: tuple[int | None, ...]
    axes: tuple[Axis, ...]

    def __post_init__(self) -> None:
        for size, axis in zip(self.shape, self.axes, strict=True):
            assert axis is None or len(axis) == size, f"{len(axis)} labels on an axis of size {size}"

    @classmethod
    def fixed(cls, shape: Sequence[int | None]) -> Labelled:
        """A tensor of which nothing can be removed."""
        return cls(tuple(shape), (None,) * len(shape))

    @property
    def rank(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def __getitem__(self, axis: int) -> Axis:
        return self.axes[axis]

    def transposed(self, order: Sequence[int]) -> Labelled:
        """The axes in another order."""
        return Labelled(tuple(self.shape[i] for i in order), tuple(self.axes[i] for i in order))


class Channels:
    """All labels of one model: a union-find whose classes are what can be removed, with reasons for what can't.

    Example:
        >>> channels = Channels()
        >>> a, b = channels.new(3), channels.new(3)
        >>> _ = channels.tie(a, b, "added")
        >>> channels.pin(b[:1], "an output")
        >>> [channels.reason(label) for label in a]
        ['an output', None, None]
    """

    def __init__(self) -> None:
        self._parent: list[int] = []
        self._reasons: dict[int, str] = {}
        self._kinds: dict[int, str] = {}

    def new(self, size: int, kind: str = "") -> np.ndarray:
        """Returns `size` labels that nothing else carries yet; `kind` tells several of one layer apart ("heads")."""
        start = len(self._parent)
        self._parent.extend(range(start, start + size))
        self._kinds.update(dict.fromkeys(range(start, start + size), kind) if kind else {})
        return np.arange(start, start + size)

    def kind(self, label: int) -> str:
        """Returns the kind that the label was made with."""
        return self._kinds.get(label, "")

    def find(self, label: int) -> int:
        """Returns the representative of the labels tied to this one."""
        root = label
        while self._parent[root] != root:
            root = self._parent[root]
        while self._parent[label] != root:
            self._parent[label], label = root, self._parent[label]
        return root

    def resolve(self, axis: np.ndarray) -> np.ndarray:
        """Returns the representative of each label."""
        return np.array([self.find(label) for label in axis.tolist()], dtype=np.int64)

    def tie(self, a: Axis, b: Axis, reason: str) -> Axis:
        """Ties two axes position by position, and returns the labels of the result.

        Where one has none, or the sizes differ, the other is pinned for the reason.
        """
        if a is None or b is None or len(a) != len(b):
            self.pin(a, reason)
            self.pin(b, reason)
            return a if b is None else b
        for left, right in zip(a.tolist(), b.tolist(), strict=True):
            self._union(left, right)
        return a

    def pin(self, axis: Axis, reason: str) -> None:
        """Keeps every position of the axis for good. The first reason is the one remembered."""
        for label in [] if axis is None else axis.tolist():
            self._reasons.setdefault(self.find(label), reason)

    def fixed(self, size: int, reason: str) -> np.ndarray:
        """Returns new labels that are pinned: positions without labels, as a part of an axis with labels."""
        labels = self.new(size)
        self.pin(labels, reason)
        return labels

    def reason(self, label: int) -> str | None:
        """Returns why the label is pinned, or `None`."""
        return self._reasons.get(self.find(label))

    def _union(self, a: int, b: int) -> None:
        a, b = self.find(a), self.find(b)
        if a != b:
            self._parent[b] = a
            if b in self._reasons:
                self._reasons.setdefault(a, self._reasons.pop(b))


def broadcast(channels: Channels, tensors: Sequence[Labelled], reason: str) -> Labelled:
    """The result of an element-wise operation: axes that meet are tied, axes of size 1 stretch.

    Args:
        channels: The labels; changed in place.
        tensors: Operands, aligned at their last axes.
        reason: Why an axis is pinned that meets one without labels.
    """
    rank = max(tensor.rank for tensor in tensors)
    shape: list[int | None] = []
    axes: list[Axis] = []
    for axis in range(-rank, 0):
        here = [tensor for tensor in tensors if tensor.rank >= -axis]
        meeting = [tensor for tensor in here if tensor.shape[axis] != 1] or here
        for tensor in here:
            if tensor not in meeting:  # one label would stretch over many positions
                channels.pin(tensor[axis], reason)
        labels = meeting[0][axis]
        for tensor in meeting[1:]:
            labels = channels.tie(labels, tensor[axis], reason)
        sizes = [tensor.shape[axis] for tensor in meeting]
        shape.append(next((size for size in sizes if size is not None), None))
        axes.append(labels)
    return Labelled(tuple(shape), tuple(axes))


def concatenate(channels: Channels, tensors: Sequence[Labelled], axis: int, reason: str) -> Labelled:
    """Joins tensors along an axis; their other axes are tied."""
    axis %= tensors[0].rank
    rest = [Labelled(_put(t.shape, axis, 1), _put(t.axes, axis, None)) for t in tensors]
    result = broadcast(channels, rest, reason) if len(rest) > 1 else rest[0]
    sizes: list[Any] = [t.shape[axis] for t in tensors]
    if None in sizes or all(t[axis] is None for t in tensors):
        for tensor in tensors:
            channels.pin(tensor[axis], reason)
        return Labelled(_put(result.shape, axis, None), _put(result.axes, axis, None))
    parts: list[Any] = [
        channels.fixed(size, reason) if t[axis] is None else t[axis] for t, size in zip(tensors, sizes, strict=True)
    ]
    return Labelled(_put(result.shape, axis, sum(sizes)), _put(result.axes, axis, np.concatenate(parts)))


def reshape(channels: Channels, x: Labelled, shape: Sequence[int | None], reason: str) -> Labelled:
    """Reshapes a tensor: axes that merge turn a channel into a block of positions, an axis that splits ties blocks.

    An axis of `g * k` labels that becomes the axes `(g, k)` keeps its labels on the longer of the two, tied along
    the shorter one: a rectangle is all that can be removed from a matrix.

    Args:
        channels: The labels; changed in place.
        x: The tensor.
        shape: New sizes, `None` where unknown.
        reason: Why labels are pinned that the new shape can't carry.
    """
    axes: list[Axis] = []
    for old, new in _blocks(x.shape, tuple(shape)):
        sizes = [shape[i] for i in new]
        labels = _merge(channels, [x.shape[i] for i in old], [x[i] for i in old], reason)
        if labels is None or len(labels) != _product(sizes):
            channels.pin(labels, reason)
            axes.extend([None] * len(sizes))
        else:
            axes.extend(_split(channels, labels, sizes, reason))
    return Labelled(tuple(shape), tuple(axes))


def _blocks(old: tuple[int | None, ...], new: tuple[int | None, ...]) -> list[tuple[range, range]]:
    """The smallest runs of old and new axes that hold the same elements; what unknown sizes hide is one opaque run."""
    blocks: list[tuple[range, range]] = []
    i = j = 0
    while i < len(old) or j < len(new):
        end_i, end_j = min(i + 1, len(old)), min(j + 1, len(new))
        while (a := _product(old[i:end_i])) != (b := _product(new[j:end_j])):
            if a is not None and b is not None and a < b and end_i < len(old):
                end_i += 1
            elif a is not None and b is not None and b < a and end_j < len(new):
                end_j += 1
            else:
                return blocks + _opaque(old, new, i, j)
        blocks.append((range(i, end_i), range(j, end_j)))
        i, j = end_i, end_j
    return blocks


def _opaque(old: Sequence[int | None], new: Sequence[int | None], i: int, j: int) -> list[tuple[range, range]]:
    """One run for the axes from `i` and `j` on, but for equal last axes, which hold the same elements anyway."""
    same: list[tuple[range, range]] = []
    end_i, end_j = len(old), len(new)
    while end_i > i and end_j > j and old[end_i - 1] is not None and old[end_i - 1] == new[end_j - 1]:
        end_i, end_j = end_i - 1, end_j - 1
        same.insert(0, (range(end_i, end_i + 1), range(end_j, end_j + 1)))
    return [(range(i, end_i), range(j, end_j)), *same]


def _product(sizes: Sequence[int | None]) -> int | None:
    return None if None in sizes else math.prod(sizes)  # type: ignore[arg-type]


def _merge(channels: Channels, sizes: list[Any], axes: list[Axis], reason: str) -> Axis:
    """The labels of several axes flattened into one; only one of them may carry labels."""
    carrying = [i for i, axis in enumerate(axes) if axis is not None]
    longest = max(carrying, key=lambda i: sizes[i] or 0, default=None)
    if longest is None:
        return None
    if None in sizes or sum(sizes[i] != 1 for i in carrying) > 1:
        for axis in axes:
            channels.pin(axis, reason)
        return None
    for i in carrying:
        if i != longest:
            channels.pin(axes[i], reason)
    view = [1] * len(sizes)
    view[longest] = -1
    return np.broadcast_to(axes[longest].reshape(view), sizes).ravel()  # type: ignore[union-attr]


def _split(channels: Channels, labels: np.ndarray, sizes: list[Any], reason: str) -> list[Axis]:
    """The labels of one axis unflattened into several: they stay on the longest, tied along the others."""
    if not sizes:
        channels.pin(labels, reason)
        return []
    longest = max(range(len(sizes)), key=lambda i: sizes[i] or 0)
    table: np.ndarray = np.moveaxis(labels.reshape(sizes), longest, 0)
    table = table.reshape(len(table), -1)
    for column in range(1, table.shape[1]):
        channels.tie(table[:, 0], table[:, column], reason)
    axes: list[Axis] = [None] * len(sizes)
    axes[longest] = table[:, 0]
    return axes


def _put(values: Sequence, index: int, value: object) -> tuple:
    return (*values[:index], value, *values[index + 1 :])
