"""How long one call of a .tflite file takes. Needs neither Keras nor TensorFlow."""

from __future__ import annotations

import dataclasses
import gc
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bigmodel.errors import ArgumentError, describe
from bigmodel.litert import Delegate, LiteModel, TensorInfo

_BLOCKS = 20  # turns of every file; a slow spell of the machine hits all of them
_MIN_RUNS, _MAX_RUNS = 40, 4000


@dataclasses.dataclass(frozen=True)
class Latency:
    """Time of one warm call with one sample, input and output copies not counted.

    Args:
        median_ms: Half of the runs took at most this many milliseconds.
        p95_ms: 95 % of the runs took at most this many milliseconds.
        runs: Runs that were timed.
        threads: CPU threads of the kernels.
        delegate: "xnnpack", or `None` for the built-in kernels.
    """

    median_ms: float
    p95_ms: float
    runs: int
    threads: int
    delegate: Delegate


def measure_latency(
    paths: Sequence[str | os.PathLike[str]],
    *,
    threads: int = 1,
    delegate: Delegate = "xnnpack",
    sample: Any = None,
    seconds: float = 0.5,
) -> list[Latency]:
    """Measures files against each other: warm, interleaved, one sample per call. The files are not changed.

    The files take turns in short blocks, so that a slow spell of the machine is shared. Every block starts with two
    runs that are not timed and bring the file back into the caches.

    Args:
        paths: The .tflite files.
        threads: CPU threads of the kernels.
        delegate: "xnnpack", or `None` for the built-in kernels.
        sample: One sample (first axis of size 1) in the form `LiteModel.predict` takes, for every file; `None`: drawn
            from a fixed seed, free axes of size 1. Pass one where a time or image axis is free.
        seconds: Time spent on each file, about; at least 40 runs are timed.

    Returns:
        One `Latency` per path, in order.

    Raises:
        ArgumentError: A file is missing, or an argument can't be used.
        ConversionError: A file can't be run.
    """
    if not seconds > 0:
        raise ArgumentError(
            "seconds can't be used.",
            received=describe(seconds),
            expected="a number above 0",
            fix="Pass seconds=0.5.",
        )
    models = [LiteModel(path, threads=threads, delegate=delegate) for path in paths]
    runs = [model.load(_random_sample(model.inputs) if sample is None else sample) for model in models]
    counts = [_runs_per_block(run, seconds) for run in runs]
    times: list[list[int]] = [[] for _ in runs]
    collecting = gc.isenabled()
    gc.disable()
    try:
        for _ in range(_BLOCKS):
            for run, count, taken in zip(runs, counts, times, strict=True):
                run()
                run()
                taken.extend(_time(run) for _ in range(count))
    finally:
        if collecting:
            gc.enable()
    return [_summary(taken, threads, delegate) for taken in times]


def _runs_per_block(run: Callable[[], None], seconds: float) -> int:
    warm = [_time(run) for _ in range(5)]
    total = seconds * 1e9 / max(float(np.median(warm)), 1.0)
    return round(min(max(total, _MIN_RUNS), _MAX_RUNS) / _BLOCKS)


def _time(run: Callable[[], None]) -> int:
    begin = time.perf_counter_ns()
    run()
    return time.perf_counter_ns() - begin


def _summary(nanoseconds: Sequence[int], threads: int, delegate: Delegate) -> Latency:
    median, p95 = np.percentile(nanoseconds, [50, 95]) / 1e6
    return Latency(float(median), float(p95), len(nanoseconds), threads, delegate)


def _random_sample(inputs: Sequence[TensorInfo]) -> list[np.ndarray]:
    """Returns one sample of every input. Zeros would be unfair: some kernels are faster on them."""
    rng = np.random.default_rng(0)
    sample = []
    for info in inputs:
        shape = tuple(1 if n is None else n for n in info.shape)
        is_index = info.scale is None and np.dtype(info.dtype).kind in "iub"
        sample.append(np.zeros(shape, info.dtype) if is_index else rng.random(shape, dtype=np.float32))
    return sample
