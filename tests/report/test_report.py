"""The record's contract, and its renderings of a realistic run and of the least there can be."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bigmodel.errors import ArgumentError
from bigmodel.report import Record
from bigmodel.report.charts import Point, metric_range, scatter
from bigmodel.report.figures import headline, metric_bound, missed, size_text

_CONTRACT = {
    "version", "bigmodel", "target_met", "metric", "max_drop", "seed", "seconds", "baseline", "final", "candidates",
    "steps", "skipped", "environment",
}  # fmt: skip


@pytest.fixture
def values() -> dict[str, Any]:
    return _example()


def _example() -> dict[str, Any]:
    return json.loads((Path(__file__).parent / "record.json").read_text(encoding="utf-8"))


@pytest.fixture
def record(values: dict[str, Any]) -> Record:
    return Record.from_dict(values)


LEAST = Record(target_met=False, metric="loss", max_drop=0.0, baseline={}, final={})


def test_the_keys_other_programs_read_are_all_there() -> None:
    assert set(LEAST.to_dict()) >= _CONTRACT
    assert LEAST.to_dict()["version"] == 1


def test_it_goes_to_json_and_back(record: Record, values: dict[str, Any]) -> None:
    assert record.to_dict() == values
    assert Record.from_json(record.to_json()) == record
    assert Record.from_dict(LEAST.to_dict()) == LEAST


def test_it_shares_nothing_with_what_it_was_made_from(values: dict[str, Any]) -> None:
    before = copy.deepcopy(values)
    record = Record.from_dict(values)
    record.to_dict()["baseline"]["metric"] = 0
    record.to_dict()["candidates"].clear()
    assert values == before and record.to_dict() == before
    values["baseline"]["metric"] = 0
    assert record.to_dict() == before


def test_numbers_of_numpy_and_not_a_number_reach_json() -> None:
    figures = {"metric": np.float32(0.5), "size_bytes": np.int64(7), "latency_ms": float("nan"), "shape": (1, 2)}
    record = Record(
        target_met=np.bool_(True), metric="mae", max_drop=0.1, baseline=figures, final={}, target={"x": Path("a")}
    )
    assert json.loads(record.to_json())["baseline"] == {
        "metric": 0.5, "size_bytes": 7, "latency_ms": None, "shape": [1, 2],
    }  # fmt: skip
    assert record.target_met is True


def test_keys_of_a_later_minor_version_are_kept(values: dict[str, Any]) -> None:
    values["carbon_grams"] = 3
    assert Record.from_dict(values).to_dict()["carbon_grams"] == 3


def test_a_newer_or_incomplete_record_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError, match="newer"):
        Record.from_dict({**values, "version": 2})
    with pytest.raises(ArgumentError, match="version"):
        Record.from_dict({k: v for k, v in values.items() if k != "version"})
    with pytest.raises(ArgumentError, match="final"):
        Record.from_dict({k: v for k, v in values.items() if k != "final"})


def test_the_headline_holds_the_ratios(record: Record) -> None:
    assert (
        headline(record) == f"{973864 / 127664:.2f}x smaller, {0.0230 / 0.0071:.2f}x faster, accuracy 0.8650 (+0.0055)"
    )


def test_every_missed_bound_is_named(values: dict[str, Any]) -> None:
    values["final"] |= {"metric": 0.8495, "size_bytes": 300_000, "latency_ms": 0.5}
    values["target"]["latency_ms"] = 0.1
    values["target_met"] = False
    record = Record.from_dict(values)
    assert missed(record) == [
        "accuracy is 0.0100 worse, 0.0050 is allowed",
        "the file has 300 kB, 200 kB is allowed",
        "a call takes 500 us, 100 us is allowed",
    ]
    assert "Target missed" in str(record) and "Target missed" in record.to_html()


def test_the_bound_of_an_error_is_relative() -> None:
    record = Record(
        target_met=True, metric="mse", max_drop=0.1, baseline={"metric": 2.0}, final={}, higher_is_better=False
    )
    assert metric_bound(record, 2.0) == pytest.approx(2.2)
    assert metric_bound(Record(target_met=True, metric="a", max_drop=0.1, baseline={}, final={}), 0.9) == pytest.approx(
        0.8
    )


@pytest.mark.parametrize("width", [40, 60, 80, 100, 120])
def test_text_fits_the_terminal_and_tells_everything(record: Record, width: int) -> None:
    text = record.to_text(width=width)
    assert text.isascii() and max(map(len, text.splitlines())) <= width
    assert "\x1b" not in text and not re.search(r" $", text, re.MULTILINE)
    told = re.sub(r"\s+", "", text)
    for candidate in record.candidates:
        assert re.sub(r"\s+", "", candidate["reason"]) in told or width >= 88
    for entry in record.skipped:
        assert re.sub(r"\s+", "", entry["reason"]) in told


def test_colour_only_when_asked(record: Record) -> None:
    colored = record.to_text(color=True)
    assert "\x1b[" in colored
    assert re.sub(r"\x1b\[[0-9;]*m", "", colored).split() == record.to_text().split()


def test_markup_of_the_terminal_is_not_read_from_the_record(values: dict[str, Any]) -> None:
    values["candidates"][0]["reason"] = "[red]not[/red] [a markup"
    values["notes"] = ["[bold]plain[/bold]"]
    text = Record.from_dict(values).to_text(width=120)
    assert "[red]not[/red]" in text and "[bold]plain[/bold]" in text


class Page(HTMLParser):
    """Checks that tags nest, and collects text and attributes."""

    VOID = frozenset({"meta", "wbr", "br", "img", "input", "link", "hr", "rect", "circle", "line", "path"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag in self.VOID:
            return
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.words += data


def test_the_page_loads_nothing_and_tells_everything(record: Record) -> None:
    text = record.to_html()
    page = Page(text)
    assert not {"script", "link", "img", "iframe", "object"} & {tag for tag, _ in page.tags}
    assert not any({"src", "href", "onclick"} & set(attributes) for _, attributes in page.tags)
    assert "url(" not in text and "@import" not in text and "http" not in text
    for candidate in record.candidates:
        assert candidate["name"] in page.words and candidate["reason"].split("x ")[-1] in page.words
    for entry in (*record.skipped, *record.ops):
        assert str(entry.get("reason") or entry.get("weight_tensor") or entry["name"]) in page.words
    for part in ("Shirt", "validation was cut", "ai-edge-litert", "2.3.0", "pretrain", "bound 0.8562", "Target met"):
        assert part in page.words


def test_text_of_the_record_never_becomes_markup() -> None:
    evil = "<script>alert(\"1\")</script><b onclick='x'>&"

    def poison(value: Any) -> Any:
        if isinstance(value, dict):
            return {(evil if key in ("Shirt", "python") else key): poison(part) for key, part in value.items()}
        if isinstance(value, list):
            return [poison(part) for part in value]
        return evil if isinstance(value, str) else value

    record = Record.from_dict(poison(_example()))
    for text in (record.to_html(), record._repr_html_()):
        page = Page(text)
        assert "script" not in {tag for tag, _ in page.tags}
        assert not any("onclick" in attributes for _, attributes in page.tags)
        assert "alert(" in page.words


def test_a_notebook_gets_a_fragment_that_keeps_to_itself(record: Record) -> None:
    fragment = record._repr_html_()
    assert "<html" not in fragment and "<body" not in fragment
    style = fragment[fragment.index("<style>") + 7 : fragment.index("</style>")]
    rules = re.sub(r"@media[^{]*\{", "", style)
    for selector in re.findall(r"([^{}]+)\{", rules):
        assert all(part.strip().startswith(".bm") for part in selector.split(",")), selector


@pytest.mark.parametrize(
    "record",
    [
        LEAST,
        Record(
            target_met=True,
            metric="mse",
            max_drop=0.1,
            higher_is_better=False,
            baseline={"metric": 0.0, "size_bytes": 10, "latency_ms": 3.0},
            final={"metric": 1e9, "size_bytes": 10, "latency_ms": 3.0},
            candidates=[
                {"name": "a", "metric": 5.0, "size_bytes": 10, "status": "chosen"},
                {"name": "b", "metric": 1e30, "size_bytes": 10},
            ],
        ),
        Record(
            target_met=False,
            metric="r2",
            max_drop=0.1,
            baseline={"metric": -3.0},
            final={},
            candidates=[{}],
            steps=[{}],
            skipped=[{}],
            ops=[{}],
            notes=[""],
        ),
    ],
)
def test_whatever_is_missing_every_rendering_stands(record: Record) -> None:
    Page(record.to_html())
    Page(record._repr_html_())
    assert record.metric in str(record)
    assert "nan" not in record.to_html() and "None" not in str(record)


def test_renderings_are_functions_of_the_record(record: Record) -> None:
    again = Record.from_json(record.to_json())
    assert record.to_html() == again.to_html() and str(record) == str(again)


def test_a_broken_file_does_not_press_the_others_together() -> None:
    low, high = metric_range([0.861, 0.860, 0.858, 0.1], 0.861, 0.856)
    assert low > 0.8 and high < 0.9


def test_in_the_scatter_up_is_better() -> None:
    def heights(up: bool) -> list[float]:
        points = [Point("a", 100, 0.9, "", "a"), Point("b", 200, 0.8, "", "b")]
        plot = scatter(
            points, 0.85, higher_is_better=up, metric="m", reference=0.9, size_text=size_text, value_text=str
        )
        return [float(y) for y in re.findall(r'<circle[^>]*cy="([\d.]+)"', plot)]

    a, b = heights(True)
    assert a < b  # pixels count downwards
    a, b = heights(False)
    assert a > b


def test_the_report_needs_no_keras(python: Callable[..., str]) -> None:
    code = """
import sys
from bigmodel.report import Record
record = Record.from_json(open(sys.argv[1], encoding="utf-8").read())
len(str(record) + record.to_html())
print(sorted({"keras", "tensorflow", "numpy"} & set(sys.modules)))
"""
    assert python(code, Path(__file__).parent / "record.json").splitlines()[-1] == "[]"
