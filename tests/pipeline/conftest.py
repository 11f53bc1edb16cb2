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
def killed_at(root, tmp_path_factory) -> Callable[..., bm.Result]:
    """Runs the job in a process that is killed at a point, then once more to its end, and returns the result."""

    def run(where: str, model: keras.Model, directory: Path) -> bm.Result:
        path = tmp_path_factory.mktemp("model") / "model.keras"
        model.save(path)
        for point, status in ((where, -signal.SIGKILL), ("", 0)):
            done = subprocess.run(
                [sys.executable, Path(__file__).with_name("jobs.py"), path, directory, point],
                env={**os.environ, "PYTHONPATH": str(root)},
                capture_output=True,
                text=True,
            )
            assert done.returncode == status, done.stderr[-2000:]
            assert (directory / "report.json").is_file() == (status == 0)
        return bm.load_result(directory)

    return run
