"""The page on channels runs as it stands, and prints what it shows."""

import re

import pytest


@pytest.mark.slow
def test_the_examples_of_the_page_run_in_order(root, capsys):
    page = (root / "docs" / "channels.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```(python|text)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    exec("\n".join(code for language, code in blocks if language == "python"), {"__name__": "page"})
    assert capsys.readouterr().out == "".join(code for language, code in blocks if language == "text")
