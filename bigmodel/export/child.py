"""Child processes for work that may crash, hang or chatter.

The converter and the runtime are native code: a model they can't handle may end the whole process. So they work in
a child (`python -m bigmodel.export.child FOLDER`), on files, without the GPU and under a time limit, and what they
print is kept for the error message. A child is a fresh interpreter and not a fork, which would inherit TensorFlow's
threads, nor a `multiprocessing` worker, which would run the caller's unguarded script again. Its start costs seconds
(TensorFlow is imported), so one that worked well waits for the next job.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import json
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
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

# A child that waits for this long ends; a parent that finds it this old starts another one, well before.
_IDLE_S, _STALE_S = 600.0, 300.0
# What a converter has leaked is given back with its process: after so many jobs, or with so much memory at its peak.
_MOST_JOBS, _MOST_BYTES = 100, 2 * 2**30


def run_child(
    task: str, job: Mapping[str, Any], *, timeout_s: float, python: str = sys.executable, reuse: bool = True
) -> Result:
    """Runs one job in a child process. The job is not changed, and nothing of the child reaches the terminal.

    Args:
        task: A name in `TASKS`, or the task itself as "module:function".
        job: What the function gets; values of JSON's types and paths.
        timeout_s: Seconds the child may take, its start (about 5 s where TensorFlow is needed) included.
        python: The interpreter.
        reuse: Whether the child may be one that has worked before, and may work again.

    Returns:
        What the function returned.

    Raises:
        ConversionError: The task raised, its process was killed or ended early, or the time ran out; in the last two
            cases nothing is left running.
    """
    (result,) = run_batch(task, [job], timeout_s=timeout_s, python=python, reuse=reuse)
    if isinstance(result, ConversionError):
        raise result
    return result


def run_batch(
    task: str, jobs: Sequence[Mapping[str, Any]], *, timeout_s: float, python: str = sys.executable, reuse: bool = True
) -> list[Result | ConversionError]:
    """Runs jobs one after another in one child process, which starts again after a job that takes it down.

    Args:
        task: As for `run_child`.
        jobs: One job per result.
        timeout_s: Seconds for each job; the first one may include the start of the child.
        python: The interpreter.
        reuse: As for `run_child`.

    Returns:
        For each job what the function returned, or the error that says why there is nothing.
    """
    results: list[Result | ConversionError] = []
    while len(results) < len(jobs):
        child = _taken(python, _environment()) if reuse else _Child(python, _environment())
        try:
            results += child.work(task, jobs[len(results) :], timeout_s)
        except BaseException:
            child.end()
            raise
        if reuse and child.is_fit():
            _give_back(child)
        else:
            child.end()
    return results


class _Child:
    """A process that works off jobs, and the folder in which it leaves results and chatter.

    Args:
        python: The interpreter.
        environment: Its variables.
    """

    def __init__(self, python: str, environment: dict[str, str]) -> None:
        self.kind = _kind(python, environment)
        self.jobs = 0
        self.idle_since = time.monotonic()
        self._peak_bytes = 0
        self._folder = Path(tempfile.mkdtemp(prefix="bigmodel-child-"))
        self._results, self._log = self._folder / "results.jsonl", self._folder / "log.txt"
        with self._log.open("wb") as output:
            self._process = subprocess.Popen(
                [python, "-m", "bigmodel.export.child", str(self._folder)],
                stdin=subprocess.PIPE,  # carries the jobs; its end tells the child that the parent is gone
                stdout=output,
                stderr=output,
                env=environment,
                start_new_session=True,  # a group of its own: a time limit ends its children too, Ctrl-C is left to us
            )

    def is_fit(self) -> bool:
        """Whether it lives, and has not grown."""
        grown = self.jobs >= _MOST_JOBS or self._peak_bytes > _MOST_BYTES
        return self._process.poll() is None and not grown

    def work(self, task: str, jobs: Sequence[Mapping[str, Any]], timeout_s: float) -> list[Result | ConversionError]:
        """Returns the results up to and including that of the job that took the child down."""
        self._results.unlink(missing_ok=True)
        chatter = self._log.stat().st_size
        order = {"task": task, "jobs": [dict(job) for job in jobs], "results": self._results}
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it ended at once: that is found out below
            self._process.stdin.write(json.dumps(order, default=os.fspath).encode() + b"\n")
            self._process.stdin.flush()
        loss = self._wait(len(jobs), timeout_s)
        entries = _read(self._results)
        self.jobs += len(entries)
        self._peak_bytes = max([self._peak_bytes, *(entry["peak_bytes"] for entry in entries)])
        done = [_unpack(task, entry) for entry in entries]
        if len(done) < len(jobs):
            self._kill()
            done.append(
                ConversionError(
                    f"The child process of {task} {loss}.",
                    received=_last_lines(self._log, chatter),
                    fix="Raise timeout_s, or leave this out: it may never end."
                    if "within" in loss
                    else "Leave this out, or replace what is unusual in the model: native code failed on it.",
                )
            )
        return done

    def _wait(self, wanted: int, timeout_s: float) -> str:
        """Waits until all results are there, the child ends or the time is up; returns how it ended."""
        seen, deadline = 0, time.monotonic() + timeout_s
        while self._process.poll() is None:
            done = len(_read(self._results))
            if done == wanted:
                return "ended"
            if done > seen:
                seen, deadline = done, time.monotonic() + timeout_s
            if time.monotonic() > deadline:
                return f"did not end within {timeout_s:g} s"
            time.sleep(_POLL_S)
        return _ending(self._process.returncode)

    def end(self) -> None:
        """Ends the process with its children, and deletes its folder."""
        self._kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _kill(self) -> None:
        process = self._process
        if hasattr(os, "killpg"):
            with contextlib.suppress(ProcessLookupError, PermissionError):  # the group is gone already
                os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
        process.wait()
        if process.stdin:
            with contextlib.suppress(BrokenPipeError):  # an order that nobody read
                process.stdin.close()


_waiting: list[_Child] = []
_lock = threading.Lock()


def _kind(python: str, environment: dict[str, str]) -> tuple[str, dict[str, str], str, int]:
    """What a child has to share with a job: its surroundings, and the parent, which a fork is not."""
    return python, environment, os.getcwd(), os.getpid()


def _taken(python: str, environment: dict[str, str]) -> _Child:
    """Returns a child that waits in the caller's surroundings, or a new one. Those of other surroundings end."""
    kind = _kind(python, environment)
    with _lock:
        waiting, _waiting[:] = list(_waiting), []
    found = None
    for child in waiting:
        if child.kind[-1] != os.getpid():  # a fork's copy: its parent's affair
            continue
        fresh = time.monotonic() - child.idle_since < _STALE_S
        if found is None and child.kind == kind and fresh and child.is_fit():
            found = child
        else:
            child.end()
    return found or _Child(python, environment)


def _give_back(child: _Child) -> None:
    child.idle_since = time.monotonic()
    with _lock:
        _waiting.append(child)


@atexit.register
def _end_all() -> None:
    with _lock:
        for child in _waiting:
            if child.kind[-1] == os.getpid():
                child.end()
        _waiting.clear()


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


def _last_lines(log: Path, start: int, count: int = 3) -> str:
    """Returns the last lines after `start` that are neither empty nor the progress and stack chatter of native code."""
    with log.open("rb") as file:
        file.seek(max(start, log.stat().st_size - 65536))
        lines = file.read().decode("utf-8", errors="replace").splitlines()
    return " | ".join([line.strip()[:300] for line in lines if not _CHATTER.match(line)][-count:])


def main(folder: str) -> None:
    """Works off orders, a line of JSON each on the standard input, until that ends; never returns.

    Args:
        folder: Holds results and chatter; deleted in the end.
    """
    orders: queue.Queue[bytes] = queue.Queue()
    threading.Thread(target=_receive, args=(orders, folder), daemon=True).start()
    while True:
        try:
            order = json.loads(orders.get(timeout=_IDLE_S))
        except queue.Empty:
            _leave(folder)
        module, _, name = TASKS.get(order["task"], order["task"]).partition(":")
        with Path(order["results"]).open("w", encoding="utf-8") as out:
            for job in order["jobs"]:
                try:
                    entry = {"result": getattr(importlib.import_module(module), name)(job)}
                except Exception as error:
                    entry = {"error": _pack(error)}
                out.write(json.dumps({**entry, "peak_bytes": _peak_bytes()}) + "\n")
                out.flush()


def _receive(orders: queue.Queue[bytes], folder: str) -> None:
    """Takes orders from the parent; ends this process when the parent is gone, whatever it is doing."""
    text = b""
    while part := os.read(0, 65536):  # not through sys.stdin, whose lock would disturb an interpreter that ends
        *lines, text = (text + part).split(b"\n")
        for line in lines:
            orders.put(line)
    _leave(folder)


def _leave(folder: str) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)  # tearing TensorFlow down takes time and can crash


def _peak_bytes() -> int:
    """The most memory that this process has had; 0 where the system doesn't tell."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _pack(error: Exception) -> dict[str, str]:
    if isinstance(error, BigmodelError):
        return {part: getattr(error, part) for part in ("problem", "received", "expected", "fix")}
    return {"type": type(error).__name__, "message": str(error).strip()[:2000]}


if __name__ == "__main__":
    main(sys.argv[1])
