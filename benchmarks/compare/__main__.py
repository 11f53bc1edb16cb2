"""python -m benchmarks.compare --data fashion_mnist.npz [--networks mlp ...] [--seeds 3] [--jobs 2] [--out DIR].

Every network is trained once per seed in Keras 3; every tool gets the same weights (those of Keras 2 as a twin with
the same weights), the same training data and the same number of epochs. Accuracy is that of the file on the test
images, by bigmodel's interpreter. When all files are there, and nothing else runs, their latencies are measured: the
median of one warm call of batch size 1 on one thread, all files of a network in turns.

What is done is kept in `--out`, and the same command goes on from there. Written are `results.json` (every run),
`compare.md` and the plots (medians over the seeds, and who is on the Pareto front).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import keras
import numpy as np

from benchmarks import networks
from benchmarks.compare import table
from benchmarks.compare.methods import ALONE, METHODS, TOOLKIT, cut
from benchmarks.compare.results import Results
from benchmarks.compare.tool import slug
from bigmodel.data import load_digits
from bigmodel.evaluation import measure_latency

Arrays = tuple[np.ndarray, np.ndarray]

COMPARED = ["mlp", "resnet8", "ds_cnn", "vit", "lstm"]
SHORT = ["float32", "bigmodel: 8 bits", "converter: dynamic int8", "Keras: int8"]


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    settings = {name: getattr(options, name) for name in ("epochs", "samples", "float_epochs", "jobs")}
    results = Results(options.out / "results.json", settings)
    if options.retry_failed:
        results.forget_failed(options.networks, options.methods)
    with tempfile.TemporaryDirectory(prefix="compare-") as folder:
        run_tools(options, results, Path(folder))
    measure_latencies(options, results)
    table.write(results.record(), options.out)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, help=".npz with Fashion-MNIST; without it Keras downloads it")
    parser.add_argument("--networks", nargs="*", choices=networks.NETWORKS, default=COMPARED)
    parser.add_argument("--methods", nargs="*", choices=METHODS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--float-epochs", type=int, default=8, help="epochs that train each float network")
    parser.add_argument("--epochs", type=int, default=3, help="epochs of each training of a tool")
    parser.add_argument("--samples", type=int, help="training samples that a tool gets at most")
    parser.add_argument("--jobs", type=int, default=1, help="tools at a time; they share the cores")
    parser.add_argument("--cache", type=Path, help="where trained float networks are kept; default: in --out")
    parser.add_argument("--mct-python", help="interpreter with model-compression-toolkit and TensorFlow 2.15")
    parser.add_argument("--timeout", type=float, default=3600, help="seconds that one tool may take")
    parser.add_argument("--retry-failed", action="store_true", help="try again what gave no file")
    parser.add_argument("--short", action="store_true", help="a tiny network on digits and few tools, for a trial")
    parser.add_argument("--out", type=Path, default=Path("runs/comparison"))
    options = parser.parse_args(arguments)
    every = [method for method in METHODS if options.mct_python or method != TOOLKIT]
    options.methods = options.methods or (SHORT if options.short else every)
    if options.short:
        options.networks, options.seeds, options.epochs, options.float_epochs = ["digits"], 1, 1, 2
    return options


def digits() -> keras.Model:
    """64-16-10, for the short mode."""
    layers = [keras.Input((64,)), keras.layers.Dense(16, activation="relu"), keras.layers.Dense(10, "softmax")]
    model = keras.Sequential(layers, name="digits")
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def loaded(name: str, options: argparse.Namespace) -> tuple[keras.Model, Arrays, Arrays]:
    """A network that is not trained, and its samples and labels for training and for the test."""
    if name == "digits":
        train, test = (((x / 16).reshape(-1, 64).astype("float32"), y) for x, y in load_digits())
        return digits(), train, test
    build, adapt = networks.NETWORKS[name]
    train, test = (adapt(*split) for split in networks.fashion_mnist(options.data))
    return build(), train, test


# --- the tools ------------------------------------------------------------------------------------------------------


def run_tools(options: argparse.Namespace, results: Results, folder: Path) -> None:
    """Lets every tool write the files that are missing, a whole seed of all networks before the next."""
    with ThreadPoolExecutor(options.jobs) as pool:
        waiting = []
        for seed in range(options.seeds):
            for name in options.networks:
                missing = [method for method in options.methods if not results.done(name, seed, method)]
                if missing:
                    order = prepared(name, seed, options, folder)
                    waiting += [pool.submit(made, order, group, options, results) for group in groups(missing)]
        for work in waiting:
            work.result()


def prepared(name: str, seed: int, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Trains a network, or finds it, and writes what the tools read."""
    model, train, test = loaded(name, options)
    files = options.out / "files" / name / str(seed)
    files.mkdir(parents=True, exist_ok=True)
    cache = (options.cache or options.out / "files") / f"{name}-{options.float_epochs}-{seed}.keras"
    seen, _ = cut(*train)
    networks.trained(model, seen, epochs=options.float_epochs, seed=seed, cache=cache)
    data = folder / f"{name}.npz"
    if not data.is_file():
        x, y = (part[-options.samples :] if options.samples else part for part in train)  # validation comes last
        np.savez(data, x_train=x, y_train=y, x_test=test[0], y_test=test[1])
    told = {"network": name, "model": str(cache), "data": str(data), "folder": str(files)}
    return {**told, "seed": seed, "epochs": options.epochs, "mct_python": options.mct_python}


def groups(methods: Sequence[str]) -> list[list[str]]:
    """What shares a process: a tool that trains has its own, the others are quick and start together.

    >>> groups(["float32", "tfmot: QAT", "Keras: int4"])
    [['tfmot: QAT'], ['float32', 'Keras: int4']]
    """
    single = [[method] for method in methods if method.startswith(ALONE)]
    shared = [method for method in methods if not method.startswith(ALONE)]
    return [*single, shared] if shared else single


def made(order: dict[str, Any], methods: Sequence[str], options: argparse.Namespace, results: Results) -> None:
    """Runs tools in one process; where that ends early, the method it ended in failed and the others go on."""
    folder = Path(order["folder"])
    for method in methods:
        (folder / f"{slug(method)}.json").unlink(missing_ok=True)
    rest = list(methods)
    while rest:
        print(f"{order['network']}, seed {order['seed']}: {', '.join(rest)}", file=sys.stderr, flush=True)
        ended = ended_because({**order, "methods": rest}, options)
        while rest and (folder / f"{slug(rest[0])}.json").is_file():
            outcome = json.loads((folder / f"{slug(rest[0])}.json").read_text(encoding="utf-8"))
            results.add({"network": order["network"], "seed": order["seed"], "method": rest.pop(0), **outcome})
        if rest:
            run = {"network": order["network"], "seed": order["seed"], "method": rest.pop(0)}
            results.add({**run, "reason": ended})


def ended_because(order: dict[str, Any], options: argparse.Namespace) -> str:
    """Runs a process of tools with its share of the cores; returns how it ended."""
    asked = Path(order["folder"], f"{slug(order['methods'][0])}.order")
    asked.write_text(json.dumps(order), encoding="utf-8")
    threads = str(max(1, len(os.sched_getaffinity(0)) // options.jobs))
    share = {"OMP_NUM_THREADS": threads, "TF_NUM_INTRAOP_THREADS": threads, "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-m", "benchmarks.compare.tool", str(asked)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=options.timeout, env={**os.environ, **share}
        )
    except subprocess.TimeoutExpired:
        return f"took more than {options.timeout:.0f} s"
    if done.returncode < 0:
        return f"its process was killed by signal {-done.returncode}"
    return (done.stderr.strip().splitlines() or ["its process ended without a word"])[-1][:200]


# --- latency --------------------------------------------------------------------------------------------------------


def measure_latencies(options: argparse.Namespace, results: Results) -> None:
    """Measures all files of each network against each other, where one has not been measured yet."""
    for name in dict.fromkeys(run["network"] for run in results.runs):
        runs = [run for run in results.runs if run["network"] == name and "accuracy" in run]
        if all("latency_ms" in run for run in runs):
            continue
        _, _, test = loaded(name, options)
        print(f"{name}: latency of {len(runs)} files", file=sys.stderr, flush=True)
        paths = [options.out / "files" / name / str(run["seed"]) / f"{slug(run['method'])}.tflite" for run in runs]
        for run, time_of in zip(runs, measure_latency(paths, sample=test[0][:1]), strict=True):
            run["latency_ms"] = round(time_of.median_ms, 6)
        results.write()


if __name__ == "__main__":
    main()
