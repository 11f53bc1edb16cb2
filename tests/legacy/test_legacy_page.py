from __future__ import annotations

import re

import pytest


@pytest.mark.slow
def test_the_examples_of_the_page_run_and_print_what_their_comments_say(root, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = (root / "docs" / "legacy.md").read_text(encoding="utf-8")
    code = "\n".join(re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL))
    exec(compile(code, "docs/legacy.md", "exec"), {"__name__": "page"})
    said = [float(number) for number in re.findall(r"print\(.*# ([\d.]+)$", code, re.MULTILINE)]
    printed = [round(float(line), 2) for line in capsys.readouterr().out.splitlines() if re.fullmatch(r"[\d.]+", line)]
    assert printed == said and len(said) == 5
