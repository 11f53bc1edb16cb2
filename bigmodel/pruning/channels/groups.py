"""Find the channel groups of a model: what has to be removed together, and what can't be removed, with the reason."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from bigmodel.config import Where
from bigmodel.graph import Call, trace
from bigmodel.pruning.channels.labels import Labelled
from bigmodel.pruning.channels.rules import rule_for
from bigmodel.pruning.channels.site import Book, Count, Role, Site, Slot, leaves


@dataclasses.dataclass(frozen=True, eq=False)
class Member:
    """One axis of one variable, as far as it belongs to a group.

    Args:
        operation: The layer that owns the variable.
        variable: The variable.
        axis: The axis.
        channels: For each position of the axis the group's channel it belongs to, -1 for none. A channel may own many
            positions (a block behind `Flatten`, the gates of an LSTM).
        role: "makes", "scales" or "reads"; the layer sums over an axis that it reads, and so consumes the channels.
    """

    operation: keras.Operation
    variable: keras.Variable
    axis: int
    channels: np.ndarray
    role: Role


@dataclasses.dataclass(frozen=True, eq=False)
class Group:
    """Channels that are interchangeable in the graph: each can be removed alone, from all members at once.

    Args:
        name: The layers that make the channels, joined by "+"; unique in the model.
        labels: The channels' labels.
        members: All axes that the channels live on.
        width: Units, filters or heads of its layer that one channel stands for; more than 1 where blocks go together.
    """

    name: str
    labels: np.ndarray
    members: tuple[Member, ...]
    width: int = 1

    @property
    def size(self) -> int:
        """Number of channels."""
        return len(self.labels)

    @property
    def layers(self) -> tuple[keras.Operation, ...]:
        """The layers that make the channels, each once."""
        return tuple({id(m.operation): m.operation for m in self.members if m.role == "makes"}.values())


@dataclasses.dataclass(frozen=True, eq=False)
class ChannelMap:
    """All channels of a model.

    Args:
        groups: What can be removed, in the order of the graph.
        pinned: For each layer whose channels stay: its name and the reason.
        book: What the rules wrote down; `remove_channels` reads it.
    """

    groups: tuple[Group, ...]
    pinned: Mapping[str, str]
    book: Book

    def __getitem__(self, name: str) -> Group:
        """The group of that name."""
        return {group.name: group for group in self.groups}[name]


def find_channels(
    model: keras.Model,
    *,
    where: Where | None = None,
    exact: bool = True,
    rules: Mapping[type, Callable[..., Any]] | None = None,
) -> ChannelMap:
    """Finds which slices of which variables have to be removed together.

    The model is not changed. Labels are carried through every call of the graph by one rule for each kind of layer;
    what has no rule keeps its channels, with the reason. Inputs and outputs of the model keep their shape.

    Args:
        model: A functional or a built Sequential model; nested models and shared layers are followed.
        where: Says which layers may lose channels: `where(layer) -> bool`; `None`: all.
        exact: Whether widths that a normalisation over the channel axis sees are left whole. With `False` they may be
            removed; the statistics then run over what is left, and the output is no longer that of the masked model.
        rules: Rules for layers of one's own, by class; see `bigmodel.pruning.channels.rules`.

    Returns:
        The groups, and the reasons for all layers that are left whole.

    Raises:
        ModelError: The model has no graph of layers.

    Source:
        G. Fang et al., DepGraph: Towards Any Structural Pruning, CVPR 2023: layers whose channels depend on each other
        form a group. Here the dependency is found by labels on tensor axes, not by rules between pairs of layers.

    Example:
        >>> layers = [keras.layers.Dense(8, name="a"), keras.layers.Dense(2, name="b")]
        >>> model = keras.Sequential([keras.Input((4,)), *layers])
        >>> channels = find_channels(model)
        >>> [(group.name, group.size) for group in channels.groups], dict(channels.pinned)
        ([('a', 8)], {'b': "it is the model's output"})
    """
    book = Book(exact=exact, rules=rules)
    graph = trace(model, flatten=True)
    labels: dict[int, Labelled] = {}
    for call in graph:
        for tensor, labelled in zip(keras.tree.flatten(call.outputs), _apply(book, call, labels), strict=True):
            labels[id(tensor)] = labelled
    for tensor in keras.tree.flatten(graph.outputs):
        for axis in labels[id(tensor)].axes:
            book.channels.pin(axis, "it is the model's output")
    slots = [slot for slot in book.slots.values() if slot is not None]
    for slot in slots:
        if where is not None and slot.role == "makes" and not where(slot.operation):
            book.channels.pin(slot.labels, "left out by `where`")
    return ChannelMap(_groups(book, slots), _pinned(book, slots), book)


def _apply(book: Book, call: Call, labels: Mapping[int, Labelled]) -> list[Labelled]:
    """The labels of a call's outputs, flat."""
    outputs = keras.tree.flatten(call.outputs)
    site = Site(book, call.operation, [tuple(tensor.shape) for tensor in outputs])
    if isinstance(call.operation, keras.layers.InputLayer):
        return [site.fixed()]
    args, kwargs = keras.tree.map_structure(lambda x: labels.get(id(x), x), (call.args, dict(call.kwargs)))
    return keras.tree.flatten(rule_for(call.operation, book.rules)(site, *args, **kwargs))


def _groups(book: Book, slots: list[Slot]) -> tuple[Group, ...]:
    """Channels that live on exactly the same axes form a group."""
    resolved = [book.channels.resolve(slot.labels) for slot in slots]
    places: dict[int, list[int]] = {}
    for index, labels in enumerate(resolved):
        for label in dict.fromkeys(labels.tolist()):
            places.setdefault(label, []).append(index)
    alike: dict[tuple[int, ...], list[int]] = {}
    for label, indices in places.items():
        if book.channels.reason(label) is None:
            alike.setdefault(tuple(indices), []).append(label)
    groups: list[Group] = []
    names: set[str] = set()
    for where, members in alike.items():
        position = {label: channel for channel, label in enumerate(members)}
        parts = tuple(
            Member(
                slots[i].operation,
                slots[i].variable,
                slots[i].axis,
                np.array([position.get(label, -1) for label in resolved[i].tolist()]),
                slots[i].role,
            )
            for i in where
        )
        name = _name(book, [slots[i] for i in where], members[0], names)
        names.add(name)
        groups.append(Group(name, np.array(members), parts, _width(book, [slots[i] for i in where], members)))
    return tuple(groups)


def _name(book: Book, slots: list[Slot], label: int, taken: set[str]) -> str:
    """The layers that make the channels, with the kind of channels where a layer makes several."""
    parts: dict[str, None] = {}
    for slot in [slot for slot in slots if slot.role == "makes"] or slots:
        own = slot.labels[book.channels.resolve(slot.labels) == label]
        kind = book.channels.kind(int(own[0]))
        parts.setdefault(f"{slot.operation.name}.{kind}" if kind else slot.operation.name)
    name = "+".join(parts)
    number = 1
    while (unique := name if number == 1 else f"{name}#{number}") in taken:
        number += 1
    return unique


def _width(book: Book, slots: list[Slot], labels: list[int]) -> int:
    """How far a layer's own count of units falls with each channel."""
    for slot in slots:
        if slot.role == "makes" and id(slot.operation) in book.configs:
            for leaf in leaves(book.configs[id(slot.operation)][1]):
                inside = np.isin(book.channels.resolve(leaf.labels), labels) if isinstance(leaf, Count) else np.zeros(1)
                if inside.any():
                    return int(inside.sum()) // len(labels)
    return 1


def _pinned(book: Book, slots: list[Slot]) -> dict[str, str]:
    """The reasons for layers that make channels of which at least one stays for good."""
    reasons: dict[str, str] = {}
    for slot in slots:
        if slot.role != "makes":
            continue
        for label in slot.labels.tolist():
            if (reason := book.channels.reason(label)) is not None:
                reasons.setdefault(slot.operation.name, reason)
                break
    return reasons
