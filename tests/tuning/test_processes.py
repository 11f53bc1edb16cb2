"""Trials in processes of their own: several at a time, lost ones, a chief with workers; memory over many trials."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from searches import build, build_or_die, network, rates, search

from bigmodel.config import TuneConfig
from bigmodel.errors import ArgumentError
from bigmodel.tuning import Options

HERE = Path(__file__).parent


@pytest.fixture
def importable(monkeypatch):
    """Children find the tests' own module, as they would find a caller's."""
    monkeypatch.syspath_prepend(str(HERE))


def test_a_function_that_no_other_process_can_reach_is_refused(data, tmp_path, importable):
    config = TuneConfig(2, build=lambda hp: build(hp), parallel_trials=2)
    with pytest.raises(ArgumentError, match="top of a module"):
        search(network(), data, config, tmp_path)


@pytest.mark.slow
def test_parallel_trials_reach_what_one_process_reaches(trained, data, tmp_path, importable):
    one, two = (
        search(
            trained, data, TuneConfig(3, tuner="grid", space=rates, objective="loss", parallel_trials=count),
            tmp_path / str(count),
        )
        for count in (1, 2)
    )  # fmt: skip
    for a, b in zip(one.trials, two.trials, strict=True):
        assert a["values"] == b["values"] and a["score"] == pytest.approx(b["score"], rel=1e-5)
    for a, b in zip(one.model.get_weights(), two.model.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_a_process_that_is_lost_takes_its_own_trial_only(data, tmp_path, importable, monkeypatch):
    monkeypatch.setenv("LOSE_WIDTH_FROM", "9")
    config = TuneConfig(4, tuner="random", build=build_or_die, parallel_trials=2)
    found = search(network(), data, config, tmp_path)
    lost = [row for row in found.trials if row["status"] == "failed"]
    assert {row["trial"] for row in lost} == {row["trial"] for row in found.trials if row["values"]["width"] >= 9}
    assert lost and all("killed by SIGKILL" in row["reason"] for row in lost)


SCRIPT = """
    import sys
    import numpy as np
    import bigmodel as bm
    from searches import build

    rng = np.random.default_rng(0)
    x = rng.normal(size=(600, 8)).astype("float32")
    config = bm.TuneConfig(4, tuner="random", objective="accuracy")
    train = bm.TrainConfig(epochs=1, batch_size=64)
    found = bm.tune(build, (x, (x[:, 0] > 0).astype("int32")), config, train=train, directory=sys.argv[1], verbose=0)
    print(len(found.trials), found.value)
"""


@pytest.mark.slow
def test_a_chief_hands_out_trials_to_two_workers(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT), encoding="utf-8")
    shared = {
        **os.environ,
        "KERASTUNER_ORACLE_IP": "127.0.0.1",
        "KERASTUNER_ORACLE_PORT": str(port),
        "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent.parent)]),
    }
    running = [
        subprocess.Popen(
            [sys.executable, script, tmp_path / "run"],
            env={**shared, "KERASTUNER_TUNER_ID": name},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in ("chief", "worker0", "worker1")
    ]
    outputs = [process.communicate(timeout=240) for process in running]
    assert [process.returncode for process in running] == [0, 0, 0], [error[-2000:] for _, error in outputs]
    assert outputs[0][0].split()[0] == "4"  # the chief knows all trials, and has run none
    assert sum((tmp_path / "run" / "log.jsonl").read_text().count(f'"trial {n}"') for n in range(4)) == 4


@pytest.mark.slow
def test_memory_is_flat_over_a_hundred_trials(data, tmp_path):
    used: list[int] = []
    options = Options(watch=lambda row, best: used.append(_resident_bytes()))
    search(network(), data, TuneConfig(100, tuner="random", build=build), tmp_path, options=options)
    assert len(used) == 100
    # Allocators settle in the first trials; a model, its optimizer and its traces are several megabytes.
    assert np.mean(used[-10:]) - np.mean(used[20:30]) < 70 * 0.5e6


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
