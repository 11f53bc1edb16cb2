"""Every error is one of ours and a built-in one, and says received, expected and fix."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from bigmodel import errors
from bigmodel.errors import BigmodelError, describe

ALL = [
    value
    for value in vars(errors).values()
    if isinstance(value, type) and issubclass(value, BigmodelError) and value is not BigmodelError
]


@pytest.mark.parametrize("kind", ALL)
def test_every_error_is_ours_and_a_built_in_one(kind):
    builtin = [base for base in kind.__mro__ if base.__module__ == "builtins" and base not in (object, BaseException)]
    assert issubclass(kind, BigmodelError)
    assert builtin[0] is not Exception, f"{kind.__name__} has no built-in sibling to catch it by"
    with pytest.raises(builtin[0]):
        raise kind("problem")


@pytest.mark.parametrize("kind", [BigmodelError, *ALL])
def test_the_message_has_three_parts_in_order(kind):
    error = kind("It broke.", received="3 (int)", expected="a string", fix="Pass a string.")
    assert str(error) == "It broke.\nReceived: 3 (int)\nExpected: a string\nFix: Pass a string."
    assert (error.problem, error.received, error.expected, error.fix) == (
        "It broke.",
        "3 (int)",
        "a string",
        "Pass a string.",
    )


@pytest.mark.parametrize("kind", [BigmodelError, *ALL])
def test_a_missing_part_leaves_no_empty_line(kind):
    assert str(kind("It broke.", fix="Mend it.")) == "It broke.\nFix: Mend it."


@pytest.mark.parametrize("kind", [BigmodelError, *ALL])
def test_an_error_survives_the_way_to_another_process(kind):
    error = kind("It broke.", received="3", expected="4", fix="Add 1.")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert (str(copy), copy.problem, copy.fix) == (str(error), error.problem, error.fix)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3, "3 (int)"),
        ("ab", "'ab' (str)"),
        (None, "None (NoneType)"),
        (np.zeros((2, 3), "int8"), "numpy.ndarray of shape (2, 3) and dtype int8"),
        (BigmodelError, "<class 'bigmodel.errors.BigmodelError'> (type)"),
    ],
)
def test_describe_names_the_value_and_its_qualified_type(value, text):
    assert describe(value) == text


def test_describe_shortens_a_long_value():
    text = describe("x" * 1000)
    assert text.endswith("... (str)") and len(text) == 80 + len(" (str)")
