"""Whether XLA pays: measured on a few steps, where there is a GPU."""

from __future__ import annotations

import math
import statistics
import time
from typing import Any

import keras
import tensorflow as tf

from bigmodel.training.cloning import clone_uncompiled
from bigmodel.training.compilation import Compilation

_STEPS = 5


def choose_xla(model: keras.Model, compilation: Compilation, batches: tf.data.Dataset) -> bool | None:
    """Says whether a model's training step is to be compiled by XLA. The model is not changed.

    Args:
        model: The model to train.
        compilation: How it is compiled.
        batches: Its data.

    Returns:
        `None` where the model stays as it is compiled: there is no GPU (on CPUs XLA's step takes several times as long,
        and Keras leaves it off), or Keras or the caller turned XLA off.
    """
    is_on = not compilation.is_custom and compilation.settings.get("jit_compile") is True
    if not is_on or not tf.config.list_physical_devices("GPU"):
        return None
    batch = next(iter(batches.take(1)))
    with_xla, without = (_seconds(model, compilation, batch, jit) for jit in (True, False))
    return with_xla <= without


def _seconds(model: keras.Model, compilation: Compilation, batch: Any, jit: bool) -> float:
    """Median seconds of a step behind the first two, which trace and compile; endless if it can't be compiled."""
    copy = clone_uncompiled(model)
    compilation.apply(copy, jit=jit)
    times = []
    try:
        for _ in range(2 + _STEPS):
            begin = time.perf_counter()
            copy.train_on_batch(*batch)
            times.append(time.perf_counter() - begin)
    except tf.errors.OpError:
        return math.inf
    return statistics.median(times[2:])
