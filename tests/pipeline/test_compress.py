"""One call on real data: what it chooses, what it tells, and that every figure is true of the file."""

from __future__ import annotations

import gzip
import json
import math
import re

import keras
import numpy as np
import pytest
from jobs import ORDERS, accuracy, comparable, state

import bigmodel as bm

KEYS = {
    *("version", "bigmodel", "target_met", "metric", "max_drop", "seed", "seconds"),
    *("baseline", "final", "candidates", "steps", "skipped", "environment"),
}
FIGURES = {"metric", "size_bytes", "gzip_bytes", "latency_ms", "format"}
FINAL_FIGURES = {*FIGURES, "sparsity", "agreement", "parameters", "macs"}


@pytest.fixture(scope="module")
def defaults(trained, digits):
    """The call without any argument, and the caller's model around it."""
    before = state(trained)
    result = bm.compress_and_tune(trained, digits, verbose=0)
    return result, before, state(trained)


@pytest.fixture(scope="module")
def ordered(trained, digits, tmp_path_factory):
    """Zeros and bits as ordered, in a directory."""
    folder = tmp_path_factory.mktemp("ordered") / "run"
    return bm.compress_and_tune(trained, digits, **ORDERS, directory=folder, verbose=0)


@pytest.fixture(scope="module", params=["defaults", "ordered"])
def result(request):
    found = request.getfixturevalue(request.param)
    return found[0] if isinstance(found, tuple) else found


# --- the record -----------------------------------------------------------------------------------------------------


def test_the_record_has_every_key_of_its_format(result):
    record = result.report.to_dict()
    assert set(record) >= KEYS and record["version"] == 1 and record["bigmodel"] == bm.__version__
    assert set(record["baseline"]) >= FIGURES and set(record["final"]) >= FINAL_FIGURES
    assert all(set(row) >= {"name", "format", "status", "reason", "path", "steps"} for row in record["candidates"])
    assert all(set(step) >= {"name", "seconds", "metric_before", "metric_after"} for step in record["steps"])
    assert all(set(row) == {"layer", "step", "reason"} for row in record["skipped"])
    assert set(record["environment"]) >= {"tensorflow", "keras", "python", "devices"}
    assert record["metric"] == "accuracy" and record["seed"] == 0 and record["seconds"] > 0
    assert json.loads((result.directory / "report.json").read_text(encoding="utf-8")) == record


def test_every_candidate_says_why_it_won_or_lost(result):
    rows = result.report.candidates
    assert [row["status"] for row in rows].count("chosen") == 1
    assert {row["status"] for row in rows} <= {"chosen", "lost", "failed"} and all(row["reason"] for row in rows)
    (chosen,) = (row for row in rows if row["status"] == "chosen")
    assert chosen["name"] == result.report.final["name"] and chosen["format"] == result.report.final["format"]


def test_the_final_figures_are_those_of_the_file_on_the_test_split(result, digits):
    final, data = result.report.final, result.litert_path.read_bytes()
    assert final["size_bytes"] == len(data) and final["gzip_bytes"] == len(gzip.compress(data, 9))
    x, y = digits.test
    scores = bm.LiteModel(result.litert_path).predict(x)
    assert final["samples"] == len(y) and result.report.split == "test"
    assert final["metric"] == pytest.approx(accuracy(scores, y), abs=1e-6)
    simulated = result.model.predict(x, verbose=0)
    assert final["agreement"] == pytest.approx(np.mean(scores.argmax(-1) == simulated.argmax(-1)), abs=1e-6)
    for digit, value in final["per_class"].items():
        rows = y.reshape(-1) == int(digit)
        assert value == pytest.approx(accuracy(scores[rows], y[rows]), abs=1e-6)


def test_the_drop_and_the_target_are_what_the_figures_say(result):
    record = result.report
    drop = record.baseline["metric"] - record.final["metric"]
    assert record.final["metric_drop"] == pytest.approx(drop, abs=1e-6)
    low, high = record.final["drop_interval"]
    assert low <= drop <= high
    (chosen,) = (row for row in record.candidates if row["status"] == "chosen")
    assert record.target_met == (chosen["metric_drop"] <= record.max_drop)


def test_a_run_in_a_directory_leaves_every_file_it_measured(ordered, trained, digits):
    # The validation split is cut by the seed, so that it can be cut again here.
    x, y, _ = bm.as_data(digits, model=trained, seed=0).validation.arrays()
    for row in ordered.report.candidates:
        path = ordered.directory / row["path"]
        assert row["size_bytes"] == path.stat().st_size
        assert row["metric"] == pytest.approx(accuracy(bm.LiteModel(path).predict(x), y), abs=1e-6)
        assert row["samples"] == len(y)
    names = {path.name for path in ordered.directory.iterdir()} - {".lock"}
    assert names == {
        "report.json",
        "report.html",
        "model.tflite",
        "model.keras",
        "candidates",
        "checkpoints",
        "log.jsonl",
    }
    assert {path.suffix for path in (ordered.directory / "candidates").iterdir()} == {".tflite", ".keras"}
    assert {path.suffix for path in (ordered.directory / "checkpoints").iterdir()} == {".keras"}


def test_the_page_is_the_records(ordered):
    assert (ordered.directory / "report.html").read_text(encoding="utf-8") == ordered.report.to_html()


# --- defaults -------------------------------------------------------------------------------------------------------


def test_by_default_floats_and_8_and_4_bits_compete_within_a_hundredth(defaults):
    record = defaults[0].report
    assert {row["format"] for row in record.candidates} >= {"float32", "float16", "dynamic_int8", "dynamic_int4"}
    assert record.max_drop == 0.01 and record.target["optimize"] == "balanced"
    assert record.final["size_bytes"] * 2 < record.baseline["size_bytes"]
    assert {re.split("[=:]", note)[0] for note in record.notes} >= {"augment", "tune", "prune"}


def test_a_run_changes_nothing_of_the_callers(defaults):
    _, before, after = defaults
    assert before == after


def test_a_temporary_directory_lives_as_long_as_its_result(trained, defaults):
    folder = defaults[0].directory
    assert {path.name for path in folder.iterdir()} - {".lock"} == {
        *("report.json", "report.html", "model.tflite", "model.keras", "log.jsonl")
    }
    assert all(row["path"] is None for row in defaults[0].report.candidates)
    held = bm.Result(folder.parent / folder.name)
    assert held.litert_path.is_file()  # a result that does not own the directory leaves it
    del held
    assert folder.is_dir()


# --- orders ---------------------------------------------------------------------------------------------------------


def test_only_files_as_ordered_compete(ordered):
    for row in ordered.report.candidates:
        assert row["format"].endswith("int8") and row["steps"][0] == "prune"
    file = bm.evaluation.inspect_file(ordered.litert_path)
    kernels = [op for op in file.ops if op.weight_bits is not None]
    assert len(kernels) == 2 and {op.weight_bits for op in kernels} == {8}
    # Rounding to 8 bits makes zeros of a few more weights; none of the pruned ones comes back.
    assert all(0.8 <= op.sparsity < 0.85 for op in kernels)
    assert ordered.report.final["sparsity"] == pytest.approx(file.sparsity)


def test_the_step_is_told_with_what_it_did(ordered):
    (step,) = [step for step in ordered.report.steps if step["name"] == "prune"]
    assert step["sparsity"] == 0.8 and 0 <= step["metric_after"] <= 1 and step["seconds"] > 0


def test_a_run_that_was_killed_goes_on_and_ends_as_the_unbroken_one(ordered, trained, killed_at, tmp_path):
    """The same seed in another process, killed in the second epoch of pruning."""
    again = killed_at("epoch 1 of prune", tmp_path / "run")
    assert again.litert_path.read_bytes() == ordered.litert_path.read_bytes()
    for row in ordered.report.candidates:
        assert (again.directory / row["path"]).read_bytes() == (ordered.directory / row["path"]).read_bytes()
    assert comparable(again.report) == comparable(ordered.report)


def test_a_finished_run_is_read_and_not_run_again(ordered, trained, digits, monkeypatch):
    monkeypatch.setattr("bigmodel.run.native.NativeRun.go", lambda self: pytest.fail("it ran"))
    again = bm.compress_and_tune(trained, digits, **ORDERS, directory=ordered.directory, verbose=0)
    assert again.report == ordered.report


def test_another_run_does_not_get_the_directory(ordered, trained, digits):
    with pytest.raises(bm.errors.DirectoryError) as caught:
        bm.compress_and_tune(trained, digits, prune=0.7, quantize=8, directory=ordered.directory, seed=1, verbose=0)
    assert "seed" in caught.value.received and "prune" in caught.value.received


# --- what comes back ------------------------------------------------------------------------------------------------


def test_a_result_is_loaded_without_keras(ordered, python):
    code = """
        import sys, bigmodel as bm
        result = bm.load_result(sys.argv[1])
        print(result.report.final["size_bytes"], result.litert_path, "keras" in sys.modules)
    """
    printed = python("\n".join(line.strip() for line in code.splitlines()), ordered.directory)
    assert printed.split() == [str(ordered.report.final["size_bytes"]), str(ordered.litert_path), "False"]


def test_the_model_loads_in_a_new_process_and_answers_as_the_file_does(ordered, digits, python, tmp_path):
    x, _ = digits.test
    np.save(tmp_path / "x.npy", x)
    code = "\n".join(
        [
            "import sys, numpy as np, bigmodel, keras",
            "model = keras.models.load_model(sys.argv[1])",
            "assert model.dtype_policy.name == 'float32'",
            "np.save(sys.argv[3], model.predict(np.load(sys.argv[2]), verbose=0))",
        ]
    )
    python(code, ordered.directory / "model.keras", tmp_path / "x.npy", tmp_path / "y.npy")
    scores, simulated = bm.LiteModel(ordered.litert_path).predict(x), np.load(tmp_path / "y.npy")
    assert np.mean(scores.argmax(-1) == simulated.argmax(-1)) >= 0.999
    np.testing.assert_array_equal(simulated, ordered.model.predict(x, verbose=0))


def test_a_result_shows_its_figures_where_it_is_printed(ordered):
    assert f"accuracy={ordered.report.final['metric']:.4f}" in repr(ordered)
    assert ordered._repr_html_() == ordered.report._repr_html_()


def test_math_is_of_finite_numbers(ordered):
    for row in [ordered.report.baseline, ordered.report.final, *ordered.report.candidates]:
        assert all(math.isfinite(v) for v in row.values() if isinstance(v, float))


def test_the_network_is_still_keras_own(ordered):
    assert isinstance(ordered.model, keras.Model) and ordered.model.count_params() >= 64 * 48 + 48 * 10
