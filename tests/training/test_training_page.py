"""The page on training runs as it stands."""

import re


def test_the_examples_of_the_page_run(root, python):
    page = (root / "docs" / "training.md").read_text(encoding="utf-8")
    code = "\n".join(re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL))
    assert python(code + "print(train.strategy.num_replicas_in_sync, train.precision)").split() == ["1", "auto"]
