"""Which weights are kept: the maths of pruning on arrays alone, without a model."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def zero_count(size: int, sparsity: float) -> int:
    """How many of `size` weights are zero at a sparsity.

    At least one weight is kept. Halves round to even; tfmot rounds the number of *kept* weights instead, so that both
    differ by one weight where `sparsity * size` is exactly a half and `size` is odd.

    Args:
        size: Number of weights.
        sparsity: Share of zeros in 0..1.

    Example:
        >>> zero_count(10, 0.75), zero_count(3, 0.9)
        (8, 2)
    """
    return max(min(round(sparsity * size), size - 1), 0)


def magnitude_mask(weights: ArrayLike, sparsity: float) -> NDArray[np.bool_]:
    """Marks the weights to keep: all but the `sparsity` share that is smallest in magnitude. `weights` is not changed.

    The count of zeros is exact: among equal magnitudes the first in memory order are dropped.

    Args:
        weights: Array of any shape.
        sparsity: Share of zeros in 0..1.

    Returns:
        Boolean array of the shape of `weights`, `False` where a weight becomes zero.

    Source:
        Han et al., "Learning both Weights and Connections for Efficient Neural Networks", 2015,
        https://arxiv.org/abs/1506.02626.

    Example:
        >>> magnitude_mask([0.1, -3.0, 2.0, -0.5], sparsity=0.5)
        array([False,  True,  True, False])
    """
    weights = np.asarray(weights)
    return lowest_mask(np.abs(weights), zero_count(weights.size, sparsity))


def lowest_mask(scores: ArrayLike, zeros: int) -> NDArray[np.bool_]:
    """Marks what to keep: all but the `zeros` lowest scores. `scores` is not changed.

    The count of zeros is exact: among equal scores the first in memory order are dropped.

    Args:
        scores: Array of any shape.
        zeros: How many are dropped.

    Returns:
        Boolean array of the shape of `scores`, `False` where a weight becomes zero.

    Example:
        >>> lowest_mask([2.0, -1.0, 0.5], 1)
        array([ True, False,  True])
    """
    scores = np.asarray(scores)
    if zeros == 0:
        return np.ones(scores.shape, dtype=bool)
    # NumPy sorts neither bfloat16 nor float16 quickly; both fit float32 exactly.
    scores = scores.astype(np.float32) if scores.dtype.itemsize < 4 else scores
    # This runs within the training loop: a selection, not a sort, and without the lowest, which are all those that were
    # dropped before: ties would slow it down.
    lowest = scores.min()
    ranked = scores[scores != lowest]
    rank = zeros - 1 - (scores.size - ranked.size)
    if rank >= 0:
        ranked.partition(rank)
    threshold = ranked[rank] if rank >= 0 else lowest
    mask = ~(scores < threshold)
    ties = np.flatnonzero(scores == threshold)
    mask.reshape(-1)[ties[: zeros - np.count_nonzero(~mask)]] = False
    return mask


def sparsity_of(weights: ArrayLike) -> float:
    """Share of weights that are exactly zero, as a fraction in 0..1.

    Example:
        >>> sparsity_of([0.0, 1.0, -0.0, 2.0])
        0.5
    """
    weights = np.asarray(weights)
    return float(np.count_nonzero(weights == 0) / weights.size) if weights.size else 0.0
