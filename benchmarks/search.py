"""How much of a grid's training a search needs to find as small a network: `python -m benchmarks.search`.

The space: bits 8 or 4, and eight shares of the parameters that are left of a 64-256-128-10 network on the embedded
digits. The whole grid is run; then, for three seeds, the Bayesian search, and random search as its control, with so few
trials that they train for at most a fifth of the grid's epochs. Reported: epochs as a share of the grid's, and the best
size within the bound as a multiple of the grid's best.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import keras
import numpy as np

import bigmodel as bm

SHARES = [0.7, 0.5, 0.35, 0.25, 0.18, 0.12, 0.09, 0.06]
BITS = [8, 4]
SEEDS = (0, 1, 2)
# Two at 4 bits train for at most 12 epochs; three drawn at random for 13.5 on average.
TRIALS = {"bayesian": 2, "random": 3}
TARGET = bm.Target(max_drop=0.02, optimize="size")
TRAIN = bm.TrainConfig(epochs=3, batch_size=64)


def space(hp: Any) -> dict[str, Any]:
    return {"bits": hp.Choice("bits", BITS), "channels": hp.Choice("channels", SHARES, ordered=True)}


def network(data: tuple[np.ndarray, np.ndarray]) -> keras.Model:
    keras.utils.set_random_seed(0)
    hidden = [keras.layers.Dense(width, activation="relu") for width in (256, 128)]
    flat = [keras.Input((8, 8)), keras.layers.Flatten()]
    model = keras.Sequential([*flat, *hidden, keras.layers.Dense(10, activation="softmax")])
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(*data, epochs=15, verbose=0)
    return model


def run(model: keras.Model, data: Any, tuner: Any, trials: int, seed: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        config = bm.TuneConfig(trials, tuner=tuner, space=space, holdout=0.0)
        found = bm.tune(
            model, data, config, target=TARGET, train=TRAIN, directory=Path(folder, "run"), seed=seed, verbose=0
        )
    held = [row["size_bytes"] for row in found.trials if row["score"] < 2]
    return {
        "tuner": tuner,
        "seed": seed,
        "trials": len(found.trials),
        "epochs": sum(row["epochs"] for row in found.trials),
        "best": min(held, default=None),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("search.json"))
    output = parser.parse_args().output
    (x, y), _ = bm.data.load_digits()
    data = bm.as_data((x, y), validation_fraction=0.3, test_fraction=0)
    model = network((x, y))
    grid = run(model, data, "grid", len(SHARES) * len(BITS), 0)
    rows: list[dict[str, Any]] = []
    print(grid, flush=True)
    for tuner, trials in TRIALS.items():
        for seed in SEEDS:
            rows.append(run(model, data, tuner, trials, seed))
            print(rows[-1], flush=True)
    result = {"grid": grid, "searches": rows, "means": [mean(tuner, grid, rows) for tuner in TRIALS]}
    output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(table(result))


def mean(tuner: str, grid: dict[str, Any], rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over the seeds; a search that finds nothing within the bound has no size."""
    own = [row for row in rows if row["tuner"] == tuner]
    ratios = [row["best"] / grid["best"] for row in own if row["best"]]
    return {
        "tuner": tuner,
        "share_of_the_grids_epochs": round(sum(row["epochs"] for row in own) / len(own) / grid["epochs"], 3),
        "times_the_grids_best": round(sum(ratios) / len(own), 3) if len(ratios) == len(own) else None,
        "each": [round(ratio, 3) for ratio in ratios],
    }


def table(result: dict[str, Any]) -> str:
    lines = [
        "| search | epochs, of the grid's | smallest that holds, times the grid's | each seed |",
        "|---|---|---|---|",
    ]
    for row in result["means"]:
        share, times, each = row["share_of_the_grids_epochs"], row["times_the_grids_best"], row["each"]
        lines.append(f"| {row['tuner']} | {share:.0%} | {times or 'none'} | {', '.join(map(str, each))} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
