"""Synthetic samples drawn from the real ones: drawn again and perturbed, classes balanced, SMOTE.

Source: N. V. Chawla et al., SMOTE: Synthetic Minority Over-sampling Technique, JAIR 2002; G. Lemaître et al.,
Imbalanced-learn, JMLR 2017.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection

import keras
import numpy as np

from bigmodel.data.synthesis.rows import Rows
from bigmodel.errors import DataError, DependencyError

_NEIGHBOURS = 5


def resampled(real: Rows, count: int, seed: int, *, perturbation: float) -> Rows:
    """Draws samples with replacement, all alike, and adds noise.

    Args:
        real: The real samples.
        count: How many to make.
        seed: Seed of the draw and the noise.
        perturbation: Deviation of the noise, in deviations of each feature; features of whole numbers get none.
    """
    rows = np.random.default_rng(seed).integers(real.size, size=count)
    return _perturbed(real, rows, perturbation, seed)


def balanced(real: Rows, count: int, seed: int, *, perturbation: float) -> Rows:
    """Draws samples of the rare classes, which are raised together, and adds noise. Arguments are those of `resampled`.

    Raises:
        DataError: The labels are no classes.
    """
    rng = np.random.default_rng(seed)
    rows = [rng.choice(np.flatnonzero(real.classes == c), more) for c, more in missing(real, count).items()]
    return _perturbed(real, np.concatenate(rows).astype(np.int64), perturbation, seed)


def smote(real: Rows, count: int, seed: int) -> Rows:
    """Makes samples of the rare classes between neighbours of the same class, through imbalanced-learn.

    Args:
        real: The real samples; a class of one sample has no neighbours and gets none.
        count: How many to make.
        seed: Seed of the draw.

    Raises:
        DataError: The labels are no classes, or no class has two samples.
        DependencyError: imbalanced-learn is not installed.
    """
    try:
        from imblearn.over_sampling import SMOTE
    except ImportError as error:
        raise DependencyError(
            "SMOTE needs imbalanced-learn.",
            received="no module imblearn",
            expected="the extra 'synthesis'",
            fix="pip install 'bigmodel[synthesis]', or pass method='interpolate'.",
        ) from error
    classes = real.classes
    alone = {int(c) for c, size in zip(*np.unique(classes, return_counts=True), strict=True) if size < 2}
    more = missing(real, count, without=alone)
    sizes = {c: int((classes == c).sum()) for c in more}
    made: list[Rows] = []
    for c, extra in more.items():
        # One class against the rest, so that each has as many neighbours as it can.
        sampler = SMOTE(
            sampling_strategy={1: sizes[c] + extra}, k_neighbors=min(_NEIGHBOURS, sizes[c] - 1), random_state=seed
        )
        own = np.flatnonzero(classes == c)
        others = np.flatnonzero(classes != c)
        matrix = real.matrix()
        x = np.concatenate([matrix[own], matrix[others]]) if len(others) else np.concatenate([matrix[own]] * 2)
        target = np.arange(len(x)) < len(own)
        drawn = sampler.fit_resample(x, target.astype(int))[0][len(x) :]
        labels = real.take(np.resize(own, extra))
        made.append(Rows(real.from_matrix(drawn), labels.y, labels.w))
    return concatenated(made)


def missing(real: Rows, count: int, *, without: Collection[int] = ()) -> dict[int, int]:
    """Says how many samples of each class to make, so that the rarest ones are raised to one level.

    Args:
        real: The real samples.
        count: How many in all.
        without: Classes that get none.

    Raises:
        DataError: The labels are no classes.
    """
    if not real.has_classes:
        raise DataError(
            "There are no classes to balance.",
            received="no labels" if real.y is None else "labels that are no classes",
            expected="labels as integers or one-hot",
            fix="Pass method='resample' or method='interpolate'.",
        )
    classes, sizes = np.unique(real.classes, return_counts=True)
    level = {int(c): int(size) for c, size in zip(classes, sizes, strict=True) if int(c) not in without}
    if not level:
        raise DataError(
            "No class has neighbours.",
            received=f"{len(classes)} classes of one sample each",
            expected="classes of at least two samples",
            fix="Pass method='resample'.",
        )
    extra = dict.fromkeys(level, 0)
    rarest = [(size, c) for c, size in level.items()]
    heapq.heapify(rarest)
    for _ in range(count):
        size, c = heapq.heappop(rarest)
        extra[c] += 1
        heapq.heappush(rarest, (size + 1, c))
    return {c: more for c, more in extra.items() if more}


def concatenated(parts: list[Rows]) -> Rows:
    """Returns all samples in one."""

    def whole(leaves: list[object]) -> object:
        return None if leaves[0] is None else keras.tree.map_structure(lambda *own: np.concatenate(own), *leaves)

    return Rows(*(whole([getattr(part, name) for part in parts]) for name in ("x", "y", "w")))


def _perturbed(real: Rows, rows: np.ndarray, perturbation: float, seed: int) -> Rows:
    drawn = real.take(rows)
    matrix = real.matrix()
    spread = np.where((matrix == np.floor(matrix)).all(0), 0.0, matrix.std(0))
    noise = np.random.default_rng((seed, 1)).normal(size=(len(rows), matrix.shape[1]))
    low, high = matrix.min(0), matrix.max(0)
    varied = np.clip(matrix[rows] + perturbation * spread * noise, low, high)
    return Rows(real.from_matrix(varied.astype("float32")), drawn.y, drawn.w)
