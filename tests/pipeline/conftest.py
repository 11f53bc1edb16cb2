"""A small network trained on the embedded digits."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import keras
import pytest
from jobs import digits_data, digits_model

import bigmodel as bm


@pytest.fixture(scope="session")
def digits() -> bm.Data:
    return digits_data()


@pytest.fixture(scope="session")
def trained(digits) -> keras.Model:
    model = digits_model()
    model.fit(*digits.train, epochs=8, verbose=0)
    return model


@pytest.fixture(scope="session")
def job(root, trained, tmp_path_factory) -> Callable[..., subprocess.Popen[str]]:
    """Starts a job in a process, in a directory; it kills itself at the point that a text names."""
    path = tmp_path_factory.mktemp("model") / "model.keras"
    trained.save(path)

    def start(directory: Path, where: str = "", name: str = "steps") -> subprocess.Popen[str]:
        command = [sys.executable, Path(__file__).with_name("jobs.py"), name, path, directory, where]
        environment = {**os.environ, "PYTHONPATH": str(root)}
        return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)

    return start


@pytest.fixture(scope="session")
def killed_at(job) -> Callable[..., bm.Result]:
    """Runs a job in a process that is killed at a point, then once more to its end, and returns the result."""

    def run(where: str, directory: Path, name: str = "steps") -> bm.Result:
        for point, status in ((where, -signal.SIGKILL), ("", 0)):
            process = job(directory, point, name)
            _, told = process.communicate()
            assert process.returncode == status, told[-2000:]
            assert (directory / "report.json").is_file() == (status == 0)
        return bm.load_result(directory)

    return run
