"""python -m benchmarks.compare --data fashion_mnist.npz [--networks mlp ...] [--seeds 3] [--methods ...] [--out DIR].

Every network is trained once per seed in Keras 3; every tool gets the same weights (those of Keras 2 as a twin with
the same weights), the same training data and the same number of epochs. Accuracy is that of the file on the 10,000
test images, by bigmodel's interpreter; latency the median of one warm call of batch size 1 on one thread, all files of
a network in turns. Written are `results.json` (every run) and `compare.md` with `compare-NETWORK.svg` (medians over the
seeds, with their spread).
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import networks
from benchmarks.compare import table
from benchmarks.compare.methods import METHODS, VALIDATION
from bigmodel.evaluation import measure_latency
from bigmodel.litert import LiteModel

Run = dict[str, Any]

COMPARED = ["mlp", "resnet8", "ds_cnn", "vit", "lstm"]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, help=".npz with Fashion-MNIST; without it Keras downloads it")
    parser.add_argument("--networks", nargs="*", choices=networks.NETWORKS, default=COMPARED)
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--float-epochs", type=int, default=8, help="epochs that train each float network")
    parser.add_argument("--epochs", type=int, default=3, help="epochs that a tool may train")
    parser.add_argument("--samples", type=int, help="training samples that a tool gets at most, for a short run")
    parser.add_argument("--cache", type=Path, help="where trained float networks are kept")
    parser.add_argument("--timeout", type=float, default=3600, help="seconds that one tool may take")
    parser.add_argument("--out", type=Path, default=Path("comparison"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    runs = _read(options.out / "results.json")
    for name in options.networks:
        for seed in range(options.seeds):
            runs = [run for run in runs if (run["network"], run["seed"]) != (name, seed)]
            runs += compared(name, seed, options)
            (options.out / "results.json").write_text(
                json.dumps({"environment": environment(), "runs": runs}, indent=1)
            )
    table.write(runs, environment(), options.out)


def _read(path: Path) -> list[Run]:
    return json.loads(path.read_text())["runs"] if path.is_file() else []


def compared(name: str, seed: int, options: argparse.Namespace) -> list[Run]:
    """Trains a network, lets every tool compress it, and measures the files against each other."""
    build, adapt = networks.NETWORKS[name]
    images = networks.fashion_mnist(options.data)
    train, test = (adapt(*split) for split in images)
    cache = options.cache and options.cache / f"{name}-{options.float_epochs}-{seed}.keras"
    seen = tuple(part[:-VALIDATION] for part in train)
    model = networks.trained(build(), seen, epochs=options.float_epochs, seed=seed, cache=cache)
    runs: list[Run] = []
    with tempfile.TemporaryDirectory(prefix="compare-") as folder:
        saved, data = Path(folder, "model.keras"), Path(folder, "data.npz")
        model.save(saved)
        given = tuple(part[-options.samples :] if options.samples else part for part in train)  # validation is last
        np.savez(data, x_train=given[0], y_train=given[1])
        for method in options.methods:
            print(f"{name}, seed {seed}: {method}", file=sys.stderr, flush=True)
            path = Path(folder, f"{len(runs)}.tflite")
            run = {"network": name, "seed": seed, "method": method, **made(method, saved, data, path, options, seed)}
            if "reason" not in run:
                run |= measured(path, *test)
            runs.append({**run, "path": path})
        files = [run for run in runs if "accuracy" in run]
        sample = test[0][:1]
        for run, time_of in zip(files, measure_latency([r["path"] for r in files], sample=sample), strict=True):
            run["latency_ms"] = time_of.median_ms
    return [{key: value for key, value in run.items() if key != "path"} for run in runs]


def made(method: str, model: Path, data: Path, path: Path, options: argparse.Namespace, seed: int) -> Run:
    """Lets a tool write its file; tells the seconds, or why there is none."""
    command = [sys.executable, "-m", "benchmarks.compare.methods", method, model, data, path]
    command += ["--epochs", str(options.epochs), "--seed", str(seed)]
    begin = time.perf_counter()
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=options.timeout,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {"reason": f"took more than {options.timeout:.0f} s"}
    if done.returncode < 0:
        return {"reason": f"its process was killed by signal {-done.returncode}"}
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return {"reason": next((line for line in reversed(lines) if "Error" in line), lines[-1])[:300]}
    return {"seconds": time.perf_counter() - begin}


def measured(path: Path, x: np.ndarray, y: np.ndarray) -> Run:
    """Accuracy and size of a file, by running it."""
    content = path.read_bytes()
    try:
        answers = LiteModel(path).predict(x)
    except (ValueError, RuntimeError) as error:
        return {"reason": str(error).splitlines()[0]}
    return {
        "accuracy": float(np.mean(np.argmax(answers, axis=-1) == y)),
        "bytes": len(content),
        "gzip": len(gzip.compress(content, 9)),
    }


def environment() -> dict[str, str]:
    """Versions, commit and machine."""
    from importlib import metadata

    packages = (
        "tensorflow",
        "keras",
        "tf_keras",
        "tensorflow-model-optimization",
        "ai-edge-quantizer",
        "ai-edge-litert",
    )
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    return {
        **{package: metadata.version(package) for package in packages},
        "commit": commit,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }


if __name__ == "__main__":
    main()
