"""The learning rate of fine-tuning: a short warm-up, then half a cosine down to zero."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

import keras

SHARE_OF_COMPILED: Final = 0.1
"""The peak of fine-tuning is this share of the learning rate that the model was compiled with."""
_WARMUP_SHARE: Final = 0.1
_LONGEST_WARMUP: Final = 200


def warmup_cosine(peak: float, steps: int) -> keras.optimizers.schedules.LearningRateSchedule:
    """A schedule over optimizer steps: up to the peak within a tenth of them (at most 200), then a cosine to zero.

    Fresh optimizers have no estimate of the gradients' scale yet; full steps would throw trained weights off.

    Args:
        peak: Highest learning rate.
        steps: Length of the training.

    Example:
        >>> schedule = warmup_cosine(0.1, 100)
        >>> [round(float(schedule(step)), 3) for step in (0, 10, 55, 100)]
        [0.01, 0.1, 0.05, 0.0]
    """
    warmup = min(_LONGEST_WARMUP, int(_WARMUP_SHARE * steps))
    if warmup == 0:
        return keras.optimizers.schedules.CosineDecay(peak, max(steps, 1))
    return keras.optimizers.schedules.CosineDecay(0.1 * peak, steps - warmup, warmup_target=peak, warmup_steps=warmup)


def cosine_by_epoch(peak: float, epochs: int) -> Callable[[int, Any], float]:
    """The same course by epochs, for streams of unknown length: `(epoch, rate) -> rate`."""

    def rate(epoch: int, _: Any) -> float:
        return peak * 0.5 * (1 + math.cos(math.pi * epoch / max(epochs, 1)))

    return rate
