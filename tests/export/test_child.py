"""Children that work, raise, crash, hang and lose their parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bigmodel.errors import ConversionError
from bigmodel.export.child import run_batch, run_child

posix = pytest.mark.skipif(os.name != "posix", reason="signals and process groups")


@pytest.fixture(autouse=True)
def _tasks_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parent)  # children look where their parent does


def _wait_for(path: Path) -> None:
    limit = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < limit, "the child never started"
        time.sleep(0.02)


def _stands_still(path: Path) -> bool:
    time.sleep(0.1)
    size = path.stat().st_size
    time.sleep(0.3)
    return path.stat().st_size == size


def test_a_job_comes_back_and_nothing_is_printed(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    job = {"number": 1.5, "list": [1, None], "path": tmp_path}
    assert run_child("child_tasks:echo", job, timeout_s=30) == {**job, "path": str(tmp_path)}
    assert job["path"] == tmp_path
    assert capfd.readouterr() == ("", "")


def test_a_child_sees_no_gpu_keeps_the_environment_and_starts_light(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_SETTING", "kept")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    seen = run_child("child_tasks:environment", {"names": ["MY_SETTING", "CUDA_VISIBLE_DEVICES"]}, timeout_s=30)
    assert (seen["MY_SETTING"], seen["CUDA_VISIBLE_DEVICES"]) == ("kept", "-1")
    assert not {"keras", "tensorflow", "numpy"} & set(seen["modules"])


def test_a_file_in_the_working_directory_does_not_shadow_a_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit(9)")
    monkeypatch.chdir(tmp_path)
    assert run_child("child_tasks:echo", {}, timeout_s=30) == {}


def test_an_exception_is_named() -> None:
    with pytest.raises(ConversionError, match="LookupError: no such scale"):
        run_child("child_tasks:fail", {"message": "no such scale"}, timeout_s=30)


def test_an_error_of_ours_keeps_its_parts() -> None:
    with pytest.raises(ConversionError) as caught:
        run_child("child_tasks:refuse", {}, timeout_s=30)
    error = caught.value
    assert (error.problem, error.received, error.fix) == ("No kernel.", "Erfinv", "Use another layer.")


@posix
def test_a_crash_names_the_signal_and_quotes_only_what_matters() -> None:
    with pytest.raises(ConversionError, match="was killed by SIGABRT") as caught:
        run_child("child_tasks:abort", {}, timeout_s=30)
    assert caught.value.received == "F0000 00:00:1 lower.cc:7] Check failed: rank == 4"


@posix
@pytest.mark.parametrize("name", ["SIGSEGV", "SIGKILL"])
def test_other_signals(name: str) -> None:
    with pytest.raises(ConversionError, match=f"was killed by {name}"):
        run_child("child_tasks:die", {"signal": name}, timeout_s=30)


def test_an_early_exit_is_an_error() -> None:
    with pytest.raises(ConversionError, match="ended early with exit code 3"):
        run_child("child_tasks:leave", {}, timeout_s=30)


def test_a_hang_ends_in_time() -> None:
    start = time.monotonic()
    with pytest.raises(ConversionError, match=r"did not end within 0\.5 s"):
        run_child("child_tasks:hang", {}, timeout_s=0.5)
    assert time.monotonic() - start < 10


@posix
def test_a_time_limit_ends_the_children_of_the_child(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="did not end"):
        run_child("child_tasks:tick", {"path": str(tmp_path / "ticks")}, timeout_s=2)
    assert _stands_still(tmp_path / "ticks")


def test_an_interrupted_parent_takes_its_child_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sleep = time.sleep

    def interrupted(seconds: float) -> None:
        if (tmp_path / "ticks").exists():
            raise KeyboardInterrupt
        sleep(seconds)

    with monkeypatch.context() as patch:
        patch.setattr("bigmodel.export.child.time.sleep", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_child("child_tasks:tick_alone", {"path": str(tmp_path / "ticks")}, timeout_s=30)
    assert _stands_still(tmp_path / "ticks")


@posix
def test_a_killed_parent_leaves_no_child_and_no_folder_behind(tmp_path: Path) -> None:
    ticks = tmp_path / "ticks"
    call = f"run_child('child_tasks:tick_alone', {{'path': {str(ticks)!r}}}, timeout_s=60)"
    code = f"from bigmodel.export.child import run_child; {call}"
    room = tmp_path / "temporary"
    room.mkdir()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "TMPDIR": str(room)}
    with subprocess.Popen([sys.executable, "-c", code], env=environment) as parent:
        _wait_for(ticks)
        parent.send_signal(signal.SIGKILL)
    assert _stands_still(ticks)
    assert not list(room.iterdir())


@posix
def test_a_batch_shares_a_child_and_survives_a_crash() -> None:
    jobs = [{"crash": crash} for crash in (False, False, True, False, True)]
    first, second, third, fourth, fifth = run_batch("child_tasks:crash_if", jobs, timeout_s=30)
    assert isinstance(first, dict) and isinstance(fourth, dict)
    assert first == second
    assert first["pid"] != fourth["pid"]
    assert all(isinstance(error, ConversionError) and "SIGABRT" in error.problem for error in (third, fifth))


def test_the_time_limit_of_a_batch_counts_for_each_job() -> None:
    naps = [{"seconds": seconds} for seconds in (0.5, 0.5, 0.5, 60)]
    *done, late = run_batch("child_tasks:nap", naps, timeout_s=1.4)
    assert done == [{}, {}, {}]
    assert isinstance(late, ConversionError)


def test_a_child_that_worked_well_works_again_and_one_that_failed_does_not() -> None:
    first, second = (run_child("child_tasks:crash_if", {"crash": False}, timeout_s=30)["pid"] for _ in range(2))
    assert first == second
    with pytest.raises(ConversionError):
        run_child("child_tasks:crash_if", {"crash": True}, timeout_s=30)
    assert run_child("child_tasks:crash_if", {"crash": False}, timeout_s=30)["pid"] != first


def test_a_child_of_other_surroundings_does_not_work(monkeypatch: pytest.MonkeyPatch) -> None:
    first = run_child("child_tasks:crash_if", {"crash": False}, timeout_s=30)["pid"]
    monkeypatch.setenv("MY_SETTING", "other")
    assert run_child("child_tasks:crash_if", {"crash": False}, timeout_s=30)["pid"] != first


def test_a_child_of_ones_own_starts_fresh_and_ends() -> None:
    waiting = run_child("child_tasks:crash_if", {"crash": False}, timeout_s=30)["pid"]
    own = run_child("child_tasks:crash_if", {"crash": False}, timeout_s=30, reuse=False)["pid"]
    assert own != waiting == run_child("child_tasks:crash_if", {"crash": False}, timeout_s=30)["pid"]
    with pytest.raises(ProcessLookupError):
        os.kill(own, 0)


def test_a_child_that_has_done_much_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bigmodel.export.child._MOST_JOBS", 2)
    monkeypatch.setenv("MY_SETTING", "a child of this test")
    pids = [run_child("child_tasks:crash_if", {"crash": False}, timeout_s=30)["pid"] for _ in range(3)]
    assert pids[0] == pids[1] != pids[2]


def test_the_chatter_of_earlier_jobs_is_not_quoted() -> None:
    run_child("child_tasks:echo", {}, timeout_s=30)
    with pytest.raises(ConversionError) as caught:
        run_child("child_tasks:die", {"signal": "SIGKILL"}, timeout_s=30)
    assert "chatter" not in caught.value.received


@posix
def test_a_parent_that_ends_takes_its_waiting_child_along() -> None:
    call = "run_child('child_tasks:crash_if', {'crash': False}, timeout_s=30)"
    code = f"from bigmodel.export.child import run_child; print({call}['pid'])"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], env=environment, capture_output=True, text=True)
    assert done.stderr == ""
    with pytest.raises(ProcessLookupError):
        os.kill(int(done.stdout), 0)


def test_no_jobs_start_no_child() -> None:
    assert run_batch("child_tasks:leave", [], timeout_s=30) == []
