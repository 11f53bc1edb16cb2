"""A run that is killed anywhere goes on when it is called again, and ends as one that was never broken off."""

from __future__ import annotations

import contextlib
import subprocess
import time

import numpy as np
import pytest
from jobs import ORDERS, comparable

import bigmodel as bm

pytestmark = pytest.mark.slow

POINTS = [
    *("epoch 0 of prune", "epoch 1 of prune", "epoch 0 of aware", "epoch 1 of aware"),
    *(f"entry {n}" for n in range(1, 12, 2)),
    *("conversion 0", "conversion 2", "conversion 4", "conversion 6"),
    *("measurement 0", "measurement 2", "measurement 5"),
    *("file 1", "file 3", "file 6", "race 0"),
]


@pytest.fixture(scope="module")
def unbroken(trained, digits, tmp_path_factory):
    return bm.compress_and_tune(trained, digits, **ORDERS, directory=tmp_path_factory.mktemp("run"), verbose=0)


@pytest.fixture(scope="module")
def duration(job, tmp_path_factory):
    """Seconds of the whole job, the start of its process included."""
    begin = time.perf_counter()
    job(tmp_path_factory.mktemp("timed") / "run").communicate()
    return time.perf_counter() - begin


def test_there_is_a_step_of_each_kind_to_be_killed_in(unbroken):
    assert [step["name"] for step in unbroken.report.steps] == ["prune", "prune-post_training_int8", "prune-aware_int8"]


@pytest.mark.parametrize("where", POINTS)
def test_it_ends_as_the_unbroken_one(where, unbroken, killed_at, tmp_path):
    assert_equal(killed_at(where, tmp_path / "run"), unbroken)


@pytest.mark.parametrize("number", range(20))
def test_it_ends_as_the_unbroken_one_whenever_it_is_killed(number, duration, unbroken, job, tmp_path):
    directory = tmp_path / "run"
    process = job(directory)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(np.random.default_rng(number).uniform(0, duration))
    process.kill()
    process.communicate()
    process = job(directory)
    _, told = process.communicate()
    assert process.returncode == 0, told[-2000:]
    assert_equal(bm.load_result(directory), unbroken)


def assert_equal(again, unbroken):
    assert comparable(again.report) == comparable(unbroken.report)
    for row in unbroken.report.candidates:
        assert (again.directory / row["path"]).read_bytes() == (unbroken.directory / row["path"]).read_bytes()
    assert again.litert_path.read_bytes() == unbroken.litert_path.read_bytes()
