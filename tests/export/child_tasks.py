"""Tasks for `test_child.py`, named there as "child_tasks:...": each misbehaves in one way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bigmodel.errors import ConversionError


def echo(job: dict[str, Any]) -> dict[str, Any]:
    print("chatter on stdout")
    print("chatter on stderr", file=sys.stderr)
    os.write(2, b"chatter below Python\n")
    return job


def environment(job: dict[str, Any]) -> dict[str, Any]:
    return {name: os.environ.get(name) for name in job["names"]} | {"modules": sorted(sys.modules)}


def fail(job: dict[str, Any]) -> dict[str, Any]:
    raise LookupError(job["message"])


def refuse(job: dict[str, Any]) -> dict[str, Any]:
    raise ConversionError("No kernel.", received="Erfinv", fix="Use another layer.")


def abort(job: dict[str, Any]) -> dict[str, Any]:
    os.write(2, b"I0000 00:00:1 loader.cc:1] progress\n")
    os.write(2, b"F0000 00:00:1 lower.cc:7] Check failed: rank == 4\n    @ 0x55 main\n\n")
    os.abort()


def die(job: dict[str, Any]) -> dict[str, Any]:
    os.kill(os.getpid(), getattr(signal, job["signal"]))
    return {}


def leave(job: dict[str, Any]) -> dict[str, Any]:
    raise SystemExit(3)


def hang(job: dict[str, Any]) -> dict[str, Any]:
    time.sleep(60)
    return {}


def nap(job: dict[str, Any]) -> dict[str, Any]:
    time.sleep(job["seconds"])
    return {}


def tick(job: dict[str, Any]) -> dict[str, Any]:
    """Hangs with a child of its own that keeps writing to a file."""
    code = f"import time\nwhile True:\n    open({job['path']!r}, 'a').write('.')\n    time.sleep(0.02)"
    subprocess.run([sys.executable, "-c", code])
    return {}


def tick_alone(job: dict[str, Any]) -> dict[str, Any]:
    while True:
        with Path(job["path"]).open("a") as file:
            file.write(".")
        time.sleep(0.02)


def crash_if(job: dict[str, Any]) -> dict[str, Any]:
    if job["crash"]:
        os.abort()
    return {"pid": os.getpid()}
