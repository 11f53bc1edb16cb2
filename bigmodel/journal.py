"""A run's directory: what is done stands in `log.jsonl`, so that a run that was cut off goes on behind it."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bigmodel.errors import DirectoryError

_LOG = "log.jsonl"
_FOLDERS = ("candidates", "checkpoints")


class Journal:
    """The journal of a run. An entry once written is never computed again, clock readings included.

    Args:
        directory: The run's directory; it is made where it is missing.
        identity: What the run is about: equal for equal model, data and configs. JSON-ready.

    Raises:
        DirectoryError: The directory holds another run, or other files.
    """

    def __init__(self, directory: str | os.PathLike[str], identity: Mapping[str, Any]) -> None:
        self.directory = Path(directory)
        _check_directory(self.directory)
        for folder in _FOLDERS:
            (self.directory / folder).mkdir(parents=True, exist_ok=True)
        entries = _read(self.directory / _LOG)
        identity = json.loads(json.dumps(identity))
        if entries and entries[0].get("identity") != identity:
            raise _other_run(self.directory, entries[0].get("identity") or {}, identity)
        self._done = {entry["entry"]: entry["values"] for entry in entries if "entry" in entry}
        if not entries:
            _append(self.directory / _LOG, {"identity": identity, "time": time.time()})

    def recall(self, entry: str) -> dict[str, Any] | None:
        """Returns what was written under a name, or `None`."""
        return self._done.get(entry)

    def write(self, entry: str, values: Mapping[str, Any]) -> dict[str, Any]:
        """Writes values under a name and returns them as they will be recalled."""
        kept: dict[str, Any] = json.loads(json.dumps(values))
        _append(self.directory / _LOG, {"entry": entry, "time": time.time(), "values": kept})
        self._done[entry] = kept
        return kept

    def once(self, entry: str, compute: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
        """Returns what stands under a name; where nothing does, computes and writes it."""
        found = self.recall(entry)
        return self.write(entry, compute()) if found is None else found

    def path(self, *parts: str) -> Path:
        """Returns a path inside the directory."""
        return self.directory.joinpath(*parts)


def write_whole(path: Path, save: Callable[[Path], Any]) -> Path:
    """Writes a file whole or not at all: `save` gets a path beside it, which then takes its place.

    Args:
        path: The file; the path that `save` gets has the same suffix.
        save: Writes a file to the path it is given.
    """
    partial = path.with_name(f".partial-{path.name}")
    save(partial)
    os.replace(partial, path)
    return path


def digest(*parts: bytes) -> str:
    """Returns a short fingerprint of bytes."""
    state = hashlib.blake2b(digest_size=12)
    for part in parts:
        state.update(part)
    return state.hexdigest()


def _check_directory(directory: Path) -> None:
    if directory.exists() and not directory.is_dir():
        problem, received = "The directory can't be used.", f"{directory}, which is a file"
    elif directory.exists() and any(directory.iterdir()) and not (directory / _LOG).is_file():
        problem, received = "The directory holds other files.", f"{directory} without {_LOG}"
    else:
        return
    raise DirectoryError(
        problem,
        received=received,
        expected="a new or empty directory, or the one of a run to go on with",
        fix="Pass another directory.",
    )


def _other_run(directory: Path, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> DirectoryError:
    different = sorted(key for key in {*theirs, *ours} if theirs.get(key) != ours.get(key))
    return DirectoryError(
        "The directory belongs to another run.",
        received=f"{directory}, whose run differs in: {', '.join(different)}",
        expected="the directory of a run with the same model, data, configs and seed",
        fix="Pass another directory, or the model, data and configs of that run.",
    )


def _read(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    # The piece behind the last line end is empty, or an entry that was cut off while it was written.
    return [json.loads(line) for line in lines[:-1] if line.strip()]


def _append(path: Path, entry: Mapping[str, Any]) -> None:
    whole = path.read_bytes() if path.is_file() else b""
    if whole and not whole.endswith(b"\n"):
        path.write_bytes(whole[: whole.rfind(b"\n") + 1])
    with path.open("ab") as log:
        log.write(json.dumps(entry).encode() + b"\n")
        log.flush()
        os.fsync(log.fileno())
