"""What a rule writes down about an operation: which axes of variables and which numbers of its config follow labels."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import keras
import numpy as np

from bigmodel.pruning.channels.labels import Axis, Channels, Labelled

Role = Literal["makes", "scales", "reads"]
Kept = Callable[[np.ndarray], np.ndarray]
"""Says for each label whether it stays."""


@dataclasses.dataclass(frozen=True, eq=False)
class Count:
    """A number in a config that counts the positions of an axis: its value is how many stay."""

    labels: np.ndarray

    def value(self, kept: Kept) -> int:
        return int(kept(self.labels).sum())


@dataclasses.dataclass(frozen=True, eq=False)
class Share:
    """A number in a config that shrinks with the share of positions that stay, such as a dropout rate."""

    number: float
    labels: np.ndarray

    def value(self, kept: Kept) -> float:
        return self.number * float(kept(self.labels).mean())


@dataclasses.dataclass(frozen=True, eq=False)
class Slot:
    """One axis of one variable.

    Args:
        operation: The layer that owns the variable.
        variable: The variable.
        axis: The axis, counted from 0.
        labels: The label of each position.
        role: "makes" for the axis along which new channels come out, "scales" for one value or filter per channel,
            "reads" for an axis that the layer sums over: it consumes the channels.
    """

    operation: keras.Operation
    variable: keras.Variable
    axis: int
    labels: np.ndarray
    role: Role


class Book:
    """Everything that the rules wrote down about a model.

    Args:
        exact: Whether only removals are wanted that leave the output as the masked one; without it a normalisation
            over the channel axis may lose channels too.
        rules: Rules that go before the table's own.
    """

    def __init__(self, *, exact: bool = True, rules: Mapping[type, Callable[..., Any]] | None = None) -> None:
        self.exact = exact
        self.rules = dict(rules or {})
        self.channels = Channels()
        self.slots: dict[tuple[int, int], Slot | None] = {}
        self.configs: dict[int, tuple[keras.Operation, dict[str, Any]]] = {}
        self.arguments: dict[int, tuple[keras.Operation, tuple[Any, ...]]] = {}
        self.scales: list[tuple[keras.Variable, np.ndarray]] = []


class Site:
    """One call of an operation, as its rule sees it.

    A rule is called as the operation is, with a `Labelled` in the place of every tensor, and returns the `Labelled` of
    its outputs. On the way it says what belongs to which labels: `makes`, `scales` and `reads` for axes of variables,
    `config` and `arguments` for numbers that have to change with them.

    Args:
        book: Where it is written down.
        operation: The layer or op node.
        shapes: The shapes of its outputs, flat.
    """

    def __init__(self, book: Book, operation: keras.Operation, shapes: list[tuple[int | None, ...]]) -> None:
        self.book = book
        self.operation = operation
        self.shapes = shapes
        self.channels = book.channels

    def inside(self, operation: keras.Operation, shapes: list[tuple[int | None, ...]]) -> Site:
        """The site of an operation that this one wraps."""
        return Site(self.book, operation, shapes)

    def makes(self, variable: keras.Variable | None, axis: int, labels: Axis) -> None:
        """Each position of this axis of the variable makes one of these channels."""
        self._slot(variable, axis, labels, "makes")

    def scales(self, variable: keras.Variable | None, axis: int, labels: Axis) -> None:
        """Each position of this axis of the variable belongs to one of these channels, which pass through."""
        self._slot(variable, axis, labels, "scales")

    def reads(self, variable: keras.Variable | None, axis: int, labels: Axis) -> None:
        """The operation sums over this axis of the variable, whose positions are these channels."""
        self._slot(variable, axis, labels, "reads")

    def config(self, **template: Any) -> None:
        """Values of the operation's config, with `Count` or `Share` where a number follows labels."""
        self._template(self.book.configs, template)

    def arguments(self, *template: Any) -> None:
        """Arguments of the call, with `Count` where a number follows labels and `None` where nothing changes."""
        self._template(self.book.arguments, template)

    def rescale(self, variable: keras.Variable | None, labels: Axis) -> None:
        """The variable is multiplied by the square root of the share of these labels that stays."""
        if variable is not None and labels is not None:
            self.book.scales.append((variable, labels))

    def pin(self, x: Labelled | Axis, why: str) -> None:
        """Keeps a tensor's or an axis' channels for good."""
        for axis in x.axes if isinstance(x, Labelled) else (x,):
            self.channels.pin(axis, self.because(why))

    def because(self, why: str) -> str:
        """The reason, with the operation's name."""
        return f"{self.operation.name}: {why}"

    def fixed(self) -> Any:
        """Outputs of which nothing can be removed."""
        outputs = [Labelled.fixed(shape) for shape in self.shapes]
        return outputs[0] if len(outputs) == 1 else outputs

    def _slot(self, variable: keras.Variable | None, axis: int, labels: Axis, role: Role) -> None:
        if variable is None:
            return
        key = id(variable), axis % len(variable.shape)
        if key in self.book.slots:  # a shared layer: what one call can't lose, no call can
            known = self.book.slots[key]
            self.channels.tie(
                known.labels if known else None, labels, self.because("shared with a call that is left whole")
            )
        elif labels is None:
            self.book.slots[key] = None
        else:
            assert len(labels) == variable.shape[axis], f"{self.operation.name}: {variable.path} axis {axis}"
            self.book.slots[key] = Slot(self.operation, variable, key[1], labels, role)

    def _template(self, table: dict[int, tuple[keras.Operation, Any]], template: Any) -> None:
        key = id(self.operation)
        if key not in table:
            table[key] = (self.operation, template)
            return
        for known, labels in zip(leaves(table[key][1]), leaves(template), strict=True):
            self.channels.tie(
                known.labels if isinstance(known, (Count, Share)) else None,
                labels.labels if isinstance(labels, (Count, Share)) else None,
                self.because("shared with a call that is left whole"),
            )


def count(labels: Axis, otherwise: Any) -> Any:
    """The number of these channels that stay; the plain value for an axis that carries none."""
    return otherwise if labels is None else Count(labels)


def leaves(template: Any) -> list[Any]:
    """The values in a template of nested dicts, tuples, lists and slices, in order."""
    if isinstance(template, Mapping):
        return [leaf for key in sorted(template) for leaf in leaves(template[key])]
    if isinstance(template, (tuple, list)):
        return [leaf for part in template for leaf in leaves(part)]
    if isinstance(template, slice):
        return [template.start, template.stop, template.step]
    return [template]


def fill(template: Any, kept: Kept) -> Any:
    """The template with every `Count` and `Share` replaced by its value."""
    if isinstance(template, Mapping):
        return {key: fill(value, kept) for key, value in template.items()}
    if isinstance(template, (tuple, list)):
        return type(template)(fill(part, kept) for part in template)
    if isinstance(template, slice):
        return slice(fill(template.start, kept), fill(template.stop, kept), template.step)
    return template.value(kept) if isinstance(template, (Count, Share)) else template


def root_share(labels: np.ndarray, kept: Kept) -> float:
    """The square root of the share of the labels that stays."""
    return math.sqrt(float(kept(labels).mean()))
