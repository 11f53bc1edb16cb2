"""What all tests share: quiet and narrow TensorFlow, a fresh seed, the repository's root, the embedded digits."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

# Before TensorFlow loads, here and in every child: two test processes on two cores, one thread each.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's root."""
    return ROOT


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Starts every test from the same seed, where Keras is in use at all."""
    keras = sys.modules.get("keras")
    if keras is not None:
        keras.utils.set_random_seed(0)


@pytest.fixture(scope="session")
def python() -> Callable[..., str]:
    """Runs code in a fresh interpreter and returns what it printed; fails with its stderr when it fails."""

    def run(code: str, *arguments: str | Path, cwd: Path = ROOT, timeout_s: float = 120) -> str:
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        # Two virtual CPU devices can crash TensorFlow's own threads (SIGSEGV, seen once in some dozens of runs): such a
        # death, and no other failure, is tried again.
        tries = 3 if "MirroredStrategy" in code else 1
        for _ in range(tries):
            done = subprocess.run(
                [sys.executable, "-c", code, *map(str, arguments)],
                cwd=cwd,
                env={**os.environ, "PYTHONPATH": path},
                capture_output=True,
                text=True,
                timeout=timeout_s,
            )
            if done.returncode >= 0:
                break
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run
