"""Where a search for the fewest channels starts: what networks without some of them are worth before any training."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from bigmodel.errors import ArgumentError, ModelError
from bigmodel.evaluation import evaluate_model
from bigmodel.pruning.channels import prune_channels
from bigmodel.quantization import quantize_post_training
from bigmodel.tuning.settings import channels_config, quantize_config
from bigmodel.tuning.trial import Bench


def first_rung(bench: Bench, rungs: Sequence[float], values: Mapping[str, Any]) -> int | None:
    """Returns which share of the parameters a search should try first. Nothing is changed, and nothing is trained.

    By bisection, the smallest one whose network is within the bound as it is: its channels removed, what reads them
    refitted, its weights rounded. Training makes it better, so that the first trial most likely holds, and the search
    goes down from there.

    Args:
        bench: Its model and samples count.
        rungs: Shares of the parameters that are left, from large to small.
        values: The other values of a trial.

    Returns:
        The position in `rungs`, the first where none is; `None` where such networks can't be made.
    """
    low, high = -1, len(rungs)
    try:
        while high - low > 1:
            middle = (low + high) // 2
            holds = drop_untrained(bench, {**values, "channels": rungs[middle]}) <= bench.objective.target.max_drop
            low, high = (middle, high) if holds else (low, middle)
    except (ArgumentError, ModelError):  # the trials will say it again, each for itself
        return None
    return max(low, 0)


def drop_untrained(bench: Bench, values: Mapping[str, Any]) -> float:
    """Returns how far the metric falls when channels go and weights are rounded, as `values` say, without any training.

    Args:
        bench: Its model and samples count; nothing is changed.
        values: A trial's values; only channels, bits and what belongs to bits count.

    Raises:
        ModelError: The model can't lose channels.
        ArgumentError: There are no such bits.
    """
    made: keras.Model = bench.model
    channels, bits = channels_config(made, values), quantize_config(values, bench.quantize)
    if channels is not None:
        untrained = dataclasses.replace(bench.train, epochs=0)
        made = prune_channels(made, bench.data, channels, train=untrained, seed=bench.seed)
    if bits is not None:
        plain = dataclasses.replace(bits, method="post_training")
        made = quantize_post_training(made, bench.data, plain).simulation
    return bench.metric.drop(bench.baseline["metric"], evaluate_model(made, bench.judged, like=bench.model).metric)
