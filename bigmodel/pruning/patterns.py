"""Which weights are kept together: N of M, blocks, and one ranking over all kernels. Maths on arrays alone."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Sequence
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bigmodel.errors import check_argument, whole_from
from bigmodel.pruning.masks import lowest_mask, zero_count

Mask = NDArray[np.bool_]
Ranking = Literal["layer", "global"]

FLOOR: Final = 0.1
"""With a global ranking each kernel keeps at least this share of the density that all kernels keep together."""


def n_of_m_mask(scores: ArrayLike, keep: int, of: int, *, axis: int = -2) -> Mask:
    """Marks the `keep` highest of every `of` consecutive scores along an axis. `scores` is not changed.

    A last group that is cut short keeps as many. Of equal scores the first are dropped.

    Args:
        scores: Array of any shape; what is lowest goes first.
        keep: How many of a group stay.
        of: Size of a group.
        axis: Axis along which groups lie: the input axis of the kernel, which a `.tflite` file and sparse hardware hold
            innermost. The last but one in a Dense or Conv kernel.

    Returns:
        Boolean array of the shape of `scores`, `False` where a weight becomes zero.

    Source:
        Mishra et al., "Accelerating Sparse Deep Neural Networks", 2021, https://arxiv.org/abs/2104.08378.

    Example:
        >>> n_of_m_mask([3.0, 1.0, 2.0, 4.0, 0.5, 0.1], 2, 4, axis=0)
        array([ True, False, False,  True,  True,  True])
    """
    lines = np.moveaxis(np.asarray(scores), axis, -1)
    padding = [(0, 0)] * (lines.ndim - 1) + [(0, -lines.shape[-1] % of)]
    groups = np.pad(lines, padding, constant_values=-np.inf).reshape(*lines.shape[:-1], -1, of)
    # The padding has to go before what it is compared with, and it stands last.
    order = np.argsort(groups[..., ::-1], axis=-1, kind="stable")
    order = of - 1 - order
    mask = np.ones(groups.shape, dtype=bool)
    np.put_along_axis(mask, order[..., : of - keep], False, axis=-1)
    mask = mask.reshape(*lines.shape[:-1], -1)[..., : lines.shape[-1]]
    return np.ascontiguousarray(np.moveaxis(mask, -1, axis))


def block_means(scores: ArrayLike, block_shape: tuple[int, int]) -> NDArray[Any]:
    """Mean score of each block on the last two axes; blocks at an edge are cut short.

    Args:
        scores: Array of at least two dimensions; minus infinity stands for a weight that is gone already.
        block_shape: Size of a block along the last but one and the last axis: (inputs, outputs) of a kernel.

    Example:
        >>> block_means([[1.0, 3.0, 5.0], [1.0, 3.0, 6.0]], (1, 2))
        array([[2., 5.], [2., 6.]])
    """
    scores = np.asarray(scores)
    gone = np.isneginf(scores)
    sums, gone_counts, counts = np.where(gone, 0, scores), gone.astype(np.int64), np.ones(scores.shape, np.int64)
    for axis, size in zip((-2, -1), block_shape, strict=True):
        starts = np.arange(0, scores.shape[axis], size)
        sums, gone_counts, counts = (np.add.reduceat(a, starts, axis=axis) for a in (sums, gone_counts, counts))
    return np.where(gone_counts == counts, -np.inf, sums / counts)


def block_mask(scores: ArrayLike, sparsity: float, block_shape: tuple[int, int]) -> Mask:
    """Marks whole blocks to keep: all but the `sparsity` share with the lowest mean. `scores` is not changed.

    Args:
        scores: Array of at least two dimensions.
        sparsity: Share of blocks that become zero, in 0..1.
        block_shape: See `block_means`.

    Returns:
        Boolean array of the shape of `scores`, `False` where a weight becomes zero.

    Source:
        Narang et al., "Block-Sparse Recurrent Neural Networks", 2017, https://arxiv.org/abs/1711.02782.

    Example:
        >>> block_mask([[1.0, 3.0, 5.0, 0.0], [1.0, 3.0, 6.0, 0.0]], 0.5, (2, 2))
        array([[False, False,  True,  True],
               [False, False,  True,  True]])
    """
    means = block_means(scores, block_shape)
    return _spread(lowest_mask(means, zero_count(means.size, sparsity)), block_shape, np.shape(scores))


def _spread(mask: Mask, block_shape: tuple[int, int], shape: tuple[int, ...]) -> Mask:
    for axis, size in zip((-2, -1), block_shape, strict=True):
        mask = np.repeat(mask, size, axis=axis)
    return np.ascontiguousarray(mask[..., : shape[-2], : shape[-1]])


def comparable(scores: ArrayLike) -> NDArray[np.float64]:
    """Scores of one kernel as numbers in 0..1 that can be compared with those of another. `scores` is not changed.

    The square of a score is divided by the sum of the squares that are at least as high: what is lost of the part of
    the kernel that would be left with it. The order within the kernel stays, scale and size of the kernel no longer
    count, and the highest is 1 everywhere.

    Args:
        scores: Array of any shape; where some are negative, all are counted from the lowest.

    Source:
        Lee et al., "Layer-adaptive sparsity for the Magnitude-based Pruning", 2021, https://arxiv.org/abs/2010.07611,
        equation 3.

    Example:
        >>> comparable([1.0, -np.inf, 3.0]).tolist()
        [0.1, -inf, 1.0]
    """
    scores = np.asarray(scores)
    flat = scores.astype(np.float64).ravel()
    there = ~np.isneginf(flat)
    values = flat[there]
    values = values - min(values.min(initial=0.0), 0.0)
    squares = values * values if values.any() else np.ones_like(values)  # A kernel initialised as zeros.
    order = np.argsort(squares, kind="stable")
    remaining = np.cumsum(squares[order][::-1])[::-1]
    result = np.full(flat.shape, -np.inf)
    result[np.flatnonzero(there)[order]] = squares[order] / remaining
    return result.reshape(scores.shape)


def global_masks(scores: Sequence[ArrayLike], sparsity: float, *, floor: float = FLOOR) -> list[Mask]:
    """Marks what to keep by one ranking over several kernels. `scores` are not changed.

    Args:
        scores: One array for each kernel; they are made `comparable` here.
        sparsity: Share of zeros in all of them together, in 0..1.
        floor: Each kernel keeps at least this share of `1 - sparsity`.

    Returns:
        For each kernel a boolean array, `False` where a weight becomes zero.

    Example:
        >>> [mask.tolist() for mask in global_masks([[1.0, 1.0, 1.0, 1.0], [1.0, 10.0]], 0.5)]
        [[False, False, True, True], [False, True]]
    """
    ranked = [comparable(kernel).ravel() for kernel in scores]
    for kernel in ranked:
        protected = max(1, round(floor * (1 - sparsity) * kernel.size))
        kernel[np.argpartition(kernel, -protected)[-protected:]] = np.inf
    together = np.concatenate(ranked)
    mask = lowest_mask(together, zero_count(together.size, sparsity)) | np.isposinf(together)
    parts = np.split(mask, np.cumsum([kernel.size for kernel in ranked])[:-1])
    return [part.reshape(np.shape(kernel)) for part, kernel in zip(parts, scores, strict=True)]


def _are_two_sizes(shape: object) -> bool:
    return isinstance(shape, (tuple, list)) and len(shape) == 2 and all(map(whole_from(1), shape))


@dataclasses.dataclass(frozen=True)
class Pattern:
    """What becomes zero together, and what it is compared with.

    Args:
        granularity: "weight", "block", or "n:m" such as "2:4": n of every m consecutive inputs stay.
        ranking: "layer": each kernel has the sparsity. "global": all kernels together have it.
        block_shape: (inputs, outputs) of one block.

    Raises:
        ArgumentError: There is no such pattern.

    Example:
        >>> Pattern("2:4").mask([[4.0], [3.0], [2.0], [1.0]], 0.5).ravel()
        array([ True,  True, False, False])
    """

    granularity: str = "weight"
    ranking: Ranking = "layer"
    block_shape: tuple[int, int] = (1, 4)

    def __post_init__(self) -> None:
        check = functools.partial(check_argument, "The pattern")
        granularity, ranking, shape = self.granularity, self.ranking, self.block_shape
        kinds = "'weight', 'block', or n of m like '2:4' with n below m"
        check("granularity", granularity, lambda name: name in ("weight", "block") or self.n_of_m is not None, kinds)
        check("ranking", ranking, lambda name: name in ("layer", "global"), "'layer' or 'global'")
        if self.n_of_m is not None:
            check("ranking", ranking, lambda name: name == "layer", f"'layer' with granularity={granularity!r}")
        two = "two whole numbers of at least 1, (inputs, outputs)"
        check("block_shape", shape, _are_two_sizes, two)
        object.__setattr__(self, "block_shape", tuple(shape))

    @property
    def n_of_m(self) -> tuple[int, int] | None:
        """How many of how many stay, where the pattern says so."""
        match = re.fullmatch(r"([1-9]\d*):([1-9]\d*)", str(self.granularity))
        return (int(match[1]), int(match[2])) if match and int(match[1]) < int(match[2]) else None

    def check_sparsity(self, sparsity: float) -> None:
        """Refuses a sparsity that contradicts the pattern.

        Raises:
            ArgumentError: It is not that of N of M.
        """
        if self.n_of_m is not None:
            share = 1 - self.n_of_m[0] / self.n_of_m[1]
            expected = f"{share:g} with granularity={self.granularity}"
            check_argument("The pattern", "sparsity", sparsity, lambda given: abs(given - share) < 1e-6, expected)

    def mask(self, scores: ArrayLike, sparsity: float, axis: int = -2) -> Mask:
        """Marks what to keep in one kernel.

        On the way to the full sparsity of N of M, the lowest go first of those that will not stay.

        Args:
            scores: What is lowest goes first.
            sparsity: Share of zeros, in 0..1.
            axis: Input axis of the kernel.
        """
        scores = np.asarray(scores)
        if self.granularity == "block":
            return block_mask(scores, sparsity, self.block_shape)
        if self.n_of_m is None:
            return lowest_mask(scores, zero_count(scores.size, sparsity))
        stays = n_of_m_mask(scores, *self.n_of_m, axis=axis)
        return stays | lowest_mask(np.where(stays, np.inf, scores), zero_count(scores.size, sparsity))

    def global_masks(self, scores: Sequence[ArrayLike], sparsity: float) -> list[Mask]:
        """Marks what to keep in several kernels by one ranking.

        Args:
            scores: For each kernel; what is lowest goes first.
            sparsity: Share of zeros in all of them together, in 0..1.
        """
        if self.granularity != "block":
            return global_masks(scores, sparsity)
        masks = global_masks([block_means(kernel, self.block_shape) for kernel in scores], sparsity)
        return [_spread(m, self.block_shape, np.shape(kernel)) for m, kernel in zip(masks, scores, strict=True)]
