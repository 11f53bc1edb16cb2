"""The page on post-training runs as it stands."""

import re


def test_the_examples_of_the_page_run_and_print_what_their_comments_say(root, in_process, capsys):
    page = (root / "docs" / "post-training.md").read_text(encoding="utf-8")
    code = "\n".join(re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL))
    exec(compile(code, "docs/post-training.md", "exec"), {})
    said = re.findall(r"print\(.*\)   # (.+)$", code, re.MULTILINE)
    assert capsys.readouterr().out.splitlines() == said and len(said) == 2
