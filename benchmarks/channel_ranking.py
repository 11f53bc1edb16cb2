"""Which channels to remove: Taylor, magnitude and chance on a ResNet-8, at equal MACs, without any training after.

    python -m benchmarks.channel_ranking --data fashion_mnist.npz [--seeds 3] [--epochs 8] [--cache DIR]

The network is the ResNet-8 of MLPerf Tiny (three stages of 16, 32 and 64 channels). For each seed it is trained on
54,000 images, then channels are removed under one global ranking until a share of the MACs is left, and the accuracy on
the 10,000 test images is measured as removed and as repaired (least squares and BatchNormalization, no labels). A table
in Markdown is printed, then one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras

from benchmarks import networks
from bigmodel.data import Data, as_data
from bigmodel.evaluation import evaluate_model
from bigmodel.pruning.channels import (
    CostModel,
    choose_for_cost,
    find_channels,
    remove_channels,
    repair_channels,
    score_channels,
)

CRITERIA = ("taylor", "l1", "l2", "batchnorm", "random")
MACS = (0.75, 0.5, 0.3)
VALIDATION = 6_000


def measure(model: keras.Model, data: Data, seed: int) -> Iterator[dict[str, Any]]:
    channels = find_channels(model)
    costs = CostModel(model, channels)
    whole = evaluate_model(model, data.test).metric
    calibration = data.calibration.sample(1024, seed=seed)
    for criterion in CRITERIA:
        scores = score_channels(model, channels, criterion, data=calibration, seed=seed)
        for macs in MACS:
            keep = choose_for_cost(channels, scores, costs, macs=macs, per_cost=criterion == "taylor")
            smaller = remove_channels(model, keep, channels=channels)
            removed = evaluate_model(smaller, data.test, like=model).metric
            repair_channels(model, smaller, channels, keep, calibration, seed=seed)
            repaired = evaluate_model(smaller, data.test, like=model).metric
            yield {
                "seed": seed,
                "criterion": criterion,
                "macs": macs,
                "whole": whole,
                "removed": removed,
                "repaired": repaired,
            }


def table(rows: list[dict[str, Any]]) -> str:
    """Means over the seeds."""
    lines = ["| ranking | " + " | ".join(f"{macs:.0%} MACs: removed, repaired" for macs in MACS) + " |"]
    lines.append("|---" * (1 + len(MACS)) + "|")
    for criterion in CRITERIA:
        cells = []
        for macs in MACS:
            here = [row for row in rows if row["criterion"] == criterion and row["macs"] == macs]
            means = [statistics.mean(row[key] for row in here) for key in ("removed", "repaired")]
            cells.append(", ".join(f"{mean:.4f}" for mean in means))
        lines.append(f"| {criterion} | " + " | ".join(cells) + " |")
    whole = statistics.mean(row["whole"] for row in rows)
    return "\n".join([f"ResNet-8 with all channels: {whole:.4f}", "", *lines])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help=".npz with Fashion-MNIST; without it Keras downloads it")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--cache", type=Path, help="where trained float networks are kept")
    options = parser.parse_args()
    (x, y), test = networks.fashion_mnist(options.data)
    train, validation = (x[:-VALIDATION], y[:-VALIDATION]), (x[-VALIDATION:], y[-VALIDATION:])
    rows: list[dict[str, Any]] = []
    for seed in range(options.seeds):
        cache = options.cache and options.cache / f"resnet8-{options.epochs}-{seed}.keras"
        model = networks.trained(networks.resnet8(), train, epochs=options.epochs, seed=seed, cache=cache)
        data = as_data(Data(train=train, validation=validation, test=test), model=model, seed=seed)
        rows.extend(measure(model, data, seed))
        print(table(rows), flush=True)
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
