"""The files that compete: measured on themselves, then ranked by the target."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from bigmodel.config import Target
from bigmodel.data import Split
from bigmodel.errors import ArgumentError, ConversionError
from bigmodel.evaluation import (
    Evaluation,
    Metric,
    agreement,
    drop_interval,
    evaluate_file,
    evaluate_model,
    inspect_file,
    output_difference,
)
from bigmodel.export import first_run
from bigmodel.export.formats import format_named
from bigmodel.export.saved_model import input_names
from bigmodel.tuning.objective import SLOWER_ALLOWED

_FIRST_SAMPLES = 16
_ROUNDING = 1e-9
# Channels are removed to a little less than the target.
_TARGET_SHARE = 0.95

Figures = dict[str, Any]

NO_CHOICE: Mapping[str, Any] = {}
"""The runtime as it comes: one thread, with XNNPACK."""


def measure(
    path: Path,
    simulation: keras.Model,
    split: Split,
    *,
    like: keras.Model,
    reference: Evaluation | None,
    metric: Metric,
    runtime: Mapping[str, Any] = NO_CHOICE,
) -> tuple[Figures, Evaluation]:
    """Measures a file, all but its latency. Nothing is changed.

    Args:
        path: The .tflite file.
        simulation: The Keras model that computes as the file should.
        split: The samples to measure on.
        like: The compiled model whose loss and metrics count.
        reference: What the float file answered on the same samples; `None` for the float file itself.
        metric: The metric that decides.
        runtime: Threads and delegate, as `Target.runtime` gives them.

    Returns:
        The figures under the record's names, and the file's answers.

    Raises:
        ConversionError: The file does not run.
    """
    answers = evaluate_file(path, split, like=like, **runtime)
    simulated = evaluate_model(simulation, split, like=like)
    facts = inspect_file(path)
    figures: Figures = {
        "metric": answers.metric,
        "metrics": answers.metrics,
        "samples": answers.samples,
        "agreement": agreement(simulated, answers),
        "output_difference": output_difference(simulated, answers),
        **{name: getattr(facts, name) for name in _FACTS},
    }
    if reference is not None:
        figures["metric_drop"] = metric.drop(reference.metric, answers.metric)
        figures["drop_interval"] = list(drop_interval(reference, answers, metric))
    return figures, answers


_FACTS = ("size_bytes", "gzip_bytes", "parameters", "macs", "sparsity", "arena_bytes")


def file_inputs(model: keras.Model, x: Any) -> Any:
    """Returns samples that a model takes as its file takes them: by the names of its inputs, if there are several."""
    leaves = keras.tree.flatten(x)
    return leaves[0] if len(leaves) == 1 else dict(zip(input_names(model), leaves, strict=True))


def try_out(path: Path, split: Split, model: keras.Model, runtime: Mapping[str, Any] = NO_CHOICE) -> None:
    """Runs a file for the first time, in a child process.

    Args:
        path: The file.
        split: Where samples come from.
        model: The model that the file was made from.
        runtime: Threads and delegate, as `Target.runtime` gives them.

    Raises:
        ConversionError: It crashes, hangs, or answers with what is no number: some kernels read outside their buffers.
    """
    x, _, _ = split.sample(_FIRST_SAMPLES).arrays()
    answers = first_run(path, file_inputs(model, x), **runtime)
    if not all(np.all(np.isfinite(part)) for part in keras.tree.flatten(answers) if part.dtype.kind == "f"):
        raise ConversionError(
            f"{path.name} computes garbage.",
            received="outputs that are not finite numbers",
            expected="finite outputs",
            fix="Leave this format out; the runtime's kernel for one of its operations is broken.",
        )


@dataclasses.dataclass(frozen=True)
class Choice:
    """The outcome of a ranking.

    Args:
        name: The chosen candidate.
        target_met: Whether it keeps every bound.
        reasons: For each candidate that was measured, why it was chosen or lost.
    """

    name: str
    target_met: bool
    reasons: dict[str, str]


def choose(candidates: Sequence[Mapping[str, Any]], target: Target, metric: Metric, float_latency_ms: float) -> Choice:
    """Ranks measured candidates by the target.

    Among those within all bounds, `target.optimize` decides; of equally good ones, the one with the better metric. If
    none is within, the one with the best metric is taken and `target_met` is false.

    Args:
        candidates: Figures with name, metric, metric_drop, size_bytes and latency_ms, at least one.
        target: Bounds and order.
        metric: The metric that decides.
        float_latency_ms: Latency of the float file.
    """
    broken = {c["name"]: _broken_bounds(c, target, metric) for c in candidates}
    within = [c for c in candidates if not broken[c["name"]]]
    if within:
        best = min(within, key=lambda c: (*_rank(c, target, float_latency_ms), _loss(c, metric), c["name"]))
        chosen = _why_chosen(best, target, float_latency_ms)
    else:
        best = min(candidates, key=lambda c: (_loss(c, metric), c["size_bytes"], c["name"]))
        chosen = "best metric, as none keeps the bounds"
    reasons = {
        c["name"]: chosen if c is best else "; ".join(broken[c["name"]]) or _why_lost(c, best, target, float_latency_ms)
        for c in candidates
    }
    return Choice(best["name"], bool(within), reasons)


def _loss(c: Mapping[str, Any], metric: Metric) -> float:
    """The metric as a number that is to be small; what is no number is the worst."""
    value = -c["metric"] if metric.higher_is_better else c["metric"]
    return math.inf if math.isnan(value) else value


def channel_budget(target: Target, candidates: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Returns what may be left of a network so that its best files keep the target's size and latency.

    Args:
        target: The bounds.
        candidates: Figures of the whole network's files.

    Returns:
        Fractions for `PruneConfig.budget`, a little below the target: files pad their buffers, and timings are noisy.
        Empty where size and latency are kept already.

    Raises:
        ArgumentError: The size is below what a file needs besides its weights.

    Example:
        >>> file = {"format": "dynamic_int8", "status": "lost", "size_bytes": 12_000, "parameters": 10_000}
        >>> channel_budget(Target(size=7_000), [file])
        {'parameters': 0.465}
    """
    measured = [c for c in candidates if c["status"] != "failed"]
    budget = {}
    if target.size is not None:
        smallest = min(measured, key=lambda c: c["size_bytes"])
        weights = smallest["parameters"] * format_named(smallest["format"]).bits / 8
        fixed = smallest["size_bytes"] - weights
        if _TARGET_SHARE * int(target.size) <= fixed:
            raise ArgumentError(
                "The size can't be reached by removing channels.",
                received=f"size={int(target.size):,}",
                expected=f"more than the {fixed:,.0f} bytes that a file of this network needs besides its weights",
                fix="Allow more bytes.",
            )
        budget["parameters"] = (_TARGET_SHARE * int(target.size) - fixed) / weights
    if target.latency_ms is not None:
        budget["latency"] = _TARGET_SHARE * target.latency_ms / min(c["latency_ms"] for c in measured)
    return {name: round(share, 6) for name, share in budget.items() if share < 1}


def _broken_bounds(c: Mapping[str, Any], target: Target, metric: Metric) -> list[str]:
    found = []
    if not c["metric_drop"] <= target.max_drop + _ROUNDING:
        drop, allowed = c["metric_drop"], target.max_drop
        unit = "" if metric.higher_is_better else " (relative)"
        found.append(f"{metric.name} is {drop:.4f} worse{unit}, {allowed:.4f} is allowed")
    if target.size is not None and c["size_bytes"] > int(target.size):
        found.append(f"{c['size_bytes']:,} bytes, {int(target.size):,} are allowed")
    if target.latency_ms is not None and c["latency_ms"] > target.latency_ms:
        found.append(f"{c['latency_ms']:.4f} ms, {target.latency_ms:.4f} are allowed")
    return found


def _rank(c: Mapping[str, Any], target: Target, float_latency_ms: float) -> tuple[Any, ...]:
    if target.optimize == "latency":
        return (c["latency_ms"], c["size_bytes"])
    return (_is_held_back(c, target, float_latency_ms), c["size_bytes"])


def _is_held_back(c: Mapping[str, Any], target: Target, float_latency_ms: float) -> bool:
    return target.optimize == "balanced" and c["latency_ms"] > SLOWER_ALLOWED * float_latency_ms


def _why_chosen(best: Mapping[str, Any], target: Target, float_latency_ms: float) -> str:
    if target.optimize == "latency":
        return "fastest within the bounds"
    if target.optimize == "size":
        return "smallest within the bounds"
    if _is_held_back(best, target, float_latency_ms):
        return f"smallest within the bounds; all of these take over {SLOWER_ALLOWED}x the latency of the float file"
    return f"smallest within the bounds that takes at most {SLOWER_ALLOWED}x the latency of the float file"


def _why_lost(c: Mapping[str, Any], best: Mapping[str, Any], target: Target, float_latency_ms: float) -> str:
    if target.optimize == "latency" and c["latency_ms"] != best["latency_ms"]:
        return f"{c['latency_ms'] / best['latency_ms']:.2f}x the latency of the chosen file"
    held_back = _is_held_back(c, target, float_latency_ms)
    if held_back and not _is_held_back(best, target, float_latency_ms):
        return f"{c['latency_ms'] / float_latency_ms:.2f}x the latency of the float file"
    if c["size_bytes"] != best["size_bytes"]:
        return f"{c['size_bytes'] / best['size_bytes']:.2f}x the size of the chosen file"
    return "ties with the chosen file, whose metric is no worse"
