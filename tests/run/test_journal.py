"""A run's directory: what it remembers, what it refuses, and what a cut leaves behind."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import textwrap

import pytest

from bigmodel.errors import DirectoryError
from bigmodel.run.journal import Journal, alone, await_journal, digest, write_whole

RUN = {"model": "a", "train": {"epochs": 5, "patience": 3}, "seed": 0}


def refuse() -> dict[str, int]:
    raise AssertionError("computed twice")


def test_what_was_written_is_recalled_by_the_next_journal(tmp_path):
    first = Journal(tmp_path / "run", RUN)
    assert first.recall("a") is None
    assert first.once("a", lambda: {"x": 1, "many": (1, 2)}) == {"x": 1, "many": [1, 2]}
    assert first.once("a", refuse) == {"x": 1, "many": [1, 2]}
    again = Journal(tmp_path / "run", RUN)
    assert again.once("a", refuse) == {"x": 1, "many": [1, 2]}
    assert again.recall("b") is None


def test_the_directory_has_its_folders_and_paths(tmp_path):
    journal = Journal(tmp_path / "deep" / "run", RUN)
    assert sorted(path.name for path in journal.directory.iterdir()) == ["candidates", "checkpoints", "log.jsonl"]
    assert journal.path("candidates", "a.tflite") == tmp_path / "deep" / "run" / "candidates" / "a.tflite"


@pytest.mark.parametrize("kept", range(1, 200, 7))
def test_a_line_that_was_cut_off_is_as_if_it_had_not_been_begun(tmp_path, kept):
    Journal(tmp_path, RUN).write("a", {"x": 1})
    log = tmp_path / "log.jsonl"
    whole = log.read_bytes()
    log.write_bytes(whole + b'{"entry": "b", "time": 1.0, "values": {"x": "\xc3\xa4"}}'[:kept])
    journal = Journal(tmp_path, RUN)
    assert journal.recall("a") == {"x": 1} and journal.recall("b") is None
    assert log.read_bytes() == whole
    journal.write("b", {"x": 2})
    assert Journal(tmp_path, RUN).recall("b") == {"x": 2}
    assert all(json.loads(line) for line in log.read_text().splitlines())


@pytest.mark.parametrize("kept", [0, 1, 9, 30])
def test_a_first_line_that_was_cut_off_is_written_again(tmp_path, kept):
    Journal(tmp_path, RUN)
    log = tmp_path / "log.jsonl"
    log.write_bytes(log.read_bytes()[:kept])
    Journal(tmp_path, RUN).write("a", {"x": 1})
    assert Journal(tmp_path, RUN).recall("a") == {"x": 1}


def test_another_run_is_refused_with_what_differs(tmp_path):
    Journal(tmp_path, RUN).write("a", {"x": 1})
    before = (tmp_path / "log.jsonl").read_bytes()
    other = {**RUN, "seed": 1, "train": {"epochs": 6, "patience": 3}}
    with pytest.raises(DirectoryError) as caught:
        Journal(tmp_path, other)
    assert caught.value.received.endswith("differs in: seed, train.epochs") and caught.value.fix
    assert (tmp_path / "log.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("notes.txt", "mine"),
        ("log.jsonl", "mine"),
        ("log.jsonl", "mine\n"),
        ("log.jsonl", '{"a": 1}\n'),
        ("log.jsonl", "[]\n"),
    ],
)
def test_a_directory_with_other_files_is_refused_and_left_as_it_was(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    with pytest.raises(DirectoryError) as caught:
        Journal(tmp_path, RUN)
    assert caught.value.received and caught.value.expected and caught.value.fix
    assert [path.name for path in tmp_path.iterdir()] == [name] and (tmp_path / name).read_text() == content


def test_a_file_is_no_directory(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DirectoryError, match="which is a file"):
        Journal(tmp_path / "file", RUN)


def test_seconds_count_the_work_behind_the_journal_over_all_its_runs(tmp_path, monkeypatch):
    clock = iter([0.0, 3.0, 3.0, 100.0, 102.0, 102.0, 102.5])
    monkeypatch.setattr("bigmodel.run.journal.time.perf_counter", lambda: next(clock))
    Journal(tmp_path, RUN).write("a", {})  # begun at 0, written at 3
    second = Journal(tmp_path, RUN)  # goes on at 100
    second.write("b", {})  # written at 102
    assert second.seconds == 5.5


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "model.keras"

    def fail(to):
        to.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_whole(path, fail)
    assert not path.exists()
    assert write_whole(path, lambda to: to.write_text(to.suffix)) == path
    assert path.read_text() == ".keras"
    with pytest.raises(KeyboardInterrupt):
        write_whole(path, fail)
    assert path.read_text() == ".keras"


def test_a_digest_tells_bytes_apart():
    assert digest(b"a") == digest(b"a") != digest(b"b")


def test_two_runs_are_not_at_work_in_one_directory(tmp_path, python):
    code = f"""
    from bigmodel.errors import DirectoryError
    from bigmodel.run.journal import alone
    try:
        with alone({str(tmp_path)!r}):
            print("alone")
    except DirectoryError as error:
        print(error.problem)
    """
    with alone(tmp_path):
        assert python(textwrap.dedent(code)).splitlines()[-1] == "Another run is at work in the directory."
        Journal(tmp_path, RUN)  # the lock is no other file
    assert python(textwrap.dedent(code)).splitlines()[-1] == "alone"


def test_a_lock_ends_with_its_process(tmp_path):
    code = f"""
import os, signal
from bigmodel.run.journal import alone
with alone({str(tmp_path)!r}):
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    with alone(tmp_path):
        Journal(tmp_path, RUN)


def test_a_worker_waits_for_its_chief(tmp_path):
    with pytest.raises(DirectoryError, match="chief has not begun"):
        await_journal(tmp_path, timeout_s=0.3)
    Journal(tmp_path, {"model": "m"})
    await_journal(tmp_path, timeout_s=0.0)
