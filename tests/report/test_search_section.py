"""The trials of a search in the renderings."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from bigmodel.report import Record
from bigmodel.report.figures import metric_bound, metric_text, reference_metric


@pytest.fixture
def record() -> Record:
    return Record.from_json((Path(__file__).parent / "record.json").read_text(encoding="utf-8"))


def test_the_text_lists_every_trial_with_its_values_and_its_end(record: Record) -> None:
    text = " ".join(record.to_text(width=120).split())
    assert "Search (3 trials)" in text
    assert "0000 0.8601 16.6 kB" in text and "bits 4, channels 0.125: holds on the fold set aside" in text
    assert "accuracy: 0.1883 worse while it trained" in text


def test_the_page_draws_size_against_metric_with_the_bound(record: Record) -> None:
    page = record.to_html()
    section = page[page.index("Search: 3 trials") : page.index("<h2>Steps")]
    assert len(re.findall(r"<(?:circle|path) class=\"dot", section)) == 2  # the stopped trial has no file
    bound = metric_bound(record, reference_metric(record))
    assert 'class="dot here"' in section and f"bound {metric_text(bound)}" in section
    assert section.count("<tr>") == 1 + 3


def test_without_a_search_nothing_is_said_of_one(record: Record) -> None:
    values = json.loads(record.to_json())
    del values["trials"]
    without = Record.from_dict(values)
    assert without.trials == [] or without.trials == ()
    assert "Search" not in without.to_text() and "Search" not in without.to_html()
