"""What is done so far: results.json, one line for each network, seed and method."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import threading
from collections.abc import Collection, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

Run = dict[str, Any]

_PACKAGES = ("tensorflow", "keras", "tf_keras", "tensorflow-model-optimization", "ai-edge-quantizer", "ai-edge-litert")


class Results:
    """The runs of one comparison, on disk as soon as they are known.

    Args:
        path: The results.json; what it holds is kept.
        settings: Under which the files are made.

    Raises:
        SystemExit: The file was made under other settings.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self._path, self._settings, self._lock = path, dict(settings), threading.Lock()
        self.runs: list[Run] = []
        if path.is_file():
            kept = json.loads(path.read_text(encoding="utf-8"))
            for name, value in self._settings.items():
                was = kept["settings"].get(name)
                if was != value:
                    raise SystemExit(
                        f"{path} was made with {name}={was}, not {value}. Rows of one table have the same settings: "
                        "pass the old value, or another --out."
                    )
            self.runs = kept["runs"]

    def done(self, network: str, seed: int, method: str) -> bool:
        """Tells whether that was tried already."""
        return any((run["network"], run["seed"], run["method"]) == (network, seed, method) for run in self.runs)

    def add(self, run: Run) -> None:
        """Keeps a run."""
        with self._lock:
            self.runs.append({**run, "commit": commit()})
            self.write()

    def forget_failed(self, networks: Collection[str], methods: Collection[str]) -> None:
        """Forgets the runs without a file of these networks and methods, so that they are tried again."""
        self.runs = [
            run
            for run in self.runs
            if "reason" not in run or run["network"] not in networks or run["method"] not in methods
        ]

    def record(self) -> dict[str, Any]:
        """Returns everything a table needs."""
        commits = ", ".join(dict.fromkeys(run["commit"] for run in self.runs))
        return {"settings": self._settings, "environment": {**environment(), "commit": commits}, "runs": self.runs}

    def write(self) -> None:
        """Writes the file, whole or not at all."""
        part = self._path.with_suffix(".part")
        part.write_text(as_json(self.record()), encoding="utf-8")
        part.replace(self._path)


def as_json(record: Mapping[str, Any]) -> str:
    """The record with one line for each run, which people and `diff` can read."""
    runs = ",\n".join(f"  {json.dumps(run)}" for run in record["runs"])
    head = [f" {json.dumps(name)}: {json.dumps(record[name])}" for name in ("settings", "environment")]
    return "{\n" + ",\n".join([*head, f' "runs": [\n{runs}\n ]']) + "\n}\n"


def commit() -> str:
    """The commit that runs; marked where the files differ from it."""
    command = ["git", "describe", "--always", "--dirty", "--exclude", "*"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent)
    return done.stdout.strip() or "unknown"


def environment() -> dict[str, str]:
    """Versions and machine."""
    cpu = platform.machine()
    if Path("/proc/cpuinfo").is_file():
        found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
        cpu = f"{found[1]}, {cpu}" if found else cpu
    versions = {package: metadata.version(package) for package in _PACKAGES}
    return {**versions, "python": platform.python_version(), "machine": f"{cpu}, {os.cpu_count()} cores"}
