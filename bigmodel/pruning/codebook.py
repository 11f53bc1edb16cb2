"""Codebooks: the few values that a kernel's weights share. Maths on arrays alone."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Initialization = Literal["linear", "density"]

_MOST_ROUNDS = 300


def codebook(
    weights: ArrayLike, clusters: int, *, initialization: Initialization = "linear"
) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    """Finds the shared values of a kernel by k-means, and which weight takes which. `weights` is not changed.

    Zeros are kept apart: where there are any, one shared value is exactly zero, and the zeros alone have it. A kernel
    that already holds no more than `clusters` values keeps them. The result depends on the weights alone.

    Args:
        weights: Array of any shape.
        clusters: Most shared values, the zero included; at least 2.
        initialization: Where k-means starts: "linear" (evenly over the range, Han et al., 2016) or "density" (at
            quantiles).

    Returns:
        The values in ascending order, and for each weight the index of its value.

    Source:
        Han et al., "Deep Compression", 2016, https://arxiv.org/abs/1510.00149, section 3.

    Example:
        >>> values, indices = codebook([0.0, 0.9, 1.1, -2.0], 3)
        >>> values.tolist(), indices.tolist()
        ([-2.0, 0.0, 1.0], [1, 2, 2, 0])
    """
    weights = np.asarray(weights)
    flat = weights.astype(np.float64).ravel()
    zero = flat == 0
    distinct = np.unique(flat)
    if distinct.size > clusters:
        values = k_means(flat[~zero], clusters - bool(zero.any()), initialization=initialization)
        distinct = np.sort(np.append(values, 0.0)) if zero.any() else values
    indices = _nearest(flat, distinct)
    if zero.any():
        # A weight close to zero goes to its neighbour on its own side or beyond: it is not pruned.
        others = np.flatnonzero(distinct)
        indices[~zero] = others[_nearest(flat[~zero], distinct[others])]
    return distinct, indices.astype(np.int32).reshape(weights.shape)


def k_means(values: ArrayLike, clusters: int, *, initialization: Initialization = "linear") -> NDArray[np.float64]:
    """Finds the centroids of numbers by Lloyd's iteration. `values` is not changed.

    No cluster stays empty: the one with the largest squared error is split instead.

    Args:
        values: Numbers, at least one.
        clusters: How many centroids, at least 1; fewer come back if there are fewer different numbers.
        initialization: "linear" (evenly over the range) or "density" (at quantiles).

    Returns:
        The centroids in ascending order.

    Source:
        Lloyd, "Least squares quantization in PCM", 1982.

    Example:
        >>> k_means([1.0, 2.0, 10.0, 12.0], 2).tolist()
        [1.5, 11.0]
    """
    values = np.sort(np.asarray(values, dtype=np.float64).ravel())
    distinct = np.unique(values)
    if distinct.size <= clusters:
        return distinct
    if initialization == "linear":
        centroids = np.linspace(values[0], values[-1], clusters)
    else:
        centroids = np.quantile(values, (np.arange(clusters) + 0.5) / clusters)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    squares = np.concatenate([[0.0], np.cumsum(values**2)])
    bounds = np.empty(0, dtype=np.int64)
    for _ in range(_MOST_ROUNDS):
        found = np.searchsorted(values, (centroids[1:] + centroids[:-1]) / 2, side="right")
        edges = np.unique(np.concatenate([[0], found, [values.size]]))
        while edges.size <= clusters:
            edges = _split_worst(edges, values, sums, squares)
        if np.array_equal(edges, bounds):
            break
        bounds = edges
        centroids = np.diff(sums[edges]) / np.diff(edges)
    return centroids


def _split_worst(
    edges: NDArray[np.int64], values: NDArray[np.float64], sums: NDArray[np.float64], squares: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Splits the cluster with the largest squared error at its mean."""
    counts, totals = np.diff(edges), np.diff(sums[edges])
    errors = np.diff(squares[edges]) - totals**2 / counts
    errors[values[edges[:-1]] == values[edges[1:] - 1]] = -1  # All its values are one.
    worst = int(np.argmax(errors))
    low, high = edges[worst], edges[worst + 1]
    cut = low + np.searchsorted(values[low:high], totals[worst] / counts[worst], side="right")
    cut = min(max(cut, low + 1), high - 1)
    return np.insert(edges, worst + 1, cut)


def _nearest(values: NDArray[np.float64], centroids: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.searchsorted((centroids[1:] + centroids[:-1]) / 2, values, side="left")


def distinct_count(weights: ArrayLike, limit: int) -> int:
    """Number of different values in an array, or `limit + 1` if there are more than `limit`.

    Example:
        >>> distinct_count([1.0, 2.0, 1.0], 8), distinct_count(range(100), 8)
        (2, 9)
    """
    flat = np.asarray(weights).ravel()
    # Most kernels show it in their first few weights.
    for part in (flat[: 8 * (limit + 1)], flat):
        if np.unique(part).size > limit:
            return limit + 1
    return int(np.unique(flat).size)
