"""Rules of op nodes: `keras.ops` functions, indexing and arithmetic on Keras tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from bigmodel.pruning.channels.feature_rules import NARROWED
from bigmodel.pruning.channels.labels import Axis, Labelled, broadcast, concatenate, reshape
from bigmodel.pruning.channels.site import Count, Site, count


def elementwise(site: Site, *args: Any, **kwargs: Any) -> Labelled:
    """Operands meet value by value; an array that is no tensor of the graph can't be narrowed."""
    operands = []
    for value in keras.tree.flatten((args, kwargs)):
        if isinstance(value, Labelled):
            operands.append(value)
        elif hasattr(value, "shape") and len(value.shape):
            operands.append(Labelled.fixed(tuple(value.shape)))
    return broadcast(site.channels, operands, site.because(NARROWED))


def total(site: Site, x: Labelled) -> Labelled:
    """A sum: a removed channel is a zero in it."""
    return _reduce(site, x)


def reduction(site: Site, x: Labelled) -> Labelled:
    """Mean, maximum, variance and their like: a removed channel would change them."""
    for axis in _axes(site.operation.axis, x.rank):
        site.pin(x[axis], "reduces the channels")
    return _reduce(site, x)


def _axes(axis: Any, rank: int) -> list[int]:
    return list(range(rank)) if axis is None else [int(a) % rank for a in np.atleast_1d(axis)]


def _reduce(site: Site, x: Labelled) -> Labelled:
    gone = _axes(site.operation.axis, x.rank)
    if site.operation.keepdims:
        return Labelled(site.shapes[0], tuple(None if i in gone else axis for i, axis in enumerate(x.axes)))
    return Labelled(site.shapes[0], tuple(axis for i, axis in enumerate(x.axes) if i not in gone))


def matmul(site: Site, a: Any, b: Any) -> Labelled:
    """Rows meet columns: the summed axes are tied, the axes before them broadcast."""
    if not (isinstance(a, Labelled) and isinstance(b, Labelled)) or a.rank < 2 or b.rank < 2:
        return not_followed(site, a, b)
    site.channels.tie(a[-1], b[-2], site.because(NARROWED))
    batch = [Labelled(x.shape[:-2], x.axes[:-2]) for x in (a, b) if x.rank > 2]
    front = broadcast(site.channels, batch, site.because(NARROWED)).axes if batch else ()
    return Labelled(site.shapes[0], (*front, a[-2], b[-1]))


def einsum(site: Site, *operands: Any) -> Labelled:
    """Axes with the same letter are tied; letters that the result lacks are summed."""
    subscripts = site.operation.subscripts.replace(" ", "")
    if "..." in subscripts or "->" not in subscripts or not all(isinstance(x, Labelled) for x in operands):
        return not_followed(site, *operands)
    left, result = subscripts.split("->")
    known: dict[str, Axis] = {}
    for letters, x in zip(left.split(","), operands, strict=True):
        for letter, axis in zip(letters, x.axes, strict=True):
            known[letter] = site.channels.tie(known[letter], axis, site.because(NARROWED)) if letter in known else axis
    return Labelled(site.shapes[0], tuple(known[letter] for letter in result))


def reshape_op(site: Site, x: Labelled) -> Labelled:
    """Axes merge or split."""
    y = reshape(site.channels, x, site.shapes[0], site.because("can't be followed through this shape"))
    sizes = site.operation.newshape
    if not isinstance(sizes, int):
        site.config(newshape=[s if s == -1 else count(axis, s) for axis, s in zip(y.axes, sizes, strict=True)])
    return y


def transpose(site: Site, x: Labelled) -> Labelled:
    """Axes in another order."""
    axes = site.operation.axes
    return x.transposed(range(x.rank)[::-1] if axes is None else [axis % x.rank for axis in axes])


def swapaxes(site: Site, x: Labelled) -> Labelled:
    """Two axes change places."""
    order = list(range(x.rank))
    first, second = site.operation.axis1 % x.rank, site.operation.axis2 % x.rank
    order[first], order[second] = second, first
    return x.transposed(order)


def moveaxis(site: Site, x: Labelled) -> Labelled:
    """Axes move to other places."""
    places = np.zeros(x.rank, int)
    source = [axis % x.rank for axis in site.operation.source]
    destination = [axis % x.rank for axis in site.operation.destination]
    rest = iter(axis for axis in range(x.rank) if axis not in source)
    for place in range(x.rank):
        places[place] = source[destination.index(place)] if place in destination else next(rest)
    return x.transposed(places.tolist())


def expand_dims(site: Site, x: Labelled) -> Labelled:
    """New axes of size 1."""
    shape = site.shapes[0]
    new = [axis % len(shape) for axis in np.atleast_1d(site.operation.axis)]
    rest = iter(x.axes)
    return Labelled(shape, tuple(None if i in new else next(rest) for i in range(len(shape))))


def squeeze(site: Site, x: Labelled) -> Labelled:
    """Axes of size 1 go."""
    axis = site.operation.axis
    gone = [i for i, size in enumerate(x.shape) if size == 1] if axis is None else _axes(axis, x.rank)
    for i in gone:
        site.pin(x[i], "drops the axis")
    return Labelled(site.shapes[0], tuple(a for i, a in enumerate(x.axes) if i not in gone))


def concatenate_op(site: Site, xs: Sequence[Any]) -> Labelled:
    """Operands side by side."""
    operands = [x if isinstance(x, Labelled) else Labelled.fixed(tuple(x.shape)) for x in xs]
    return concatenate(site.channels, operands, site.operation.axis, site.because("beside channels that stay"))


def stack(site: Site, xs: Sequence[Any]) -> Labelled:
    """Operands along a new axis."""
    x = elementwise(site, *xs)
    axes = list(x.axes)
    axes.insert(site.operation.axis % (x.rank + 1), None)
    return Labelled(site.shapes[0], tuple(axes))


def split(site: Site, x: Labelled) -> list[Labelled]:
    """Parts of an axis."""
    axis = site.operation.axis % x.rank
    labels = x[axis]
    if labels is None:
        return [Labelled(shape, x.axes) for shape in site.shapes]
    ends = np.cumsum([shape[axis] for shape in site.shapes])
    site.config(indices_or_sections=[Count(labels[:end]) for end in ends[:-1]])
    parts = np.split(labels, ends[:-1])
    return [
        Labelled(shape, (*x.axes[:axis], part, *x.axes[axis + 1 :]))
        for shape, part in zip(site.shapes, parts, strict=True)
    ]


def get_item(site: Site, x: Labelled, key: Any) -> Labelled:
    """Indexing by integers, slices, `...` and `None`."""
    parts = list(key) if isinstance(key, tuple) else [key]
    if not all(part is None or part is Ellipsis or isinstance(part, (int, slice)) for part in parts):
        return not_followed(site, x)
    if not any(part is Ellipsis for part in parts):
        parts.append(Ellipsis)
    dots = next(i for i, part in enumerate(parts) if part is Ellipsis)
    missing = x.rank - sum(part is not None and part is not Ellipsis for part in parts)
    parts[dots : dots + 1] = [slice(None)] * missing
    axes: list[Axis] = []
    new_key: list[Any] = []
    place = 0
    for part in parts:
        if part is None:
            axes.append(None)
            new_key.append(None)
            continue
        labels, new_part = _index(site, x[place], x.shape[place], part)
        new_key.append(new_part)
        if not isinstance(part, int):
            axes.append(labels)
        place += 1
    site.arguments(None, tuple(new_key))
    return Labelled(site.shapes[0], tuple(axes))


def _index(site: Site, labels: Axis, size: int | None, part: int | slice) -> tuple[Axis, Any]:
    """The labels that an index leaves on an axis, and the index in terms of what stays."""
    if labels is None or part == slice(None):
        return labels if part == slice(None) else None, part
    if isinstance(part, int) or part.step not in (None, 1):
        site.pin(labels, "picks single channels")
        return (None if isinstance(part, int) else labels[part]), part
    start, stop, _ = part.indices(size)  # type: ignore[arg-type]
    return labels[part], slice(Count(labels[:start]), Count(labels[:stop]))


def pad(site: Site, x: Labelled, *_: Any, **__: Any) -> Labelled:
    """Axes that are padded lose their labels."""
    widths = list(site.operation.pad_width)
    widths = widths * x.rank if len(widths) == 1 else widths
    axes = []
    for axis, width in zip(x.axes, widths, strict=True):
        if any(width):
            site.pin(axis, "pads the channels")
        axes.append(None if any(width) else axis)
    return Labelled(site.shapes[0], tuple(axes))


def not_followed(site: Site, *args: Any) -> Any:
    """A form of an op that is not followed."""
    for x in keras.tree.flatten(args):
        if isinstance(x, Labelled):
            site.pin(x, "this form of it is not followed")
    return site.fixed()
