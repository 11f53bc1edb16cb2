"""The error tree: every error of ours, each also a built-in type.

An error says three things: what was received, what was expected and how to fix it. Low layers raise with the
parts they know; a face of the library adds its context once (`raise ... from error`).
"""

from __future__ import annotations

import numbers
from collections.abc import Callable
from typing import Any


class BigmodelError(Exception):
    """Base class of every error that bigmodel raises on purpose.

    Args:
        problem: One line that names what is wrong.
        received: The value or type that came in.
        expected: What would have been accepted.
        fix: What the caller can do, as an instruction.
    """

    def __init__(self, problem: str, *, received: str = "", expected: str = "", fix: str = "") -> None:
        self.problem = problem
        self.received = received
        self.expected = expected
        self.fix = fix
        parts = [("Received", received), ("Expected", expected), ("Fix", fix)]
        super().__init__("\n".join([problem, *(f"{name}: {text}" for name, text in parts if text)]))


class ArgumentError(BigmodelError, ValueError):
    """An argument has a value that can't be used, or contradicts another argument."""


class ArgumentTypeError(BigmodelError, TypeError):
    """An argument has a type that can't be used."""


class DataError(BigmodelError, ValueError):
    """The data is empty, malformed, or does not fit the model."""


class ModelError(BigmodelError, ValueError):
    """The model can't go through the step that was asked for."""


class ConversionError(BigmodelError, RuntimeError):
    """A file could not be converted, or the converted file does not run."""


class DirectoryError(BigmodelError, OSError):
    """A run's directory is missing, incomplete, or belongs to another run."""


class DependencyError(BigmodelError, ImportError):
    """An optional package is not installed; the message names the pip extra."""


def check_argument(
    owner: str, name: str, value: object, fits: Callable[[Any], object], expected: str, fix: str = ""
) -> None:
    """Refuses the value of an argument that is no flag.

    Args:
        owner: What the argument belongs to, for the first line of the message.
        name: The argument.
        value: What came in.
        fits: Says whether a value fits; one that it can't compare, as a text with a number, does not.
        expected: What would have been accepted.
        fix: What to do; empty: pass what is expected.

    Raises:
        ArgumentError: The value does not fit.

    Example:
        >>> check_argument("WeightClustering", "clusters", 16, whole_from(2), "a whole number of at least 2")
    """
    try:
        accepted = not isinstance(value, bool) and bool(fits(value))
    except (TypeError, ValueError):
        accepted = False
    if not accepted:
        raise refusal(f"{owner}'s {name}", name, value, expected, fix)


def refusal(subject: str, name: str, value: object, expected: str, fix: str = "") -> ArgumentError:
    """Returns the error for a value that can't be used; the arguments are those of `check_argument`.

    >>> print(refusal("Target.size", "size", "big", "bytes"))
    Target.size can't be used.
    Received: size='big' (str)
    Expected: bytes
    Fix: Pass size as bytes.
    """
    return ArgumentError(
        f"{subject} can't be used.",
        received=f"{name}={describe(value)}",
        expected=expected,
        fix=fix or f"Pass {name} as {expected}.",
    )


def number(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """Returns a check for single numbers that fit, which an array never does.

    >>> number(lambda value: value > 0)(0.5), number(lambda value: value > 0)([0.5])
    (True, False)
    """
    return lambda value: isinstance(value, numbers.Real) and fits(value)


def whole_from(low: int) -> Callable[[Any], bool]:
    """Returns a check for whole numbers of at least `low`.

    >>> whole_from(2)(1), whole_from(2)(2), whole_from(2)(2.5)
    (False, True, False)
    """
    return lambda value: isinstance(value, numbers.Integral) and int(value) >= low


def summary(error: BaseException, length: int = 300) -> str:
    """Returns another library's error in one line: its innermost reason, as Keras wraps one message in another.

    >>> summary(ValueError("could not be deserialized ... Exception encountered: Could not locate class 'Own'."))
    "Could not locate class 'Own'."
    """
    text = " ".join(str(error).split()).rpartition("Exception encountered: ")[2] or type(error).__name__
    return text if len(text) <= length else text[: length - 3] + "..."


def describe(value: object) -> str:
    """Returns the value with its module-qualified type, shortened for an error message.

    >>> describe(3)
    '3 (int)'
    """
    kind = type(value)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    shape = getattr(value, "shape", None)
    if shape is not None:
        return f"{name} of shape {tuple(shape)} and dtype {getattr(value, 'dtype', 'unknown')}"
    text = repr(value)
    return f"{text if len(text) <= 80 else text[:77] + '...'} ({name})"
