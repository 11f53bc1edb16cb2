"""A run's directory: what is done stands in `log.jsonl`, so that a run that was cut off goes on behind it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from bigmodel.errors import DirectoryError

_LOG = "log.jsonl"
_LOCK = ".lock"
_START = b'{"identity": '
_POLL_S = 0.2
_FOLDERS = ("candidates", "checkpoints")


class Journal:
    """The journal of a run. An entry once written is never computed again, clock readings included.

    Args:
        directory: The run's directory; it is made where it is missing.
        identity: What the run is about: equal for equal model, data and configs. JSON-ready.

    Attributes:
        directory: The run's directory.

    Raises:
        DirectoryError: The directory holds another run, or other files.
    """

    def __init__(self, directory: str | os.PathLike[str], identity: Mapping[str, Any]) -> None:
        self.directory = Path(directory)
        _check_directory(self.directory)
        entries = _read(self.directory / _LOG)
        identity = _as_kept(identity)
        if entries and entries[0]["identity"] != identity:
            raise _other_run(self.directory, entries[0]["identity"], identity)
        for folder in _FOLDERS:
            (self.directory / folder).mkdir(parents=True, exist_ok=True)
        self._done = {entry["entry"]: entry["values"] for entry in entries if "entry" in entry}
        self._seconds = sum(entry.get("seconds", 0.0) for entry in entries)
        self._mark = time.perf_counter()
        if not entries:
            _append(self.directory / _LOG, {"identity": identity, "time": time.time()})

    @property
    def seconds(self) -> float:
        """Seconds of work behind the journal, those before an interruption included, lost work not."""
        return self._seconds + time.perf_counter() - self._mark

    def recall(self, entry: str) -> dict[str, Any] | None:
        """Returns what was written under a name, or `None`."""
        return self._done.get(entry)

    def write(self, entry: str, values: Mapping[str, Any]) -> dict[str, Any]:
        """Writes values under a name and returns them as they will be recalled."""
        kept: dict[str, Any] = _as_kept(values)
        before, self._seconds, self._mark = self._seconds, self.seconds, time.perf_counter()
        line = {"entry": entry, "time": time.time(), "seconds": self._seconds - before, "values": kept}
        _append(self.directory / _LOG, line)
        self._done[entry] = kept
        return kept

    def once(self, entry: str, compute: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
        """Returns what stands under a name; where nothing does, computes and writes it."""
        found = self.recall(entry)
        return self.write(entry, compute()) if found is None else found

    def path(self, *parts: str) -> Path:
        """Returns a path inside the directory."""
        return self.directory.joinpath(*parts)


@contextlib.contextmanager
def alone(directory: str | os.PathLike[str]) -> Iterator[None]:
    """Keeps other runs out of a directory, as long as the context lasts and this process lives.

    Raises:
        DirectoryError: Another run is at work there, or the directory can't be used.
    """
    directory = Path(directory)
    _check_directory(directory)
    directory.mkdir(parents=True, exist_ok=True)
    lock = FileLock(directory / _LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise DirectoryError(
            "Another run is at work in the directory.",
            received=str(directory),
            expected="a directory that no other process uses",
            fix="Wait until the other run has ended, or pass another directory.",
        ) from error
    try:
        yield
    finally:
        lock.release()


def await_journal(directory: str | os.PathLike[str], *, timeout_s: float = 600.0) -> None:
    """Waits until another process has begun a run in a directory, which it would refuse if others had files there.

    Args:
        directory: The run's directory.
        timeout_s: Seconds to wait.

    Raises:
        DirectoryError: No run has begun there.
    """
    path, deadline = Path(directory, _LOG), time.monotonic() + timeout_s
    while not path.is_file():
        if time.monotonic() > deadline:
            raise DirectoryError(
                "The chief has not begun.",
                received=f"no {path} within {timeout_s:g} s",
                expected="the directory in which the chief works, on a file system that all share",
                fix="Start the chief, with the same directory.",
            )
        time.sleep(_POLL_S)


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


def digest(*parts: Any) -> str:
    """Returns a short fingerprint of bytes, or of whatever shows its bytes in one dimension."""
    state = hashlib.blake2b(digest_size=12)
    for part in parts:
        state.update(part)
    return state.hexdigest()


def _check_directory(directory: Path) -> None:
    if directory.exists() and not directory.is_dir():
        problem, received = "The directory can't be used.", f"{directory}, which is a file"
    elif directory.exists() and _has_files(directory) and not (directory / _LOG).is_file():
        problem, received = "The directory holds other files.", f"{directory} without {_LOG}"
    else:
        return
    raise DirectoryError(
        problem,
        received=received,
        expected="a new or empty directory, or the one of a run to go on with",
        fix="Pass another directory.",
    )


def _has_files(directory: Path) -> bool:
    return any(path.name != _LOCK for path in directory.iterdir())


def _other_run(directory: Path, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> DirectoryError:
    theirs, ours = _flat(theirs), _flat(ours)
    different = sorted(key for key in {*theirs, *ours} if theirs.get(key) != ours.get(key))
    return DirectoryError(
        "The directory belongs to another run.",
        received=f"{directory}, whose run differs in: {', '.join(different)}",
        expected="the directory of a run with the same model, data, configs and seed",
        fix="Pass another directory, or the model, data and configs of that run.",
    )


def _as_kept(values: Mapping[str, Any]) -> Any:
    """The values as they come back from the file: what is written and what is recalled are equal."""
    return json.loads(json.dumps(values))


def _flat(identity: Mapping[str, Any]) -> dict[str, Any]:
    """The identity with the parts of each mapping under names like "train.epochs"."""
    flat: dict[str, Any] = {}
    for key, value in identity.items():
        parts = {f"{key}.{part}": inner for part, inner in value.items()} if isinstance(value, dict) else {key: value}
        flat.update(parts)
    return flat


def _read(path: Path) -> list[dict[str, Any]]:
    """Returns the entries, and cuts off one that was being written when its run ended."""
    if not path.is_file():
        return []
    whole = path.read_bytes()
    end = whole.rfind(b"\n") + 1
    try:
        entries = [json.loads(line) for line in whole[:end].splitlines()]
        if not whole.startswith(_START[: len(whole)]) or not all(isinstance(entry, dict) for entry in entries):
            raise ValueError("not written by a run")
    except ValueError as error:
        raise DirectoryError(
            "The directory's journal can't be read.",
            received=f"{path} ({error})",
            expected="the journal of a run of compress_and_tune",
            fix="Pass another directory.",
        ) from error
    if end < len(whole):
        os.truncate(path, end)
    return entries


def _append(path: Path, entry: Mapping[str, Any]) -> None:
    with path.open("ab") as log:
        log.write(json.dumps(entry).encode() + b"\n")
        log.flush()
        os.fsync(log.fileno())
