"""The comparison with other tools: its short form from networks to table, and the parts that judge."""

from __future__ import annotations

import doctest
import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks.compare import __main__ as compare
from benchmarks.compare import plot, table, tool
from benchmarks.compare.methods import METHODS, TOOLKIT
from benchmarks.compare.results import Results
from bigmodel.litert import LiteModel

HEAD = ["#", "tool", "accuracy", "bytes", "gzip", "latency, ms", "seconds"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("comparison")
    compare.main(["--short", "--jobs", "2", "--out", str(out)])
    return out


def cells(line: str) -> list[str]:
    return [cell.strip().strip("*") for cell in line.strip().strip("|").split("|")]


def test_the_table_has_every_column_and_the_figures_of_the_files(folder):
    lines = [line for line in (folder / "compare.md").read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    assert cells(lines[0]) == HEAD
    rows = {row[1].partition(": no file")[0]: row for row in map(cells, lines[2:])}
    assert list(rows) == [method for method in METHODS if method in compare.SHORT]
    runs = {run["method"]: run for run in json.loads((folder / "results.json").read_text(encoding="utf-8"))["runs"]}
    for method in set(compare.SHORT) - {"Keras: int8"}:
        file = folder / "files" / "digits" / "0" / f"{tool.slug(method)}.tflite"
        _, _, accuracy, size, gzip, latency, seconds = rows[method]
        assert int(size.replace(",", "")) == file.stat().st_size > int(gzip.replace(",", "")) > 1000
        assert 0.1 <= float(accuracy.partition(" ")[0]) == pytest.approx(runs[method]["accuracy"], abs=5e-5)
        assert 0 < float(latency) < 5 and int(seconds) == round(runs[method]["seconds"])
        assert LiteModel(file).predict(compare.loaded("digits", None)[2][0][:3]).shape == (3, 10)


def test_a_tool_without_a_file_says_why_in_one_sentence(folder):
    (line,) = [
        line for line in (folder / "compare.md").read_text(encoding="utf-8").splitlines() if ": no file (" in line
    ]
    assert "Keras: int8: no file (`ConverterError: 'tfl.fully_connected' op operand #0 must be" in line
    assert len(cells(line)) == len(HEAD) and "loc(" not in line and "note:" not in line


def test_the_page_names_the_fronts_and_shows_both_plots(folder):
    text = (folder / "compare.md").read_text(encoding="utf-8")
    assert text.count("**Accuracy against size:**") == text.count("**Accuracy against latency:**") == 1
    assert "(compare-digits.svg)" in text
    drawn = ElementTree.parse(folder / "compare-digits.svg").getroot()
    names = [element.text.rpartition(": ")[0] for element in drawn.iter("{http://www.w3.org/2000/svg}title")]
    assert sorted(names) == sorted(2 * ["float32", "bigmodel: 8 bits", "converter: dynamic int8"])
    shown = {element.text for element in drawn.iter("{http://www.w3.org/2000/svg}text")}
    assert {"kilobytes", "milliseconds", "1", "2", "3"} <= shown


def test_called_again_it_goes_on_and_refuses_other_settings(folder, monkeypatch):
    before = (folder / "results.json").read_text(encoding="utf-8")
    monkeypatch.setattr(compare, "ended_because", lambda *_: pytest.fail("all is done"))
    compare.main(["--short", "--jobs", "2", "--out", str(folder)])
    assert (folder / "results.json").read_text(encoding="utf-8") == before
    with pytest.raises(SystemExit, match="was made with samples=None, not 500"):
        compare.main(["--short", "--jobs", "2", "--samples", "500", "--out", str(folder)])


def test_a_tool_that_ends_its_process_takes_no_other_along(tmp_path, monkeypatch):
    def crashes_in_the_second(order, _):
        told = Path(order["folder"], f"{tool.slug(order['methods'][0])}.json")
        if order["methods"][0] != "b":
            told.write_text(json.dumps({"accuracy": 0.5}), encoding="utf-8")
        return "its process was killed by signal 11"

    monkeypatch.setattr(compare, "ended_because", crashes_in_the_second)
    results = Results(tmp_path / "results.json", {})
    compare.made({"network": "n", "seed": 0, "folder": str(tmp_path)}, ["a", "b", "c"], None, results)
    kept = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["runs"]
    assert [(run["method"], run.get("reason"), run.get("accuracy")) for run in kept] == [
        ("a", None, 0.5),
        ("b", "its process was killed by signal 11", None),
        ("c", None, 0.5),
    ]


def runs_of(method: str, accuracies: list[float], size: int, latency: float) -> list[dict]:
    shared = {"network": "n", "method": method, "bytes": size, "gzip": size, "latency_ms": latency, "seconds": 1.0}
    return [{**shared, "seed": seed, "accuracy": accuracy} for seed, accuracy in enumerate(accuracies)]


@pytest.mark.parametrize(
    ("accuracies", "size", "fronts"),
    [
        ([0.91, 0.92, 0.93], 2000, (True, True)),  # better for every seed, by a point
        ([0.89, 0.92, 0.93], 2000, (True, False)),  # not for every seed: a tie, and twice the size
        ([0.9005, 0.9105, 0.9205], 2000, (True, False)),  # for every seed, but by half of what chance does
        ([0.9005, 0.9105, 0.9205], 1005, (True, True)),  # a tie in both
        ([0.88, 0.89, 0.90], 995, (True, False)),  # worse, and no smaller than 0.5 %
        ([0.88, 0.89, 0.90], 500, (True, True)),
        ([0.90, 0.91, 0.92], 500, (False, True)),  # as good and smaller
    ],
)
def test_the_front_keeps_ties_and_nothing_that_is_clearly_beaten(accuracies, size, fronts):
    runs = runs_of("float32", [0.90, 0.91, 0.92], 1000, 1.0) + runs_of("Keras: int4", accuracies, size, 1.0)
    assert tuple(row["front_bytes"] for row in table.summary(runs)) == fronts


def test_a_tool_that_fails_for_one_seed_keeps_its_row_and_says_so():
    runs = [*runs_of("float32", [0.9, 0.8], 10, 1.0)]
    runs.append({"network": "n", "method": "float32", "seed": 2, "reason": "too late"})
    (row,) = table.summary(runs)
    assert row["accuracy"] == pytest.approx(0.85)
    assert "float32 (no file for 1 seed: `too late`) | 0.8500 ± 0.0500" in table.markdown([row])


def test_a_tool_that_was_not_tried_for_every_seed_says_so():
    runs = runs_of("float32", [0.9, 0.8], 10, 1.0) + runs_of("Keras: int4", [0.9], 10, 1.0)
    rows = table.summary(runs)
    told = table.markdown(rows)
    assert "| Keras: int4 (1 of 2 seeds) |" in told and "| float32 |" in told
    assert table.seeds_told(rows).startswith("Medians over 2 seeds")


def test_the_documentation_shows_the_results_that_lie_next_to_it_with_every_tool(root):
    folder = root / "docs" / "comparison"
    record = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    for name, text in table.pages(record).items():
        assert (folder / name).read_text(encoding="utf-8") == text
    for network in {run["network"] for run in record["runs"]}:
        tried = {run["method"] for run in record["runs"] if run["network"] == network}
        assert tried == set(METHODS)


def test_only_the_failures_that_will_be_tried_again_are_forgotten(tmp_path):
    results = Results(tmp_path / "results.json", {})
    failed = [("mlp", "float32"), ("mlp", "Keras: int8"), ("lstm", "float32")]
    for network, method in failed:
        results.add({"network": network, "method": method, "seed": 0, "reason": "too late"})
    results.add({"network": "mlp", "method": "float32", "seed": 1, "accuracy": 0.9})
    results.forget_failed(["mlp"], ["float32"])
    left = [(run["network"], run["method"], run["seed"]) for run in results.runs]
    assert left == [("mlp", "Keras: int8", 0), ("lstm", "float32", 0), ("mlp", "float32", 1)]


def test_examples_of_the_docstrings():
    for module in (compare, plot, table, tool):
        assert doctest.testmod(module).failed == 0


@pytest.mark.slow
def test_every_tool_gives_a_row(tmp_path):
    every = [method for method in METHODS if method != TOOLKIT]  # needs an environment of its own
    compare.main(["--short", "--jobs", "2", "--out", str(tmp_path), "--methods", *every])
    runs = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["runs"]
    failed = {run["method"]: run["reason"] for run in runs if "reason" in run}
    assert {run["method"] for run in runs} == set(every)
    assert list(failed) == ["Keras: int8"], failed
