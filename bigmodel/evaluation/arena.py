"""How much memory the tensors of one graph need at the same time."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

ALIGNMENT = 64
"""Bytes; the runtime's arena starts every tensor at a multiple of it."""


@dataclasses.dataclass(frozen=True)
class Lifetime:
    """A tensor that needs memory while a graph runs.

    Args:
        size_bytes: Its size.
        first: Index of the operation that writes it; -1 for an input of the graph.
        last: Index of the last operation that reads it; the number of operations for inputs and outputs of the graph.
    """

    size_bytes: int
    first: int
    last: int


def plan_arena(lifetimes: Sequence[Lifetime], *, alignment: int = ALIGNMENT) -> int:
    """Returns the bytes of an arena in which tensors that live at the same time never overlap.

    Greedy by size, as the runtime lays out its own arena: from the largest tensor down, each goes into the smallest gap
    that fits between the tensors already placed which live at the same time.

    Args:
        lifetimes: The tensors.
        alignment: Bytes to which every start is rounded up.

    Source: Pisarchyk and Lee, "Efficient Memory Management for Deep Neural Net Inference", 2020 (greedy by size for
    offset calculation).

    Example:
        >>> plan_arena([Lifetime(128, 0, 1), Lifetime(64, 1, 2), Lifetime(128, 2, 3)])
        192
    """
    placed: list[tuple[int, Lifetime]] = []
    for tensor in sorted(lifetimes, key=lambda t: (-t.size_bytes, t.first)):
        if tensor.size_bytes == 0:
            continue
        alive = [p for p in placed if p[1].first <= tensor.last and tensor.first <= p[1].last]
        placed.append((_offset(tensor.size_bytes, alive, alignment), tensor))
    end = max((offset + tensor.size_bytes for offset, tensor in placed), default=0)
    return _round_up(end, alignment)


def _offset(size: int, alive: list[tuple[int, Lifetime]], alignment: int) -> int:
    best, smallest_gap, end = None, None, 0
    for offset, other in sorted(alive, key=lambda p: p[0]):
        start = _round_up(end, alignment)
        gap = offset - start
        if gap >= size and (smallest_gap is None or gap < smallest_gap):
            best, smallest_gap = start, gap
        end = max(end, offset + other.size_bytes)
    return _round_up(end, alignment) if best is None else best


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
