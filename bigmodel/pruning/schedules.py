"""Pruning schedules: plain functions `step -> progress`, with progress rising from 0 to 1.

A schedule says how far pruning has come, not how sparse a layer is: a layer's sparsity at a step is
`initial + (final - initial) * progress`.
"""

from __future__ import annotations

from collections.abc import Callable

Schedule = Callable[[int], float]
"""Maps the number of finished training steps to a progress in 0..1."""


def polynomial(begin_step: int, end_step: int, power: float = 3) -> Schedule:
    """Progress that rises steeply at first and flattens towards the end.

    Args:
        begin_step: Step up to which progress is 0.
        end_step: Step from which progress is 1.
        power: Exponent; 3 is the published choice, 1 a straight line.

    Returns:
        `step -> 1 - (1 - (step - begin_step) / (end_step - begin_step)) ** power`, held at 0 before and at 1 after.

    Source:
        Zhu and Gupta, "To prune, or not to prune", 2017, https://arxiv.org/abs/1710.01878, equation 1.

    Example:
        >>> [polynomial(0, 4)(step) for step in (0, 2, 4, 9)]
        [0.0, 0.875, 1.0, 1.0]
    """

    def progress(step: int) -> float:
        if step >= end_step:
            return 1.0
        if step <= begin_step:
            return 0.0
        remaining = 1.0 - (step - begin_step) / (end_step - begin_step)
        return float(1.0 - remaining**power)

    return progress


def constant(begin_step: int = 0) -> Schedule:
    """Full pruning from one step on.

    Args:
        begin_step: Step from which progress is 1.

    Example:
        >>> [constant(10)(step) for step in (9, 10)]
        [0.0, 1.0]
    """

    def progress(step: int) -> float:
        return 1.0 if step >= begin_step else 0.0

    return progress
