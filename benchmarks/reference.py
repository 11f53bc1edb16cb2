"""The reference networks through `compress_and_tune`: what is left of size and latency, and what it costs.

    python -m benchmarks.reference --data fashion_mnist.npz [--only mlp-int8 ...] [--cache DIR] [--seed 0]

Each row is one call. Accuracy, bytes and latency are those of the file, on the 10,000 test images; latency is the
median of interleaved calls of batch size 1 on one thread, next to the float file's in the same run. A table in Markdown
is printed, then the same figures as JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras

import bigmodel as bm
from benchmarks import networks

VALIDATION = 6_000


def channels(sparsity: float, **settings: Any) -> bm.PruneConfig:
    return bm.PruneConfig(sparsity=sparsity, granularity="channel", **settings)


MLP: dict[str, Any] = {"network": networks.mlp, "epochs": 8, "flat": True}
RESNET: dict[str, Any] = {"network": networks.resnet8, "epochs": 8, "flat": False}
# Enough epochs to learn again what went; the cosine ends at zero, so that stopping early would cut it off.
LONG = bm.TrainConfig(epochs=25, patience=25)
ROWS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "mlp": (MLP, {}),
    "mlp-no-drop": (MLP, {"target": bm.Target(max_drop=0.0)}),
    "mlp-80%-int8": (MLP, {"prune": 0.8, "quantize": 8}),
    "mlp-80%-int4": (MLP, {"prune": 0.8, "quantize": 4}),
    "mlp-channels-int4": (
        MLP,
        {
            "prune": channels(0.875),
            "quantize": bm.QuantizeConfig(bits=4, method="aware"),
            "target": bm.Target(max_drop=0.0),
            "train": LONG,
        },
    ),
    "mlp-channels-int4-12kB": (
        MLP,
        {
            "prune": channels(0.92),
            "quantize": bm.QuantizeConfig(bits=4, method="aware"),
            "target": bm.Target(max_drop=0.0),
            "train": LONG,
        },
    ),
    "resnet8-channels-int8": (
        RESNET,
        {
            "prune": channels(0.5, round_to=8),
            "quantize": 8,
            "train": bm.TrainConfig(epochs=10, patience=10),
        },
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, help=".npz with Fashion-MNIST; without it Keras downloads it")
    parser.add_argument("--only", nargs="*", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--cache", type=Path, help="where trained float networks are kept")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rows = {name: run(*ROWS[name], options) for name in options.only}
    print(table(rows))
    print(json.dumps(rows))


def run(network: dict[str, Any], orders: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    make: Callable[[], keras.Model] = network["network"]
    (x, y), test = networks.fashion_mnist(options.data, flat=network["flat"])
    train, validation = (x[:-VALIDATION], y[:-VALIDATION]), (x[-VALIDATION:], y[-VALIDATION:])
    cache = options.cache and options.cache / f"{make.__name__}-{network['epochs']}-{options.seed}.keras"
    model = networks.trained(make(), train, epochs=network["epochs"], seed=options.seed, cache=cache)
    started = time.perf_counter()
    data = bm.Data(train=train, validation=validation, test=test)
    report = bm.compress_and_tune(model, data, seed=options.seed, verbose=1, **orders).report
    before, after = report.baseline, report.final
    return {
        "target_met": report.target_met,
        "format": after["format"],
        "accuracy": [before["metric"], after["metric"]],
        "bytes": [before["size_bytes"], after["size_bytes"]],
        "gzip": [before["gzip_bytes"], after["gzip_bytes"]],
        "latency_ms": [before["latency_ms"], after["latency_ms"]],
        "macs": [before["macs"], after["macs"]],
        "sparsity": after["sparsity"],
        "agreement": after["agreement"],
        "seconds": time.perf_counter() - started,
    }


def table(rows: dict[str, Any]) -> str:
    """The rows as a Markdown table."""
    lines = [
        "| run | file | accuracy: float, file | bytes: float, file | gzip | latency | MACs | zeros | agreement | s |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        (a, b), (size, small), (slow, fast), (macs, less) = (
            row[key] for key in ("accuracy", "bytes", "latency_ms", "macs")
        )
        lines.append(
            f"| {name} | {row['format']} | {a:.4f}, {b:.4f} | {size:,}, {small:,} ({size / small:.1f}x) "
            f"| {row['gzip'][1]:,} | {slow / fast:.2f}x faster | {macs / less:.2f}x fewer | {row['sparsity']:.0%} "
            f"| {row['agreement']:.4f} | {row['seconds']:.0f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
