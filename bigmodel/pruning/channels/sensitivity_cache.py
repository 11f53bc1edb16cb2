"""What was measured of a model's channels, kept in a file so that a measurement that was cut off goes on."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from bigmodel.data import Split
from bigmodel.errors import ArgumentError

VERSION = 1
_KIND = "channel sensitivity"


class Cache:
    """A JSON file with the values of one measurement; `None` as its path keeps them in memory alone.

    A file of another measurement (other weights, samples, shares or criterion) counts as empty and is replaced.

    Args:
        path: The file, written whole or not at all after every value; folders are made where they are missing.
        identity: What is measured: equal for equal results. JSON-ready.

    Raises:
        ArgumentError: There is such a file, but no measurement is in it.
    """

    def __init__(self, path: str | os.PathLike[str] | None, identity: Mapping[str, Any]) -> None:
        self._path = None if path is None else Path(path)
        self._identity = dict(identity)
        held = _read(self._path) if self._path is not None and self._path.exists() else {}
        self._values: dict[str, list[float]] = held["values"] if held.get("identity") == self._identity else {}

    def recall(self, name: str) -> tuple[float, ...] | None:
        """Returns what was measured under a name, or `None`."""
        return tuple(self._values[name]) if name in self._values else None

    def write(self, name: str, values: tuple[float, ...]) -> tuple[float, ...]:
        """Keeps values under a name, and returns them."""
        self._values[name] = list(values)
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            partial = self._path.with_name(f".partial-{self._path.name}")
            kept = {"version": VERSION, "kind": _KIND, "identity": self._identity, "values": self._values}
            partial.write_text(json.dumps(kept, indent=1), encoding="utf-8")
            os.replace(partial, self._path)
        return values


def model_fingerprint(model: keras.Model) -> str:
    """Returns a fingerprint of a model's layers, weights, loss and metrics."""
    told = json.dumps([model.get_config(), model.get_compile_config()], default=name_of, sort_keys=True)
    # The state of random layers is drawn anew whenever a model is made; nothing that is measured depends on it.
    weights = (np.asarray(v) for v in model.variables if v.name != "seed_generator_state")
    return fingerprint(told, *weights)


def split_fingerprint(split: Split) -> str:
    """Returns a fingerprint of an in-memory split's samples, labels and weights."""
    leaves = (leaf for part in split.arrays() if part is not None for leaf in keras.tree.flatten(part))
    return fingerprint(*(np.asarray(leaf) for leaf in leaves))


def fingerprint(*parts: str | np.ndarray) -> str:
    """Returns a short fingerprint of texts and arrays.

    >>> fingerprint("a", np.zeros(2)) == fingerprint("a", np.zeros(2)), fingerprint("a") == fingerprint("b")
    (True, False)
    """
    state = hashlib.blake2b(digest_size=12)
    for part in parts:
        if isinstance(part, str):
            state.update(part.encode())
        else:
            state.update(f"{part.dtype.str} {part.shape}".encode())
            state.update(json.dumps(part.tolist()).encode() if part.dtype.hasobject else part.tobytes())
    return state.hexdigest()


def name_of(value: Any) -> str:
    """Returns the qualified name of a function or class; of any other value that of its class."""
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{named.__module__}.{named.__qualname__}"


def _read(path: Path) -> dict[str, Any]:
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(held, dict) or held.get("kind") != _KIND:
            raise ValueError(f"no {_KIND}")
    except (OSError, ValueError) as error:
        raise ArgumentError(
            "This file can't be used as a cache.",
            received=f"{path} ({error})",
            expected="a new path, or the file of an earlier call of `sensitivity`",
            fix="Pass another path.",
        ) from error
    return held if held.get("version") == VERSION else {}
