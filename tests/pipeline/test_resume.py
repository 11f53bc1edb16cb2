"""A run that is killed anywhere goes on when it is called again, and ends as one that was never broken off."""

from __future__ import annotations

import contextlib
import subprocess
import time

import numpy as np
import pytest
from jobs import JOBS, ORDERS, comparable

import bigmodel as bm

pytestmark = pytest.mark.slow

POINTS = [
    *("epoch 0 of prune", "epoch 1 of prune", "epoch 0 of aware", "epoch 1 of aware"),
    *(f"entry {n}" for n in range(1, 14, 2)),
    *("conversion 0", "conversion 2", "conversion 4", "conversion 6"),
    *("measurement 0", "measurement 2", "measurement 5"),
    *("file 1", "file 3", "file 6", "race 0", "augmentation 1"),
]
# In a search: after a trial that was proposed, one that was measured, one that was written; in a training; in the end.
POINTS_OF_SEARCH = [
    *("epoch 1 of 0", "epoch 0 of 9", "proposal 3", "proposal 10", "model 6", "trial 4", "trial 10", "verdict 0"),
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
    names = ["augment", "prune", "prune-post_training_int8", "prune-aware_int8"]
    assert [step["name"] for step in unbroken.report.steps] == names


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


@pytest.fixture(scope="module")
def searched(job, tmp_path_factory):
    directory = tmp_path_factory.mktemp("searched") / "run"
    process = job(directory, name="search")
    _, told = process.communicate()
    assert process.returncode == 0, told[-2000:]
    return bm.load_result(directory)


def test_the_search_learns_from_its_trials(searched):
    """Else a search that forgot what it has seen could end in the same way."""
    assert len(searched.report.trials) == JOBS["search"]["tune"].max_trials > 9
    assert "tune" in [step["name"] for step in searched.report.steps]


@pytest.mark.parametrize("where", POINTS_OF_SEARCH)
def test_a_search_ends_as_the_unbroken_one(where, searched, killed_at, tmp_path):
    assert_equal(killed_at(where, tmp_path / "run", "search"), searched)


def assert_equal(again, unbroken):
    assert comparable(again.report) == comparable(unbroken.report)
    for row in unbroken.report.candidates:
        assert (again.directory / row["path"]).read_bytes() == (unbroken.directory / row["path"]).read_bytes()
    assert again.litert_path.read_bytes() == unbroken.litert_path.read_bytes()
