"""Scales of weights: from the largest weight, or from where clipping it pays."""

from __future__ import annotations

import numpy as np

from bigmodel.quantization.fake import weight_codes
from bigmodel.quantization.table import WeightQuantization

# Candidates of the search, as shares of the min-max scale. Below a fifth, a 4-bit grid clips more than it resolves.
_SHARES = np.linspace(1.0, 0.2, 81)


def min_max_scale(weights: np.ndarray, quantization: WeightQuantization) -> np.ndarray:
    """Returns the scales with which the largest weight of each takes the largest code.

    Args:
        weights: The weights.
        quantization: Their bits, channel axes and granularity.
    """
    return np.asarray(quantization.min_max_scale(weights))


def mse_scale(weights: np.ndarray, quantization: WeightQuantization) -> np.ndarray:
    """Returns the scales of the least squared error of the rounded weights, by a search of the clipping.

    Weights that lie on the min-max grid already keep it: nothing has a smaller error than none (Banner et al., 2019,
    derive the optimum for weights of a known distribution; the search needs none).

    Args:
        weights: The weights.
        quantization: Their bits, channel axes and granularity.

    Example:
        >>> four_bits = WeightQuantization(4, (-1,))
        >>> outlier = np.linspace(-1, 1, 64, dtype="float32")[:, None] * np.r_[np.ones(63), 1.5][:, None]
        >>> bool(mse_scale(outlier, four_bits) < min_max_scale(outlier, four_bits))
        True
    """
    widest = min_max_scale(weights, quantization)
    if quantization.bits <= 2:  # `fake.symmetric_scale` clips these few codes already
        return widest
    kept = {axis % weights.ndim for axis in quantization.scale_axes}
    reduced = tuple(axis for axis in range(weights.ndim) if axis not in kept)
    best, least = widest, np.full(widest.shape, np.inf)
    for share in _SHARES:
        scale = (share * widest).astype(np.float32)
        error = weights - scale * np.asarray(weight_codes(weights, scale, quantization.bits))
        loss = np.sum(np.square(error, dtype=np.float64), axis=reduced, keepdims=True)
        best, least = np.where(loss < least, scale, best), np.minimum(loss, least)
    return best
