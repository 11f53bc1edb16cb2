"""Child processes for work that may crash, hang or chatter.

The converter and the runtime are native code: a model they can't handle may end the whole process. So they work in
a child (`python -m bigmodel.export.child TASK jobs.json results.jsonl`), on files, without the GPU and under a time
limit, and what they print is kept for the error message. A child is a fresh interpreter and not a fork, which would
inherit TensorFlow's threads, nor a `multiprocessing` worker, which would run the caller's unguarded script again.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bigmodel.errors import BigmodelError, ConversionError

Result = dict[str, Any]

TASKS = {
    "convert_float": "bigmodel.export.conversion:convert_float",
    "first_run": "bigmodel.export.trial:run_file",
    "write": "bigmodel.export.writer:write",
}
"""Name of a task -> "module:function"; the function takes a job and returns a result, both of JSON's types."""

PART = ".part"
"""Suffix of a file while a child writes it; it gets its name when it is complete."""

_POLL_S = 0.02
_CHATTER = re.compile(r"[IW]\d{4} |INFO|WARNING|DEBUG|\S*Warning:|\s*@ |PC: @|\*\*\* |\s*$")


def run_child(task: str, job: Mapping[str, Any], *, timeout_s: float, python: str = sys.executable) -> Result:
    """Runs one job in a child process. The job is not changed, and nothing of the child reaches the terminal.

    Args:
        task: A name in `TASKS`, or the task itself as "module:function".
        job: What the function gets; values of JSON's types and paths.
        timeout_s: Seconds the child may take, its start (about 5 s where TensorFlow is needed) included.
        python: The interpreter.

    Returns:
        What the function returned.

    Raises:
        ConversionError: The task raised, its process was killed or ended early, or the time ran out; in the last two
            cases nothing is left running.
    """
    (result,) = run_batch(task, [job], timeout_s=timeout_s, python=python)
    if isinstance(result, ConversionError):
        raise result
    return result


def run_batch(
    task: str, jobs: Sequence[Mapping[str, Any]], *, timeout_s: float, python: str = sys.executable
) -> list[Result | ConversionError]:
    """Runs jobs one after another in one child process, which starts again after a job that takes it down.

    Args:
        task: As for `run_child`.
        jobs: One job per result.
        timeout_s: Seconds for each job; the first one includes the start of the child.
        python: The interpreter.

    Returns:
        For each job what the function returned, or the error that says why there is nothing.
    """
    results: list[Result | ConversionError] = []
    while len(results) < len(jobs):
        results += _run_until_lost(task, jobs[len(results) :], timeout_s, python)
    return results


def _run_until_lost(
    task: str, jobs: Sequence[Mapping[str, Any]], timeout_s: float, python: str
) -> list[Result | ConversionError]:
    """Returns the results up to and including the job that took the child down."""
    with tempfile.TemporaryDirectory(prefix="bigmodel-child-") as folder:
        room = Path(folder)
        results, log = room / "results.jsonl", room / "log.txt"
        (room / "jobs.json").write_text(json.dumps([dict(job) for job in jobs], default=os.fspath), encoding="utf-8")
        command = [python, "-m", "bigmodel.export.child", task, str(room / "jobs.json"), str(results)]
        loss = _wait(command, log, lambda: len(_read(results)), len(jobs), timeout_s)
        done = [_unpack(task, entry) for entry in _read(results)]
        if len(done) < len(jobs):
            done.append(
                ConversionError(
                    f"The child process of {task} {loss}.",
                    received=_last_lines(log),
                    fix="Raise timeout_s, or leave this out: it may never end."
                    if "within" in loss
                    else "Leave this out, or replace what is unusual in the model: native code failed on it.",
                )
            )
        return done


def _wait(command: list[str], log: Path, count: Callable[[], int], wanted: int, timeout_s: float) -> str:
    """Runs a command until all results are there, it ends or the time is up; returns how it ended."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,  # never written to: its end tells the child that the parent is gone
            stdout=output,
            stderr=output,
            env=_environment(),
            start_new_session=True,  # a group of its own: a time limit ends its children too, Ctrl-C is left to us
        )
        try:
            seen, deadline = 0, time.monotonic() + timeout_s
            while process.poll() is None:
                done = count()
                if done == wanted:
                    return "ended"
                if done > seen:
                    seen, deadline = done, time.monotonic() + timeout_s
                if time.monotonic() > deadline:
                    return f"did not end within {timeout_s:g} s"
                time.sleep(_POLL_S)
            return _ending(process.returncode)
        finally:
            _kill(process)


def _kill(process: subprocess.Popen[bytes]) -> None:
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError, PermissionError):  # the group is gone already
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()
    if process.stdin:
        process.stdin.close()


def _ending(code: int) -> str:
    if code >= 0:
        return f"ended early with exit code {code}"
    name = signal.Signals(-code).name
    return f"was killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")


def _environment() -> dict[str, str]:
    """The caller's environment, without the GPU, quiet, and with the caller's import path."""
    return {
        **os.environ,
        "CUDA_VISIBLE_DEVICES": "-1",
        "TF_CPP_MIN_LOG_LEVEL": "2",  # errors stay: they are what the message quotes
        "PYTHONWARNINGS": "ignore",
        "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
        "PYTHONSAFEPATH": "1",  # a file named like a module in the working directory must not shadow it
    }


def _read(results: Path) -> list[dict[str, Any]]:
    """Returns the complete lines: a child that was killed may have left half of one."""
    try:
        text = results.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def _unpack(task: str, entry: Mapping[str, Any]) -> Result | ConversionError:
    if "error" not in entry:
        return dict(entry["result"])
    error = entry["error"]
    if "problem" in error:
        return ConversionError(error["problem"], **{part: error[part] for part in ("received", "expected", "fix")})
    return ConversionError(f"{task} failed in its child process.", received=f"{error['type']}: {error['message']}")


def _last_lines(log: Path, count: int = 3) -> str:
    """Returns the last lines that are neither empty nor the progress and stack chatter of native code."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 65536))
        lines = file.read().decode("utf-8", errors="replace").splitlines()
    return " | ".join([line.strip()[:300] for line in lines if not _CHATTER.match(line)][-count:])


def main(arguments: Sequence[str]) -> None:
    """Works the jobs of a file off and appends a line of JSON for each; never returns.

    Args:
        arguments: The task, the path of the jobs (a JSON list) and the path of the results.
    """
    task, jobs, results = arguments
    threading.Thread(target=_end_with_parent, daemon=True).start()
    module, _, name = TASKS.get(task, task).partition(":")
    with Path(results).open("w", encoding="utf-8") as out:
        for job in json.loads(Path(jobs).read_text(encoding="utf-8")):
            try:
                entry = {"result": getattr(importlib.import_module(module), name)(job)}
            except Exception as error:
                entry = {"error": _pack(error)}
            out.write(json.dumps(entry) + "\n")
            out.flush()
    os._exit(0)  # everything is written; tearing TensorFlow down takes time and can crash


def _end_with_parent() -> None:
    os.read(0, 1)
    os._exit(1)


def _pack(error: Exception) -> dict[str, str]:
    if isinstance(error, BigmodelError):
        return {part: getattr(error, part) for part in ("problem", "received", "expected", "fix")}
    return {"type": type(error).__name__, "message": str(error).strip()[:2000]}


if __name__ == "__main__":
    main(sys.argv[1:])
