"""What patterns of zeros and shared weights buy: accuracy, bytes and latency of files, on the embedded digits.

python -m benchmarks.patterns
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from bigmodel.config import ClusterConfig, PruneConfig, QuantizeConfig, TrainConfig
from bigmodel.data import Data, as_data, load_digits
from bigmodel.evaluation import FileFacts, inspect_file, measure_latency
from bigmodel.export import export_float
from bigmodel.export.formats import format_named
from bigmodel.litert import LiteModel
from bigmodel.pruning import cluster_weights, prune_weights
from bigmodel.quantization import deploy, quantize_post_training

Step = Callable[[keras.Model, Data, TrainConfig, int], keras.Model]


def pruned(**settings: Any) -> Step:
    return lambda model, data, train, seed: prune_weights(model, data, PruneConfig(**settings), train=train, seed=seed)


def clustered(clusters: int) -> Step:
    return lambda model, data, train, seed: cluster_weights(
        model, data, ClusterConfig(clusters), train=train, seed=seed
    )


def both(first: Step, second: Step) -> Step:
    return lambda model, data, train, seed: second(first(model, data, train, seed), data, train, seed)


STEPS: dict[str, Step] = {
    "as trained": lambda model, data, train, seed: model,
    "50 % zeros": pruned(sparsity=0.5),
    "2:4": pruned(granularity="2:4"),
    "50 % in blocks of 1 x 4": pruned(sparsity=0.5, granularity="block"),
    "90 % zeros in each layer": pruned(sparsity=0.9),
    "90 % zeros, one ranking": pruned(sparsity=0.9, ranking="global"),
    "16 values": clustered(16),
    "8 values": clustered(8),
    "90 % zeros, one ranking, then 16 values": both(pruned(sparsity=0.9, ranking="global"), clustered(16)),
}


@dataclasses.dataclass(frozen=True)
class Row:
    name: str
    accuracy: float
    facts: FileFacts
    path: Path
    eight_bits: FileFacts
    eight_bit_accuracy: float


def network(seed: int) -> keras.Model:
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    hidden = [layers.Dense(units, activation="relu") for units in (256, 128)]
    model = keras.Sequential([keras.Input((64,)), *hidden, layers.Dense(10, activation="softmax")])
    model.compile(keras.optimizers.Adam(2e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def accuracy(path: Path, x: np.ndarray, y: np.ndarray) -> float:
    return float(np.mean(LiteModel(path).predict(x).argmax(axis=-1) == y))


def measure(folder: Path, seed: int, epochs: int) -> list[Row]:
    (x_train, y_train), (x_test, y_test) = load_digits()
    x_train, x_test = (x.reshape(len(x), -1).astype("float32") / 16 for x in (x_train, x_test))
    model = network(seed)
    model.fit(x_train, y_train, epochs=15, batch_size=64, verbose=0)
    data = as_data((x_train, y_train), model=model, seed=seed, test_fraction=0)
    rows = []
    for number, (name, step) in enumerate(STEPS.items()):
        network_ = step(model, data, TrainConfig(epochs=epochs, batch_size=64), seed)
        path = export_float(network_, folder / f"{number}.tflite")
        simulation = quantize_post_training(network_, None, QuantizeConfig(bits=8, activations="dynamic")).simulation
        eight = folder / f"{number}-int8.tflite"
        deploy(simulation, [(format_named("dynamic_int8"), eight)], x_train[:8])
        figures = accuracy(path, x_test, y_test), accuracy(eight, x_test, y_test)
        rows.append(Row(name, figures[0], inspect_file(path), path, inspect_file(eight), figures[1]))
    return rows


def table(rows: list[Row]) -> str:
    latencies = measure_latency([row.path for row in rows])
    lines = [
        "| kernels | accuracy | sparsity | float bytes | gzip | float ms | int8 bytes | gzip | int8 accuracy | codes |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row, latency in zip(rows, latencies, strict=True):
        codes = "/".join(str(op.distinct) for op in row.eight_bits.ops if op.weight_tensor)
        lines.append(
            f"| {row.name} | {row.accuracy:.4f} | {row.facts.sparsity:.2f} | {row.facts.size_bytes:,} "
            f"| {row.facts.gzip_bytes:,} | {latency.median_ms:.4f} | {row.eight_bits.size_bytes:,} "
            f"| {row.eight_bits.gzip_bytes:,} | {row.eight_bit_accuracy:.4f} | {codes} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=8)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bigmodel-patterns-") as folder:
        print(table(measure(Path(folder), arguments.seed, arguments.epochs)))


if __name__ == "__main__":
    main()
