"""Conversions without child processes, for tests that make many files: a child starts in five seconds."""

import importlib
import json
import os
import warnings

import pytest

from bigmodel.errors import ConversionError
from bigmodel.export import child


def run_here(task, jobs, *, timeout_s):
    """Works jobs off as the child does, arguments and errors passed as there, but in this process."""
    module, _, name = child.TASKS[task].partition(":")
    results = []
    for job in jobs:
        job = json.loads(json.dumps(dict(job), default=os.fspath))
        with warnings.catch_warnings(action="ignore"):  # as in the child
            try:
                results.append(getattr(importlib.import_module(module), name)(job))
            except ConversionError as error:
                results.append(error)
    return results


@pytest.fixture(scope="module")
def in_process():
    patch = pytest.MonkeyPatch()
    for module in ("bigmodel.export.float", "bigmodel.export.quantized"):
        patch.setattr(f"{module}.run_batch", run_here)
    yield
    patch.undo()
