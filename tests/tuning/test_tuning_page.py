from __future__ import annotations

import re

import pytest


@pytest.mark.slow
def test_the_examples_of_the_page_run_and_print_what_it_says(root, capsys):
    page = (root / "docs" / "tuning.md").read_text(encoding="utf-8")
    code = "\n".join(re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL))
    exec(compile(code, "docs/tuning.md", "exec"), {})
    said = "".join(re.findall(r"^```text\n(.*?)^```$", page, re.MULTILINE | re.DOTALL))
    assert capsys.readouterr().out == said
