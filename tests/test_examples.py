"""The examples run as they stand, in a folder of their own, and do what they say."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def run(script: str, cwd: Path, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(EXAMPLES.parent)}
    command = [sys.executable, EXAMPLES / script, *arguments]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quickstart")
    start = time.perf_counter()
    output = run("quickstart.py", folder)
    return folder / "runs" / "digits", output, time.perf_counter() - start


def test_the_quickstart_keeps_its_promise(quickstart):
    directory, _, seconds = quickstart
    record = json.loads((directory / "report.json").read_text(encoding="utf-8"))
    assert record["target_met"]
    assert (directory / "model.tflite").stat().st_size == record["final"]["size_bytes"]
    assert record["final"]["size_bytes"] * 3.5 <= record["baseline"]["size_bytes"]
    assert record["final"]["metric"] >= record["baseline"]["metric"] - 0.01
    assert record["final"]["agreement"] >= 0.999
    assert seconds < 180


def test_the_quickstart_prints_the_report_and_reads_digits_with_the_file(quickstart):
    _, output, _ = quickstart
    predicted, expected = re.search(r"predicted \[([\d ]+)\] expected \[([\d ]+)\]", output).groups()
    right = sum(a == b for a, b in zip(predicted.split(), expected.split(), strict=True))
    assert right >= 7
    assert "accuracy" in output


@pytest.mark.slow
def test_steps_alone_in_a_training_loop_of_ones_own(tmp_path):
    output = run("own_training_loop.py", tmp_path)
    accuracy = {key: float(value) for key, value in re.findall(r"^(trained|pruned|on file): +([\d.]+)", output, re.M)}
    assert accuracy["trained"] > 0.9
    assert accuracy["on file"] > accuracy["trained"] - 0.03
    # 80 % of each kernel, rounded to a whole number of weights.
    assert re.findall(r"(\d+)% zeros", output) == ["80", "80", "80"]
    size = int(re.search(r"in ([\d,]+) bytes", output)[1].replace(",", ""))
    assert size == (tmp_path / "digits.tflite").stat().st_size
    parameters = 64 * 128 + 128 + 128 * 64 + 64 + 64 * 10 + 10
    assert size < parameters * 4 / 2.5  # one byte for a weight instead of four, and the file's own tables


@pytest.mark.slow
def test_the_whole_recipe_searches_a_network_and_compresses_it(tmp_path):
    output = run("fashion_mnist.py", tmp_path, "--short")
    record = json.loads((tmp_path / "runs" / "fashion_mnist" / "report.json").read_text(encoding="utf-8"))
    assert record["max_drop"] == 0.0
    searched = re.search(r"^searched: (.+)$", output, re.M)[1]
    assert all(f"'{name}'" in searched for name in ("learning_rate", "dropout", "initializer", "w1", "augmentation"))
    size, accuracy = re.search(r"^([\d,]+) bytes, accuracy ([\d.]+)$", output, re.M).groups()
    assert int(size.replace(",", "")) == (tmp_path / "runs" / "fashion_mnist" / "model.tflite").stat().st_size
    assert float(accuracy) == pytest.approx(record["final"]["metric"], abs=5e-5)
    assert record["final"]["size_bytes"] < record["baseline"]["size_bytes"] / 3


@pytest.mark.slow
def test_the_quickstart_of_tf_keras_makes_the_same_report(tmp_path):
    output = run("quickstart_tf_keras.py", tmp_path)
    directory = tmp_path / "runs" / "digits_tf_keras"
    record = json.loads((directory / "report.json").read_text(encoding="utf-8"))
    final, baseline = record["final"], record["baseline"]
    assert (directory / "model.tflite").stat().st_size == final["size_bytes"]
    assert final["format"] == "static_int8" and final["sparsity"] == pytest.approx(0.5, abs=0.05)
    assert final["size_bytes"] * 3 <= baseline["size_bytes"]
    assert final["metric"] >= baseline["metric"] - 0.02
    predicted, expected = re.search(r"predicted \[([\d ]+)\] expected \[([\d ]+)\]", output).groups()
    assert sum(a == b for a, b in zip(predicted.split(), expected.split(), strict=True)) >= 7


def test_every_example_is_run_here():
    names = {"quickstart.py", "quickstart_tf_keras.py", "own_training_loop.py", "fashion_mnist.py"}
    assert {path.name for path in EXAMPLES.glob("*.py")} == names
