"""Writing tasks for `test_quantized.py` that are killed for some formats."""

from __future__ import annotations

import os
import signal
from typing import Any

from bigmodel.export import writer


def killed_at_float16(job: dict[str, Any]) -> dict[str, Any]:
    if job["format"] == "float16":
        os.kill(os.getpid(), signal.SIGSEGV)
    return writer.write(job)


def killed_before_the_last_step(job: dict[str, Any]) -> dict[str, Any]:
    """Everything is written but not yet in its place."""
    writer.os.replace = lambda source, target: os.kill(os.getpid(), signal.SIGKILL)
    return writer.write(job)
