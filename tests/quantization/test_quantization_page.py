"""The page on quantization runs as it stands, and its table of files is that of the code."""

import re

import pytest

from bigmodel.export.formats import FORMATS


@pytest.fixture(scope="module")
def page(root):
    return (root / "docs" / "quantization.md").read_text(encoding="utf-8")


def test_every_format_is_in_the_table_of_files(page):
    table = page.split("## Kinds of files")[1].split("## Bits")[0]
    assert set(re.findall(r"`(\w+)`", table)) == set(FORMATS)


@pytest.mark.slow
def test_the_examples_of_the_page_run_and_print_what_their_comments_say(
    page, in_process, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    code = "\n".join(re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL))
    exec(compile(code, "docs/quantization.md", "exec"), {})
    said = re.findall(r"print\(.*\)   # (.+)$", code, re.MULTILINE)
    assert capsys.readouterr().out.splitlines() == said and len(said) == 9
