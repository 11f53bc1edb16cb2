"""The rules of the house, run as tests: the linters, the types, the arrows between rooms, the size of things."""

from __future__ import annotations

import ast
import configparser
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted((ROOT / "bigmodel").rglob("*.py"))
EVERYTHING = [*SOURCES, *sorted((ROOT / "tests").rglob("*.py")), *sorted((ROOT / "examples").rglob("*.py"))]
# "About 400" and "about 40": the tenth above is for the file that is one noun and the function that is one thought.
MAX_FILE_LINES = 440
MAX_BODY_LINES = 44
MAX_KEYWORDS = 8


LINT_IMPORTS = "from importlinter.cli import lint_imports_command; lint_imports_command()"


@pytest.mark.parametrize(
    "arguments",
    [
        ["-m", "ruff", "check", "--no-cache", "."],
        ["-m", "ruff", "format", "--check", "--no-cache", "."],
        ["-m", "mypy", "--cache-dir", os.devnull],
        ["-c", LINT_IMPORTS, "--no-cache"],
    ],
    ids=["ruff check", "ruff format", "mypy", "import-linter"],
)
def test_a_tool_has_nothing_to_say(arguments):
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_files_and_functions_stay_small(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MAX_FILE_LINES, "split it into two nouns"
    for function in functions(ast.parse(text)):
        body = function.body[1:] if ast.get_docstring(function) is not None else function.body
        lines = body[-1].end_lineno - body[0].lineno + 1 if body else 0
        assert lines <= MAX_BODY_LINES, f"{function.name} has {lines} lines"


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_a_public_function_takes_few_arguments_after_the_data_all_by_keyword(path):
    for function in functions(ast.parse(path.read_text(encoding="utf-8"))):
        arguments = function.args
        optional = len(arguments.defaults) + len(arguments.kwonlyargs)
        if not function.name.startswith("_") and name(path) != "bigmodel/pipeline.py":  # the one call with it all
            assert optional <= MAX_KEYWORDS, f"{function.name} has {optional} optional arguments"


@pytest.mark.parametrize("path", EVERYTHING, ids=name)
def test_nothing_is_left_unfinished_or_swallowed(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        raised = node.exc if isinstance(node, ast.Raise) else None
        raised = raised.func if isinstance(raised, ast.Call) else raised
        assert not (isinstance(raised, ast.Name) and raised.id == "NotImplementedError"), node.lineno
        if isinstance(node, ast.ExceptHandler):
            broad = node.type is None or ast.unparse(node.type) in ("Exception", "BaseException")
            assert not (broad and all(isinstance(line, ast.Pass) for line in node.body)), node.lineno


def test_every_room_is_named_after_what_is_in_it():
    assert not [path for path in SOURCES if path.stem in ("utils", "util", "helpers", "common", "misc")]


def test_nothing_is_marked_to_be_done_later():
    marks = ["TO" + "DO", "FIX" + "ME", "X" * 3 + ":"]  # in pieces, so that this file does not find itself
    found = [(name(path), mark) for path in EVERYTHING for mark in marks if mark in path.read_text(encoding="utf-8")]
    assert not found


def functions(tree: ast.AST) -> list[ast.FunctionDef]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]


def test_test_modules_have_names_of_their_own():
    """pytest imports them by their names alone."""
    names = [path.name for path in (ROOT / "tests").rglob("*.py") if path.name != "conftest.py"]
    assert sorted(names) == sorted(set(names))


def needed(requirement: str) -> Iterator[str]:
    """The distributions that installing a requirement brings, by what is installed here."""
    parsed = Requirement(requirement)
    yield canonicalize_name(parsed.name)
    for further in map(Requirement, metadata.requires(parsed.name) or ()):
        extras = ("", *parsed.extras)
        is_wanted = further.marker is None or any(further.marker.evaluate({"extra": extra}) for extra in extras)
        if is_wanted and canonicalize_name(further.name) != canonicalize_name(parsed.name):
            yield from needed(str(further))


def test_a_plain_install_brings_what_the_default_search_computes_with():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    (order,) = (line for line in config["options"]["install_requires"].splitlines() if line.startswith("keras-tuner"))
    assert {"keras-tuner", "scikit-learn", "scipy"} <= set(needed(order))
