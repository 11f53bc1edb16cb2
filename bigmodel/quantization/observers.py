"""Observers: the range of an activation, from what was seen of it.

Each is a function of what one pass or two over the calibration data leave: the extremes of every batch, or a histogram.
All ranges contain zero, as the runtime's grids do.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

Extremes = tuple[float, float]

BINS = 2048
# Share of the values that the percentile keeps, on both sides together.
_KEPT = 0.9999
# Weight of what was seen before in the moving average of batches.
_MOMENTUM = 0.9
# Candidates of the searches, as shares of the whole range.
_SHARES = np.linspace(1.0, 0.05, 96)


@dataclasses.dataclass(frozen=True, eq=False)
class Histogram:
    """How often values were seen.

    Args:
        low: Where the first bin begins.
        high: Where the last one ends.
        counts: Values in each of the equally wide bins.
    """

    low: float
    high: float
    counts: np.ndarray

    @property
    def centers(self) -> np.ndarray:
        """The middle of each bin."""
        width = (self.high - self.low) / len(self.counts)
        return self.low + width * (np.arange(len(self.counts)) + 0.5)


def extremes(values: np.ndarray) -> Extremes:
    """Returns the least and the largest of some values and zero."""
    return float(values.min(initial=0.0)), float(values.max(initial=0.0))


def observed(
    passes: Callable[[], Iterable[Sequence[np.ndarray]]], observers: Sequence[str]
) -> list[dict[str, Extremes]]:
    """Returns for each of several tensors the range that each observer gives it.

    Args:
        passes: Starts a pass over the calibration data, which yields the tensors' values batch by batch; a second pass
            is made for observers that read histograms.
        observers: Names from `BY_EXTREMES` and `BY_HISTOGRAM`.
    """
    seen = [[extremes(values) for values in batch] for batch in passes()]
    tensors = list(zip(*seen, strict=True))
    found = [{name: BY_EXTREMES[name](batches) for name in observers if name in BY_EXTREMES} for batches in tensors]
    by_histogram = [name for name in observers if name in BY_HISTOGRAM]
    if by_histogram:
        whole = [min_max(batches) for batches in tensors]
        counts = [np.zeros(BINS) for _ in tensors]
        for batch in passes():
            for i, values in enumerate(batch):
                counts[i] += np.histogram(values, bins=BINS, range=_widened(*whole[i]))[0]
        for ranges, (low, high), count in zip(found, whole, counts, strict=True):
            histogram = Histogram(*_widened(low, high), count)
            ranges |= {name: BY_HISTOGRAM[name](histogram) if high > low else (low, high) for name in by_histogram}
    return found


def _widened(low: float, high: float) -> Extremes:
    """A range that a histogram can have: of zeros only, any."""
    return (low, high) if high > low else (low, low + 1.0)


def min_max(batches: Sequence[Extremes]) -> Extremes:
    """Returns the extremes of all batches.

    Args:
        batches: The extremes of each.

    Example:
        >>> min_max([(0.0, 2.0), (-1.0, 1.0)])
        (-1.0, 2.0)
    """
    lows, highs = zip(*batches, strict=True)
    return min(lows), max(highs)


def moving_average(batches: Sequence[Extremes], momentum: float = _MOMENTUM) -> Extremes:
    """Returns the moving average of the batches' extremes, from the first on (Jacob et al., 2018, section 3.1).

    Args:
        batches: The extremes of each, in their order.
        momentum: Weight of what was seen before.

    Example:
        >>> moving_average([(0.0, 1.0), (0.0, 2.0)], momentum=0.5)
        (0.0, 1.5)
    """
    low, high = batches[0]
    for next_low, next_high in batches[1:]:
        low, high = momentum * low + (1 - momentum) * next_low, momentum * high + (1 - momentum) * next_high
    return low, high


def percentile(seen: Histogram, kept: float = _KEPT) -> Extremes:
    """Returns the range without the outermost values of each side.

    Args:
        seen: The histogram.
        kept: Share of the values within the range; half of the others is cut on each side.
    """
    shares = np.cumsum(seen.counts) / seen.counts.sum()
    edges = np.linspace(seen.low, seen.high, len(seen.counts) + 1)
    cut = (1.0 - kept) / 2
    low = edges[np.searchsorted(shares, cut, side="right")]
    high = edges[np.searchsorted(shares, 1.0 - cut) + 1]
    return min(float(low), 0.0), max(float(high), 0.0)


def mse(seen: Histogram, levels: int = 256) -> Extremes:
    """Returns the range whose grid has the least squared error, by a search of either side in turn.

    Args:
        seen: The histogram.
        levels: Codes of the grid.
    """
    values, counts = seen.centers, seen.counts

    def error(low: np.ndarray, high: np.ndarray) -> np.ndarray:
        step = np.maximum(high - low, 1e-12)[:, None] / (levels - 1)
        zero = np.round(-low[:, None] / step)
        codes = np.clip(np.round(values / step) + zero, 0, levels - 1)
        return np.square((codes - zero) * step - values) @ counts

    low, high = min(seen.low, 0.0), max(seen.high, 0.0)
    for _ in range(2):
        highs = _SHARES * max(seen.high, 0.0)
        high = float(highs[np.argmin(error(np.full_like(highs, low), highs))])
        lows = _SHARES * min(seen.low, 0.0)
        low = float(lows[np.argmin(error(lows, np.full_like(lows, high)))])
    return low, high


def entropy(seen: Histogram, levels: int = 256) -> Extremes:
    """Returns the range with which least of the distribution is lost: the least Kullback-Leibler divergence.

    The calibration of TensorRT (Migacz, 2017), for ranges that need not be symmetric: both ends shrink by one factor.
    Zeros lie on every grid and tell nothing, but after a ReLU they are most of what was seen; their bin takes the count
    of the one beside it.

    Args:
        seen: The histogram.
        levels: Codes of the grid.
    """
    edges = np.linspace(seen.low, seen.high, len(seen.counts) + 1)
    counts = seen.counts.copy()
    zero = min(max(int(np.searchsorted(edges, 0.0, side="right")) - 1, 0), len(counts) - 1)
    counts[zero] = counts[zero + 1 if zero + 1 < len(counts) else zero - 1]
    best, least = (min(seen.low, 0.0), max(seen.high, 0.0)), np.inf
    for share in _SHARES:
        first = int(np.searchsorted(edges, share * min(seen.low, 0.0), side="right")) - 1
        last = int(np.searchsorted(edges, share * max(seen.high, 0.0), side="left"))
        first, last = max(first, 0), min(last, len(counts))
        if last - first < levels:
            break
        divergence = _divergence(counts, first, last, levels)
        if divergence < least:
            best, least = (min(float(edges[first]), 0.0), max(float(edges[last]), 0.0)), divergence
    return best


def _divergence(counts: np.ndarray, first: int, last: int, levels: int) -> float:
    """The divergence of bins `first` to `last`, the others gathered at their ends, from what `levels` codes leave."""
    kept = counts[first:last]
    clipped = kept.copy()
    clipped[0] += counts[:first].sum()
    clipped[-1] += counts[last:].sum()
    code = np.arange(len(kept)) * levels // len(kept)
    filled = kept > 0
    # A code's count is spread evenly over those of its bins in which there is something.
    share = np.bincount(code, kept, levels) / np.maximum(np.bincount(code, filled, levels), 1)
    coarse = np.where(filled, share[code], 0.0)
    p, q = clipped / clipped.sum(), coarse / max(coarse.sum(), 1e-12)
    present = p > 0
    return float(np.sum(p[present] * np.log(p[present] / np.maximum(q[present], 1e-12))))


BY_EXTREMES: Mapping[str, Callable[[Sequence[Extremes]], Extremes]] = {
    "min_max": min_max,
    "moving_average": moving_average,
}
BY_HISTOGRAM: Mapping[str, Callable[[Histogram], Extremes]] = {
    "percentile": percentile,
    "mse": mse,
    "entropy": entropy,
}
OBSERVERS = (*BY_EXTREMES, *BY_HISTOGRAM)
"""The names of the observers, the cheapest first."""
