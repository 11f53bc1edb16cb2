"""What a training step costs with our callbacks and wrappers, next to the plain step and to tfmot's.

    python -m benchmarks.step_cost [--network mlp] [--rounds 15] [--steps 300]

The network is one of `benchmarks.networks` (mlp: 784-256-128-64-10 with three Dropout(0.5)), batch 128, random data.
All variants of one library are measured interleaved, `steps` steps a round, so that a slow moment of the machine meets
them alike; tracing is left out, updates of masks are in. The table gives the median over the rounds, and the fastest
round, which other work on the machine disturbs least. tfmot runs in a child process (it switches the process to
tf_keras) on a twin of the network and is compared with the plain step of tf_keras. A table in Markdown is printed, then
the same figures as one line of JSON.

TensorFlow gets one thread, unless TF_NUM_INTRAOP_THREADS and TF_NUM_INTEROP_THREADS say otherwise: ops this small are
faster so, and their times do not depend on who else wants the cores.

One more variant is one more entry in VARIANTS (Keras 3) or TFMOT_VARIANTS (tf_keras).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

BATCH = 128
WARM_UP = 10
Fit = Callable[[], float]
"""Trains for one round and returns the seconds of its steps."""


def network(path: str) -> Any:
    """The network, with Keras 3."""
    import keras

    return keras.models.load_model(path)


def legacy_network(path: str, wrap: Callable[[Any], Any] = lambda model: model) -> Any:
    """Its twin, with tf_keras, wrapped and compiled."""
    from benchmarks.compare.twins import twin

    model = wrap(twin(Path(path)))
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def batches(model: Any, steps: int) -> Any:
    """Random data of `steps` batches, ready in memory, so that feeding costs the same little everywhere."""
    import numpy as np
    import tensorflow as tf

    generator = np.random.default_rng(0)
    x = generator.random((steps * BATCH, *model.input_shape[1:]), dtype="float32")
    y = generator.integers(0, 10, steps * BATCH)
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(BATCH, drop_remainder=True).cache().prefetch(4)


def plain(path: str, steps: int) -> Fit:
    import keras

    return training(keras, network(path), steps)


def pruning(path: str, steps: int) -> Fit:
    import keras

    from bigmodel.callbacks import MagnitudePruning

    # A straight rise over the round, with new masks at every hundredth step, as in a long training.
    rise = 1 / (WARM_UP + steps)
    return training(keras, network(path), steps, lambda: [MagnitudePruning(0.8, schedule=lambda step: step * rise)])


def keeping_zeros(path: str, steps: int) -> Fit:
    import keras

    from bigmodel.callbacks import KeepZeros, MagnitudePruning

    model = network(path)
    model.fit(batches(model, 1), verbose=0, callbacks=[MagnitudePruning(0.8, schedule="constant")])
    return training(keras, model, steps, lambda: [KeepZeros()])


def quantizing(activations: str) -> Callable[[str, int], Fit]:
    """Quantization-aware training for 8-bit files with these activations, as `bigmodel.quantize` trains."""

    def make(path: str, steps: int) -> Fit:
        import keras
        import numpy as np

        from bigmodel import QuantizeConfig, as_data
        from bigmodel.quantization import quantize_post_training
        from bigmodel.quantization.simulation import quantized_layers, range_layers

        source = network(path)
        samples = np.random.default_rng(0).random((64, *source.input_shape[1:]), dtype="float32")
        data = as_data((samples, np.arange(64) % 10), test_fraction=0)
        model = quantize_post_training(source, data, QuantizeConfig(bits=8, activations=activations)).simulation
        for layer in quantized_layers(model):
            layer.fixed = False  # scales follow the weights, as in training
        for layer in range_layers(model).values():
            layer.momentum = 0.99
        return training(keras, model, steps)

    return make


def tfmot_plain(path: str, steps: int) -> Fit:
    import tf_keras

    return training(tf_keras, legacy_network(path), steps)


def tfmot_pruning(path: str, steps: int) -> Fit:
    import tensorflow_model_optimization as tfmot
    import tf_keras

    sparsity = tfmot.sparsity.keras
    schedule = sparsity.PolynomialDecay(0.0, 0.8, begin_step=0, end_step=100_000, frequency=100)
    model = legacy_network(path, wrap=lambda model: sparsity.prune_low_magnitude(model, pruning_schedule=schedule))
    return training(tf_keras, model, steps, lambda: [sparsity.UpdatePruningStep()])


def tfmot_quantizing(path: str, steps: int) -> Fit:
    import tensorflow_model_optimization as tfmot
    import tf_keras

    return training(tf_keras, legacy_network(path, wrap=tfmot.quantization.keras.quantize_model), steps)


VARIANTS: dict[str, Callable[[str, int], Fit]] = {
    "plain": plain,
    "MagnitudePruning": pruning,
    "KeepZeros": keeping_zeros,
    "QAT, dynamic file": quantizing("dynamic"),
    "QAT, static file": quantizing("static"),
}
TFMOT_VARIANTS: dict[str, Callable[[str, int], Fit]] = {
    "tf_keras plain": tfmot_plain,
    "tfmot pruning wrapper": tfmot_pruning,
    "tfmot QAT": tfmot_quantizing,
}


def training(keras: Any, model: Any, steps: int, callbacks: Callable[[], list[Any]] = list) -> Fit:
    """Makes the fit of one round: it returns the seconds of `steps` steps, those that trace and warm up left out."""

    class Timer(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            if batch == WARM_UP:
                self.start = time.perf_counter()

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            self.seconds = time.perf_counter() - self.start

    data, weights = batches(model, WARM_UP + steps), model.get_weights()

    def fit() -> float:
        timer = Timer()
        model.set_weights(weights)
        model.fit(data, verbose=0, callbacks=[timer, *callbacks()])
        return timer.seconds

    return fit


def measure(
    variants: dict[str, Callable[[str, int], Fit]], path: str, rounds: int, steps: int
) -> dict[str, dict[str, float]]:
    """Milliseconds of a step for each variant, over rounds in which all of them take turns."""
    fits = {name: make(path, steps) for name, make in variants.items()}
    for fit in fits.values():
        fit()
    times: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, fit in fits.items():
            times[name].append(1000 * fit() / steps)
    return {name: {"median": statistics.median(values), "fastest": min(values)} for name, values in times.items()}


def table(step_ms: dict[str, dict[str, float]]) -> str:
    """The figures as a Markdown table; ratios are to the plain step of the same library."""
    rows = ["| variant | ms per step, median | ratio | ms per step, fastest round | ratio |", "|---|---|---|---|---|"]
    for name, values in step_ms.items():
        base = step_ms["tf_keras plain" if name in TFMOT_VARIANTS else "plain"]
        cells = [f"{values[kind]:.3f} | {values[kind] / base[kind]:.2f}x" for kind in ("median", "fastest")]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="mlp")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):  # read when TensorFlow loads, here and below
        os.environ.setdefault(name, "1")
    if arguments.child:
        print(json.dumps(measure(TFMOT_VARIANTS, arguments.child, arguments.rounds, arguments.steps)))
        return
    from benchmarks.networks import NETWORKS

    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, "network.keras"))
        NETWORKS[arguments.network][0]().save(path)
        step_ms = measure(VARIANTS, path, arguments.rounds, arguments.steps)
        command = [sys.executable, "-m", "benchmarks.step_cost", "--child", path]
        command += ["--rounds", str(arguments.rounds), "--steps", str(arguments.steps)]
        environment = {**os.environ, "TF_USE_LEGACY_KERAS": "1"}
        child = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE)
    step_ms |= json.loads(child.stdout.splitlines()[-1])
    print(table(step_ms))
    print(json.dumps({"network": arguments.network, "step_ms": step_ms}))


if __name__ == "__main__":
    main()
