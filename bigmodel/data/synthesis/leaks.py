"""Synthetic samples that repeat validation or test samples would make both look better than they are."""

from __future__ import annotations

from typing import Final

import numpy as np

from bigmodel.data.splits import Data, Split
from bigmodel.data.synthesis.rows import Rows

NEAR: Final = 0.1
"""A synthetic sample is a near duplicate of a held-out one below this share of the distance that is usual between a
held-out sample and the nearest real one."""
HELD_OUT_SAMPLES: Final = 4096
"""Most samples of a held-out split that are compared."""
_BLOCK: Final = 512


def without_leaks(made: Rows, real: Rows, data: Data) -> tuple[Rows, tuple[str, ...]]:
    """Drops synthetic samples that are, or nearly are, validation or test samples.

    Distances are Euclidean, over all features divided by their deviations. A synthetic sample that merely repeats a
    real training sample says nothing new of the held-out ones and stays.

    Args:
        made: Synthetic samples.
        real: The real ones of train.
        data: The splits.

    Returns:
        The samples that stay, and notes.
    """
    scale = real.matrix().std(0) + 1e-6
    new, own = made.matrix() / scale, real.matrix() / scale
    leaked = np.zeros(made.size, bool)
    notes = []
    for split in (data.validation, data.test):
        if split is None:
            continue
        held = _matrix(split) / scale
        usual = float(np.median(nearest(held, own)[0]))
        found = nearest(new, held)[0] <= NEAR * usual
        found &= nearest(new, own)[0] > 0
        leaked |= found
        notes.append(f"synthesis: {found.sum()} of {made.size} samples dropped as (near) duplicates of {split.name}")
    return made.take(np.flatnonzero(~leaked)), tuple(notes)


def nearest(points: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Finds for each point the distance to the nearest of the others, and its number.

    Args:
        points: Of shape (n, features).
        others: Of shape (m, features), m at least 1.

    Example:
        >>> nearest(np.array([[0.0], [5.0]]), np.array([[1.0], [7.0], [4.0]]))
        (array([1., 1.]), array([0, 2]))
    """
    numbers = np.empty(len(points), np.int64)
    square = (others**2).sum(1)
    for start in range(0, len(points), _BLOCK):
        block = points[start : start + _BLOCK]
        numbers[start : start + _BLOCK] = (square - 2 * block @ others.T).argmin(1)
    # From the difference: the products above lose what two near points differ in.
    return np.linalg.norm(points - others[numbers], axis=1), numbers


def _matrix(split: Split) -> np.ndarray:
    return Rows(*split.sample(HELD_OUT_SAMPLES).arrays()).matrix()
