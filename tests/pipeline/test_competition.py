"""Files that can't be made, and bounds that nothing keeps: conversions are stood in for, all else is real."""

from __future__ import annotations

import importlib
import shutil

import numpy as np
import pytest

import bigmodel as bm
from bigmodel.errors import ConversionError
from bigmodel.export import export_float
from bigmodel.export.formats import Written
from bigmodel.quantization import Deployed

CRASH = ConversionError(
    "The child process of write was killed by SIGSEGV.", received="*** Aborted", fix="Leave this out."
)


@pytest.fixture(scope="module")
def float_file(trained, tmp_path_factory):
    return export_float(trained, tmp_path_factory.mktemp("float") / "float.tflite")


@pytest.fixture
def conversions(monkeypatch, float_file):
    """Makes of every order a copy of the float file, or the error that stands for its format."""
    errors: dict[str, ConversionError] = {}

    def made(simulation, format_, path):
        if format_.name in errors:
            return errors[format_.name]
        shutil.copyfile(float_file, path)
        return Deployed(Written(format_.name, path, exact={}, missing=(), ranges={}), simulation)

    def export(model, path, **_):
        return shutil.copyfile(float_file, path)

    monkeypatch.setattr("bigmodel.run.base.export_float", export)
    monkeypatch.setattr("bigmodel.run.native.deploy", lambda s, orders, _, **how: [made(s, f, p) for f, p in orders])
    monkeypatch.setattr(
        "bigmodel.run.candidates.first_run", lambda path, x, **how: bm.LiteModel(path, **how).predict(x)
    )
    return errors


def run(trained, digits, **orders):
    return bm.compress_and_tune(trained, digits, **{"quantize": 8, "verbose": 0, **orders})


def test_a_format_whose_conversion_crashes_is_one_failed_candidate(conversions, trained, digits, tmp_path):
    conversions["static_int8"] = CRASH
    record = run(trained, digits, directory=tmp_path).report
    rows = {row["format"]: row for row in record.candidates}
    assert rows["static_int8"]["status"] == "failed" and rows["static_int8"]["path"] is None
    assert "SIGSEGV" in rows["static_int8"]["reason"] and "\n" not in rows["static_int8"]["reason"]
    assert {rows[name]["status"] for name in ("weight_only_int8", "dynamic_int8")} == {"chosen", "lost"}
    assert record.target_met and "SIGSEGV" in record.to_html() and "SIGSEGV" in str(record)


def test_where_no_ordered_file_can_be_made_the_error_names_each(conversions, trained, digits):
    conversions.update(dict.fromkeys(("weight_only_int8", "dynamic_int8", "static_int8"), CRASH))
    quantize = bm.QuantizeConfig(method="post_training")
    with pytest.raises(ConversionError) as caught:
        run(trained, digits, quantize=quantize)
    assert all(name in caught.value.received for name in conversions) and caught.value.fix


def test_without_a_float_file_there_is_nothing_to_compare_with(conversions, trained, digits, monkeypatch):
    def refuse(*_, **__):
        raise CRASH

    monkeypatch.setattr("bigmodel.run.base.export_float", refuse)
    with pytest.raises(ConversionError, match="no float file") as caught:
        run(trained, digits)
    assert "SIGSEGV" in caught.value.received


def test_a_file_that_answers_with_no_number_can_not_win(conversions, trained, digits, monkeypatch):
    def broken(path, x, **how):
        scores = bm.LiteModel(path, **how).predict(x)
        return scores * np.nan if "static" in path.name else scores

    monkeypatch.setattr("bigmodel.run.candidates.first_run", broken)
    record = run(trained, digits).report
    rows = {row["format"]: row for row in record.candidates}
    assert rows["static_int8"]["status"] == "failed" and "computes garbage" in rows["static_int8"]["reason"]


def test_where_no_file_keeps_the_bounds_the_best_comes_back_and_says_so(conversions, trained, digits):
    record = run(trained, digits, target=bm.Target(size=100)).report
    assert not record.target_met
    (chosen,) = (row for row in record.candidates if row["status"] == "chosen")
    assert chosen["reason"] == "best metric, as none keeps the bounds"
    assert all("100 are allowed" in row["reason"] for row in record.candidates if row is not chosen)
    assert record.target["size"] == 100


def test_training_is_tried_only_where_post_training_misses_the_bound(conversions, trained, digits, monkeypatch):
    trainings = []

    def aware(model, data, config, **_):
        trainings.append(config.bits)
        made = bm.quantization.quantize_post_training(model, data, config)
        return made.simulation, made.skipped

    monkeypatch.setattr("bigmodel.run.native.quantize_aware", aware)
    run(trained, digits, quantize=4)
    assert trainings == []  # the copies are as good as the float file
    for name in ("weight_only_int4", "dynamic_int4", "static_int4"):
        conversions[name] = CRASH
    with pytest.raises(ConversionError):
        run(trained, digits, quantize=4)
    assert trainings == [4]


def test_latencies_are_raced_once_and_kept(conversions, trained, digits, tmp_path, monkeypatch):
    first = run(trained, digits, directory=tmp_path)
    (tmp_path / "report.json").unlink()  # as if it had been cut off while the report was written
    monkeypatch.setattr("bigmodel.run.competition.measure_latency", lambda *_, **__: pytest.fail("it raced again"))
    again = run(trained, digits, directory=tmp_path)
    assert again.report.candidates == first.report.candidates
    assert again.report.final == first.report.final and again.report.baseline == first.report.baseline


def test_the_files_are_measured_on_the_runtime_that_the_caller_names(conversions, trained, digits, monkeypatch):
    used = []
    for module, name in (
        ("candidates", "first_run"),
        ("candidates", "evaluate_file"),
        ("competition", "measure_latency"),
    ):
        work = getattr(importlib.import_module(f"bigmodel.run.{module}"), name)

        def noted(*given, work=work, name=name, **how):
            used.append((name, how["threads"], how["delegate"]))
            return work(*given, **how)

        monkeypatch.setattr(f"bigmodel.run.{module}.{name}", noted)
    record = run(trained, digits, target=bm.Target(threads=2, delegate=None)).report
    assert set(used) == {(name, 2, None) for name in ("first_run", "evaluate_file", "measure_latency")}
    assert (record.environment["threads"], record.environment["delegate"]) == (2, None)
