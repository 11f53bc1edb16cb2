"""Two evaluations of the same samples against each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bigmodel.errors import ArgumentError
from bigmodel.evaluation.outputs import output_agreement

if TYPE_CHECKING:
    from bigmodel.evaluation.evaluation import Evaluation
    from bigmodel.evaluation.metric import Metric

REPLICATES = 2000
"""Resamples where the metric is a mean over samples."""

METRIC_REPLICATES = 200
"""Resamples where the metric has to be computed anew for each, such as an AUC."""


def agreement(a: Evaluation, b: Evaluation) -> float:
    """Returns how far two evaluations of the same samples agree, 0..1; for several outputs the mean over them.

    Args:
        a: The reference.
        b: The other; kind and spread of each output are taken from `a`.

    Returns:
        For classes the share of equal top-1 decisions, for yes or no the share on the same side of one half, for values
        `1 - mean|a - b| / std(a)`, clipped to 0..1.

    Raises:
        ArgumentError: They do not hold the same samples and outputs.
    """
    pairs = _matched(a, b)
    return float(np.mean([output_agreement(x, y, kind) for (x, y), kind in zip(pairs, a.kinds, strict=True)]))


def output_difference(a: Evaluation, b: Evaluation) -> float:
    """Returns the mean absolute difference of the outputs; for several outputs the mean over them.

    Raises:
        ArgumentError: They do not hold the same samples and outputs.
    """
    return float(np.mean([np.mean(np.abs(x.astype(np.float64) - y)) for x, y in _matched(a, b)]))


def drop_interval(
    reference: Evaluation, candidate: Evaluation, metric: Metric, *, seed: int = 0
) -> tuple[float, float]:
    """Returns the 95 % interval of the metric's drop, by a paired bootstrap: both see the same resamples.

    Pairing cancels what the samples have in common, so the interval is far narrower than that of either metric. It
    says how the drop would vary over other test samples, and nothing about other training runs.

    Args:
        reference: What the drop is measured from.
        candidate: What may have dropped, on the same samples.
        metric: The primary metric of both.
        seed: Seed of the resampling.

    Returns:
        The 2.5th and the 97.5th percentile of the drop, in `Metric.drop`'s units.

    Raises:
        ArgumentError: They do not hold the same samples and outputs.

    Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13 (percentile interval).
    """
    _matched(reference, candidate)
    rng = np.random.default_rng(seed)
    count = reference.samples
    if reference.scores is not None and candidate.scores is not None:
        means = _resampled_means(reference.scores, candidate.scores, rng)
        drops = [metric.drop(*pair) for pair in means]
    else:
        before, after = reference.resampled, candidate.resampled
        if before is None or after is None:
            raise ArgumentError(
                "There are no scores to resample.",
                received="an Evaluation without scores",
                expected="the result of evaluate_model or evaluate_file",
                fix="Evaluate again.",
            )
        indexes = (rng.integers(0, count, count) for _ in range(METRIC_REPLICATES))
        drops = [metric.drop(before(index), after(index)) for index in indexes]
    low, high = np.percentile(drops, [2.5, 97.5])
    return float(low), float(high)


def _resampled_means(a: np.ndarray, b: np.ndarray, rng: np.random.Generator) -> list[tuple[float, float]]:
    """Returns the means of both over the same resamples.

    How often each sample is drawn is multinomial. Samples with equal pairs of scores are drawn together: for accuracies
    there are four such groups, whatever the number of samples.
    """
    pairs, counts = np.unique(np.stack([a, b], axis=1), axis=0, return_counts=True)
    means: list[tuple[float, float]] = []
    for _ in range(REPLICATES):
        drawn = rng.multinomial(len(a), counts / len(a))
        first, second = drawn @ pairs / len(a)
        means.append((float(first), float(second)))
    return means


def _matched(a: Evaluation, b: Evaluation) -> list[tuple[np.ndarray, np.ndarray]]:
    pairs = list(zip(_leaves(a.outputs), _leaves(b.outputs), strict=False))
    same_count = len(_leaves(a.outputs)) == len(_leaves(b.outputs))
    if a.samples != b.samples or not same_count or any(x.shape != y.shape for x, y in pairs):
        raise ArgumentError(
            "The evaluations are not of the same samples and outputs.",
            received=f"{a.samples} and {b.samples} samples, outputs {_shapes(a)} and {_shapes(b)}",
            expected="two evaluations on the same split",
            fix="Evaluate both on the same split.",
        )
    return pairs


def _shapes(evaluation: Evaluation) -> list[tuple[int, ...]]:
    return [leaf.shape for leaf in _leaves(evaluation.outputs)]


def _leaves(structure: Any) -> list[np.ndarray]:
    """Returns the arrays of a structure, dicts by sorted key."""
    if isinstance(structure, dict):
        return [leaf for key in sorted(structure) for leaf in _leaves(structure[key])]
    if isinstance(structure, (list, tuple)):
        return [leaf for part in structure for leaf in _leaves(part)]
    return [structure]
