"""Choose channels until what is left keeps a budget."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras

from bigmodel.config import PruneConfig
from bigmodel.errors import ArgumentError
from bigmodel.evaluation import measure_latency
from bigmodel.export import export_float
from bigmodel.pruning.channels.cost import CostModel
from bigmodel.pruning.channels.groups import ChannelMap
from bigmodel.pruning.channels.removal import remove_channels
from bigmodel.pruning.channels.selection import Keep, choose_channels, choose_for_cost

# Halvings of the range of MACs in the search for a latency; each writes and times a file.
_PROBES = 5


def choose_for_config(
    model: keras.Model, channels: ChannelMap, scores: Mapping[str, Any], config: PruneConfig, sample: Any
) -> Keep:
    """Chooses the channels that stay as a config orders: by its budget where it has one, else by its share.

    Args:
        model: The model that `channels` describes.
        channels: What `find_channels` found.
        scores: What `score_channels` gave.
        config: The orders.
        sample: One input sample, for latency.

    Returns:
        The masks; see `choose_channels`.

    Raises:
        ArgumentError: The budget can't be kept above the floor.
    """
    if config.budget is None:
        return choose_channels(
            channels, scores, config.sparsity, ranking=config.ranking, floor=config.floor, round_to=config.round_to
        )
    costs = CostModel(model, channels)

    def choose(**bounds: float) -> Keep:
        return choose_for_cost(
            channels,
            scores,
            costs,
            ranking=config.ranking,
            floor=config.floor,
            round_to=config.round_to,
            per_cost=config.criterion == "taylor",
            **bounds,
        )

    bounds = {name: part for name, part in config.budget.items() if name in ("macs", "parameters")}
    with tempfile.TemporaryDirectory(prefix="bigmodel-budget-") as folder:
        files = _Files(model, channels, Path(folder), sample)
        if "size" in config.budget:
            share = files.parameters_for(config.budget["size"], costs)
            bounds["parameters"] = min(bounds.get("parameters", 1.0), share)
        if "latency" not in config.budget:
            return choose(**bounds)
        return _choose_for_latency(choose, bounds, files, config.budget["latency"])


class _Files:
    """Float files of smaller and smaller models."""

    def __init__(self, model: keras.Model, channels: ChannelMap, folder: Path, sample: Any) -> None:
        self.model, self.channels, self.folder, self.sample = model, channels, folder, sample
        self.whole = export_float(model, folder / "whole.tflite")

    def parameters_for(self, size: float, costs: CostModel) -> float:
        """The share of parameters that a file of a share of the bytes has: four bytes each, the rest is fixed."""
        weights = 4 * costs.after({}).parameters
        whole = self.whole.stat().st_size
        share = (size * whole - (whole - weights)) / weights
        if share <= 0:
            raise ArgumentError(
                "The size can't be reached by removing channels.",
                received=f"size={size}, of a file of {whole:,} bytes",
                expected=f"a fraction above {(whole - weights) / whole:.3f}: what the file needs besides its weights",
                fix="Allow more bytes.",
            )
        return share

    def relative_latency(self, keep: Keep) -> float:
        """Measured latency of the smaller model's file, as a share of the whole one's; both take turns."""
        smaller = remove_channels(self.model, keep, channels=self.channels)
        path = export_float(smaller, self.folder / "smaller.tflite")
        whole, less = measure_latency([self.whole, path], sample=self.sample)
        return less.median_ms / whole.median_ms


def _choose_for_latency(
    choose: Callable[..., Keep], bounds: Mapping[str, float], files: _Files, latency: float
) -> Keep:
    """Searches the largest share of MACs whose file is fast enough. Latency falls in steps, so that it is measured."""
    low, high, best = 0.0, bounds.get("macs", 1.0), None
    for _ in range(_PROBES):
        share = (low + high) / 2
        try:
            keep = choose(**{**bounds, "macs": share})
        except ArgumentError:  # the floor is above it: less can't go
            low = share
            continue
        if files.relative_latency(keep) <= latency:
            best, low = keep, share
        else:
            high = share
    if best is None:
        raise ArgumentError(
            "The latency can't be reached by removing channels.",
            received=f"latency={latency}",
            expected="a larger fraction of the whole model's latency",
            fix="Allow more, lower `floor`, or let more layers lose channels.",
        )
    return best
