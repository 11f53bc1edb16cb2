"""Remove channels for real: a new model of narrower layers, its weights sliced from the old ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from bigmodel.errors import ArgumentError
from bigmodel.graph import Call, copy_operation, is_graph, rebuild, set_variables
from bigmodel.pruning.channels.groups import ChannelMap, find_channels
from bigmodel.pruning.channels.site import fill, leaves, root_share


def remove_channels(
    model: keras.Model, keep: Mapping[str, Any], *, channels: ChannelMap | None = None, dropout: str = "scale"
) -> keras.Model:
    """Builds a smaller model without some channels of some groups.

    The model is not changed; the new one is functional, not compiled, and has the same names. Its outputs are those of
    the model with the removed channels multiplied by 0 at every layer that reads them.

    Args:
        model: The model that `channels` describes.
        keep: For each group that loses channels, by its name: a boolean per channel, `True` where it stays.
        channels: What `find_channels(model)` found; `None`: it is found now, with defaults.
        dropout: "scale" multiplies the rate of a Dropout layer by the share of channels that stay, "keep" leaves it.

    Returns:
        The smaller model.

    Raises:
        ArgumentError: A group is unknown, a mask has the wrong length, or nothing would stay of a group.

    Example:
        >>> layers = [keras.layers.Dense(3, name="a"), keras.layers.Dense(2, name="b")]
        >>> model = keras.Sequential([keras.Input((4,)), *layers])
        >>> smaller = remove_channels(model, {"a": [True, False, True]})
        >>> [tuple(weight.shape) for weight in smaller.weights]
        [(4, 2), (2,), (2, 2), (2,)]
    """
    channels = find_channels(model) if channels is None else channels
    return _Removal(channels, _removed(channels, keep), dropout).run(model)


def _removed(channels: ChannelMap, keep: Mapping[str, Any]) -> set[int]:
    """The labels that go."""
    groups = {group.name: group for group in channels.groups}
    removed: set[int] = set()
    for name, mask in keep.items():
        stays = np.asarray(mask, dtype=bool)
        if name not in groups or stays.shape != (groups[name].size,) or not stays.any():
            size = groups[name].size if name in groups else None
            raise ArgumentError(
                f"Channels of {name!r} can't be removed like this.",
                received=f"{int(stays.sum())} of {stays.shape} channels kept",
                expected=f"{size} booleans, at least one True" if size else f"a group among {sorted(groups)}",
                fix="Take names and sizes from `find_channels(model).groups`.",
            )
        removed.update(groups[name].labels[~stays].tolist())
    return removed


class _Removal:
    """One removal: which labels stay, and the copies made so far."""

    def __init__(self, channels: ChannelMap, removed: set[int], dropout: str) -> None:
        self.book = channels.book
        self.removed = removed
        self.dropout = dropout
        self.copies: list[tuple[keras.Operation, keras.Operation]] = []
        self.slices: dict[int, list[tuple[int, np.ndarray]]] = {}
        self.touched: set[int] = set()
        for slot in self.book.slots.values():
            if slot is not None and not (stays := self.kept(slot.labels)).all():
                self.slices.setdefault(id(slot.variable), []).append((slot.axis, np.flatnonzero(stays)))
                self.touched.add(id(slot.operation))

    def kept(self, labels: np.ndarray) -> np.ndarray:
        """Says for each label whether it stays."""
        return np.array([self.book.channels.find(label) not in self.removed for label in labels.tolist()], dtype=bool)

    def run(self, model: keras.Model) -> keras.Model:
        smaller = rebuild(model, self.replace, before=self.before)
        for old, new in self.copies:
            set_variables(new, map(self.sliced, getattr(old, "variables", ())))
        return smaller

    def replace(self, operation: keras.Operation) -> keras.Operation | None:
        if is_graph(operation) or isinstance(operation, keras.layers.InputLayer):
            return None
        new = self.narrow(operation)
        self.copies.append((operation, new))
        return new

    def narrow(self, operation: keras.Operation) -> keras.Operation:
        """A new, unbuilt layer of the widths that stay; a wrapper around a narrowed layer likewise."""
        _, template = self.book.configs.get(id(operation), (operation, {}))
        changed = id(operation) in self.touched or any(self.shrinks(leaf) for leaf in leaves(template))
        changes = fill(template, self.kept) if changed else {}
        if self.dropout == "keep":
            changes.pop("rate", None)
        for name in ("layer", "forward_layer", "backward_layer"):
            inner = getattr(operation, name, None)
            if isinstance(inner, keras.layers.Layer):
                changes[name.removeprefix("forward_")] = keras.saving.serialize_keras_object(self.narrow(inner))
        return copy_operation(operation, changes)

    def shrinks(self, leaf: Any) -> bool:
        labels = getattr(leaf, "labels", None)
        return labels is not None and not self.kept(labels).all()

    def before(
        self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Indices that count channels, in terms of those that stay."""
        _, template = self.book.arguments.get(id(call.operation), (None, ()))
        if not any(self.shrinks(leaf) for leaf in leaves(template)):
            return args, kwargs
        new = [arg if part is None else fill(part, self.kept) for arg, part in zip(args, template, strict=True)]
        return tuple(new), kwargs

    def sliced(self, variable: keras.Variable) -> np.ndarray:
        """The variable's values, without the positions that go."""
        value = keras.ops.convert_to_numpy(variable)
        for axis, positions in self.slices.get(id(variable), ()):
            value = np.take(value, positions, axis=axis)
        for scaled, labels in self.book.scales:
            if scaled is variable:
                value = value * root_share(labels, self.kept)
        return value
