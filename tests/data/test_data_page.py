"""The page on data runs as it stands, and shows the error that really comes."""

import re


def test_the_examples_of_the_page_run_in_order(root, capsys):
    page = (root / "docs" / "data.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```(python|text)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    exec("\n".join(code for language, code in blocks if language == "python"), {"__name__": "page"})
    assert capsys.readouterr().out == next(code for language, code in blocks if language == "text")
