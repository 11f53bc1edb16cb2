"""Which channels to remove: Taylor, magnitude and chance on a ResNet-8, at equal MACs, without any training after.

    python -m benchmarks.channel_ranking fashion_mnist.npz [--seeds 3] [--samples 20000] [--epochs 5]

The network is the ResNet-8 of MLPerf Tiny (three stages of 16, 32 and 64 channels). The file holds `x_train`,
`y_train`, `x_test` and `y_test`. For each seed the network is trained, then channels are removed under one global
ranking until a share of the MACs is left, and the accuracy on 4,000 test images is measured as removed and as repaired
(least squares and BatchNormalization, no labels). A table in Markdown is printed, then one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import layers

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


def resnet8(shape: tuple[int, ...] = (28, 28, 1), classes: int = 10) -> keras.Model:
    """Three stages of one residual block each; the skip of a narrowing block is a strided 1x1 convolution."""

    def conv(x: Any, filters: int, size: int, strides: int = 1) -> Any:
        x = layers.Conv2D(filters, size, strides=strides, padding="same", use_bias=False)(x)
        return layers.BatchNormalization(momentum=0.9)(x)  # a short training has to fill the statistics, too

    inputs = keras.Input(shape)
    x = layers.ReLU()(conv(inputs, 16, 3))
    for filters, strides in ((16, 1), (32, 2), (64, 2)):
        y = layers.ReLU()(conv(x, filters, 3, strides))
        y = conv(y, filters, 3)
        x = layers.ReLU()(layers.Add()([y, x if strides == 1 else conv(x, filters, 1, strides)]))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(classes, activation="softmax")(x), name="resnet8")


def train(data: Data, epochs: int, seed: int) -> keras.Model:
    keras.utils.set_random_seed(seed)
    model = resnet8()
    steps = epochs * (data.train.size or 0) // 128
    model.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(3e-3, steps)),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    model.fit(data.train.batches(128, shuffle=True, seed=seed), epochs=epochs, verbose=0, shuffle=False)
    return model


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
    parser.add_argument("file", help="npz with x_train, y_train, x_test, y_test")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=20_000)
    parser.add_argument("--epochs", type=int, default=5)
    options = parser.parse_args()
    with np.load(options.file) as arrays:
        x, x_test = ((arrays[name][..., None] / 255).astype("float32") for name in ("x_train", "x_test"))
        y, y_test = arrays["y_train"].astype("int64"), arrays["y_test"].astype("int64")
    rows: list[dict[str, Any]] = []
    for seed in range(options.seeds):
        data = as_data(
            Data(train=(x[: options.samples], y[: options.samples]), test=(x_test[:4000], y_test[:4000])), seed=seed
        )
        rows.extend(measure(train(data, options.epochs, seed), data, seed))
        print(table(rows), flush=True)
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
