"""The page on quantization runs as it stands, and its tables are those of the code."""

import re

import pytest

from bigmodel.export.formats import FORMATS
from bigmodel.quantization import RULES

CHANNELS = {(-1,): "output channel", (-2, -1): "input channel and multiplier", (): "table"}


@pytest.fixture(scope="module")
def page(root):
    return (root / "docs" / "quantization.md").read_text(encoding="utf-8")


def test_the_table_of_layers_is_that_of_the_code(page):
    lines = ["| Layer | Weight | One scale for each | Bits | In a static file |", "|---|---|---|---|---|"]
    for kind, rule in RULES.items():
        (axes,) = set(rule.weights.values())
        weights = ", ".join(f"`{path}`" for path in rule.weights)
        bits = ", ".join(map(str, rule.bits))
        inside = "dynamic" if rule.in_loop else "static"
        lines.append(f"| `{kind.__name__}` | {weights} | {CHANNELS[axes]} | {bits} | {inside} |")
    assert page.split("<!-- table -->\n")[1].split("<!-- end of table -->")[0].splitlines() == lines


def test_every_format_is_in_the_table_of_files(page):
    table = page.split("## Kinds of files")[1].split("## Which layers")[0]
    assert set(re.findall(r"`(\w+)`", table)) == set(FORMATS)


def test_the_examples_of_the_page_run_and_print_what_their_comments_say(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code = "\n".join(re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL))
    exec(compile(code, "docs/quantization.md", "exec"), {})
    said = re.findall(r"print\(.*\)   # (.+)$", code, re.MULTILINE)
    assert capsys.readouterr().out.splitlines() == said and len(said) == 4
