"""What all configs share: checks when made, a versioned dict both ways, and shorthand."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar

from bigmodel.errors import ArgumentError, ArgumentTypeError, describe, refusal

CONFIG_VERSION = 1

Where = Callable[[Any], bool]
"""Says whether a step may touch a layer: `where(layer) -> bool`, called once for every layer that has weights."""

_Config = TypeVar("_Config", bound="Config")


@dataclasses.dataclass(frozen=True)
class Config:
    """What all configs share: checks when made, and a versioned dict both ways."""

    def to_dict(self) -> dict[str, Any]:
        """Returns the config as a JSON-ready dict with its version.

        Raises:
            ArgumentError: A field holds a function, which JSON can't carry.
        """
        fields = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if callable(value):
                raise ArgumentError(
                    f"{type(self).__name__}.{field.name} can't be written as JSON.",
                    received=describe(value),
                    expected="a value that JSON can carry",
                    fix=f"Write the config without {field.name} and set it again after reading.",
                )
            fields[field.name] = _jsonable(value)
        return {"version": CONFIG_VERSION, "config": type(self).__name__, **fields}

    @classmethod
    def from_dict(cls: type[_Config], values: Mapping[str, Any]) -> _Config:
        """Makes the config from `to_dict`'s result. The mapping is not changed.

        Raises:
            ArgumentError: The version is newer than this library's, or a field is unknown.
        """
        values = dict(values)
        version, name = values.pop("version", CONFIG_VERSION), values.pop("config", cls.__name__)
        known = {field.name for field in dataclasses.fields(cls)}
        if version > CONFIG_VERSION or name != cls.__name__ or not set(values) <= known:
            raise ArgumentError(
                f"This is not a {cls.__name__} that this version can read.",
                received=f"{name} of version {version} with {sorted(values)}",
                expected=f"{cls.__name__} of version <= {CONFIG_VERSION} with fields among {sorted(known)}",
                fix="Read it with the version of bigmodel that wrote it.",
            )
        return cls(**values)

    def to_json(self) -> str:
        """Returns `to_dict()` as JSON text."""
        return json.dumps(self.to_dict(), indent=2)

    @classmethod
    def from_json(cls: type[_Config], text: str) -> _Config:
        """Makes the config from `to_json`'s result."""
        return cls.from_dict(json.loads(text))

    def _check(self, condition: bool, name: str, expected: str, fix: str = "") -> None:
        if not condition:
            raise refusal(f"{type(self).__name__}.{name}", name, getattr(self, name), expected, fix)

    def _check_number(self, name: str, low: float, high: float, *, whole: bool = False, optional: bool = False) -> None:
        value = getattr(self, name)
        if value is None and optional:
            return
        kind = "a whole number" if whole else "a number"
        is_number = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
        bounds = f"{kind} from {low} to {high}" if math.isfinite(high) else f"{kind} of at least {low}"
        self._check(is_number and low <= value <= high, name, bounds)

    def _check_choice(self, name: str, choices: tuple[Any, ...]) -> None:
        self._check(getattr(self, name) in choices, name, "one of " + ", ".join(repr(c) for c in choices))


def _jsonable(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    return list(value) if isinstance(value, tuple) else value


def resolve(value: object, config: type[_Config], number: str) -> _Config | Literal["auto"] | None:
    """Resolves a face's argument: a config, its shorthand number, "auto" or `None`.

    Args:
        value: What the caller passed.
        config: The config's class.
        number: The field that a bare number sets.

    Raises:
        ArgumentTypeError: It is none of these.

    Example:
        >>> from bigmodel.config import PruneConfig
        >>> resolve(0.5, PruneConfig, "sparsity").sparsity
        0.5
    """
    if value is None or isinstance(value, config):
        return value
    if isinstance(value, str) and value == "auto":
        return "auto"
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return config(**{number: value})
    raise ArgumentTypeError(
        f"This is no {config.__name__}.",
        received=describe(value),
        expected=f"a {config.__name__}, a number ({number}), 'auto' or None",
        fix=f"Pass {config.__name__}({number}=...).",
    )
