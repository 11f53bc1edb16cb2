"""The exact public surface: a name that comes or goes is a decision, made here."""

from __future__ import annotations

import dataclasses
import inspect
import re
import sysconfig
from importlib.metadata import distributions
from types import ModuleType

import pytest

import bigmodel as bm

NAMES = {
    *("compress_and_tune", "prune", "quantize", "export_litert", "evaluate", "from_legacy"),
    *("Result", "load_result", "LiteModel"),
    *("tune", "Tuned"),
    *("Data", "as_data", "synthesize"),
    *("Target", "TrainConfig", "AugmentConfig", "PruneConfig", "QuantizeConfig", "TuneConfig"),
}
MODULES = {"callbacks", "data", "errors", "evaluation", "export", "pruning", "quantization", "report", "tuning"}


def sections(docstring: str) -> dict[str, str]:
    """Splits a docstring into its sections: "" is what stands before the first."""
    parts = re.split(r"^(Args|Attributes|Returns|Yields|Raises|Example|Examples):\s*$", docstring, flags=re.MULTILINE)
    return {"": parts[0], **dict(zip(parts[1::2], parts[2::2], strict=True))}


def documented(section: str) -> set[str]:
    """The names at the first indentation of an Args section: `    name: ...` or `    name (type): ...`."""
    return {name.lstrip("*") for name in re.findall(r"^    (\*{0,2}\w+)(?: \([^)]*\))?:", section, flags=re.MULTILINE)}


def parameters(value: object) -> set[str]:
    """The names that a caller can pass."""
    if dataclasses.is_dataclass(value):
        return {field.name for field in dataclasses.fields(value) if field.init}
    return set(inspect.signature(value).parameters) - {"self"}


def module_members() -> list[tuple[str, object]]:
    """Every public function and class of the public modules, by its dotted name."""
    members = []
    for module in (getattr(bm, name) for name in sorted(MODULES)):
        names = getattr(module, "__all__", None) or [n for n in vars(module) if not n.startswith("_")]
        for name in names:
            value = getattr(module, name)
            ours = getattr(value, "__module__", "").startswith("bigmodel")
            if ours and (inspect.isfunction(value) or inspect.isclass(value)):
                members.append((f"{module.__name__}.{name}", value))
    return members


def test_the_public_names_are_exactly_these():
    assert set(bm.__all__) == NAMES | MODULES | {"__version__"}
    assert dir(bm) == sorted(bm.__all__)
    assert len(bm.__all__) <= 40


@pytest.mark.parametrize("name", sorted(NAMES))
def test_every_name_resolves_and_is_ours(name):
    value = getattr(bm, name)
    assert value.__name__ == name and value.__module__.startswith("bigmodel")
    assert getattr(bm, name) is value


@pytest.mark.parametrize("name", sorted(MODULES))
def test_every_module_resolves_and_says_what_it_is_for(name):
    module = getattr(bm, name)
    assert isinstance(module, ModuleType) and module.__doc__


def test_an_unknown_name_is_an_attribute_error_that_names_it():
    with pytest.raises(AttributeError, match="'bigmodel' has no attribute 'comprss'"):
        bm.comprss  # noqa: B018


def test_the_main_call_takes_exactly_these_arguments():
    arguments = inspect.signature(bm.compress_and_tune).parameters
    keywords = [name for name, argument in arguments.items() if argument.kind is argument.KEYWORD_ONLY]
    assert list(arguments)[:2] == ["model", "data"]
    # augment and tune join when their rooms stand.
    assert set(keywords) - {"augment", "tune"} == {
        *("target", "prune", "quantize", "train"),
        *("directory", "seed", "verbose", "callbacks"),
    }
    assert arguments["prune"].default == arguments["quantize"].default == "auto"


@pytest.mark.parametrize("name", sorted(NAMES))
def test_every_name_is_documented_with_all_its_parts(name):
    value = getattr(bm, name)
    parts = sections(inspect.getdoc(value) or "")
    summary = parts[""].strip().splitlines()[0]
    assert summary.endswith(".") and len(summary) <= 120
    wanted = parameters(value)
    assert documented(parts.get("Args", "")) >= wanted, "every argument is explained"
    assert documented(parts.get("Args", "")) <= wanted, "no argument is explained that does not exist"
    if inspect.isfunction(value):
        assert "Returns" in parts
    assert {"Example", "Examples"} & set(parts), "there is an example"


@pytest.mark.parametrize(("name", "value"), module_members(), ids=lambda v: v if isinstance(v, str) else "")
def test_every_member_of_a_public_module_is_documented(name, value):
    parts = sections(inspect.getdoc(value) or "")
    assert parts[""].strip(), f"{name} has no docstring"
    if "Args" in parts:
        assert documented(parts["Args"]) == parameters(value), f"{name} explains other arguments than it takes"

    if inspect.isclass(value):
        own = {n for n, v in vars(value).items() if not n.startswith("_") and (callable(v) or isinstance(v, property))}
        new = {n for n in own if not any(hasattr(base, n) for base in value.__bases__)}
        assert not [n for n in new if not getattr(value, n).__doc__], f"{name} has methods without a docstring"


def test_the_version_is_the_changelogs_newest(root):
    versions = re.findall(r"^## \[(\d+\.\d+\.\d+)\]", (root / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert versions[0] == bm.__version__


def test_an_installed_copy_carries_every_file(root):
    # Only where pip puts packages: a build leaves a second description of the distribution beside the sources.
    installed = list(distributions(name="bigmodel", path=[sysconfig.get_path("purelib")]))
    names = {str(path) for copy in installed for path in copy.files or ()}
    if "bigmodel/__init__.py" not in names:
        pytest.skip("bigmodel runs from its sources here")
    paths = (path for path in (root / "bigmodel").rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    assert {path.relative_to(root).as_posix() for path in paths} <= names
