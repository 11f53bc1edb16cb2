"""The documentation builds without a warning, names only what exists, and its commands are the ones that run."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import operator
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import bigmodel as bm

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def bm_calls(tree: ast.AST) -> list[ast.Call]:
    """Calls such as `bm.prune(...)` and `bm.callbacks.MagnitudePruning(...)`."""
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
    return [call for call in calls if re.fullmatch(r"bm(\.\w+)+", ast.unparse(call.func))]


def call_target(call: ast.Call) -> Callable[..., object]:
    return operator.attrgetter(ast.unparse(call.func).removeprefix("bm."))(bm)


def test_the_pages_build_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-d", tmp_path / "trees"]
    done = subprocess.run([*command, "docs", tmp_path / "site"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    quickstart = (tmp_path / "site" / "quickstart.html").read_text(encoding="utf-8")
    assert "load_digits" in quickstart  # the example's own text is in the page
    for public in bm.__all__:
        if callable(getattr(bm, public)):
            found = (path for path in (tmp_path / "site" / "reference").glob("*.html") if _anchors(path, public))
            assert any(found), f"{public} is not in the API reference"


def _anchors(path: Path, public: str) -> bool:
    return f'id="bigmodel.{public}"' in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_links_to_files_lead_somewhere(path):
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8"))
    assert [target for target in targets if not (path.parent / target).exists()] == []


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_code_on_a_page_is_python_and_uses_only_what_exists(path):
    for block in blocks(path, "python"):
        tree = ast.parse(block)
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "bm":
                assert node.attr in bm.__all__, f"bm.{node.attr}"
        for call in bm_calls(tree):
            known = set(inspect.signature(call_target(call)).parameters)
            known |= {field.name for field in dataclasses.fields(bm.PruneConfig)} if "settings" in known else set()
            assert {keyword.arg for keyword in call.keywords if keyword.arg} <= known, ast.unparse(call)


def test_the_readme_gives_two_commands_and_the_second_is_the_one_that_checks_a_change():
    run, check = blocks(ROOT / "README.md", "bash")[:2]
    assert run.strip() == (
        "python3 -m venv .venv && .venv/bin/pip install . && .venv/bin/python examples/quickstart.py"
    )
    assert check.strip() in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()


def test_the_readmes_command_line_is_understood():
    from bigmodel.__main__ import _parser

    lines = blocks(ROOT / "README.md", "bash")[2].splitlines()
    for line in lines:
        assert line.startswith("python -m bigmodel ")
        assert callable(_parser().parse_args(line.split()[3:]).run)
