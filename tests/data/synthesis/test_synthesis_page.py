"""The page on synthesis runs as it stands."""

import re


def test_the_examples_of_the_page_run_in_order(root):
    page = (root / "docs" / "synthesis.md").read_text(encoding="utf-8")
    code = "\n".join(re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL))
    exec(code, {"__name__": "page"})
