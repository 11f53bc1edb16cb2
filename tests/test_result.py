"""Reading a run's directory back."""

from __future__ import annotations

import gc
import shutil

import keras
import pytest

import bigmodel as bm
from bigmodel.report import Record

RECORD = Record(
    target_met=True,
    metric="accuracy",
    max_drop=0.01,
    baseline={"metric": 0.9, "size_bytes": 4000},
    final={"metric": 0.9, "size_bytes": 4},
)


@pytest.fixture
def directory(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "report.json").write_text(RECORD.to_json(), encoding="utf-8")
    (run / "model.tflite").write_bytes(b"tfl3")
    return run


def test_a_finished_run_is_read(directory):
    result = bm.load_result(str(directory))
    assert result.report == RECORD and result.litert_path.read_bytes() == b"tfl3" and result.directory == directory
    assert repr(result) == f"Result(accuracy=0.9000, size_bytes=4, directory={str(directory)!r})"


@pytest.mark.parametrize("missing", ["report.json", "model.tflite", "."])
def test_a_run_that_is_not_finished_is_refused_with_what_to_do(directory, missing):
    target = directory / missing
    shutil.rmtree(directory) if missing == "." else target.unlink()
    with pytest.raises(bm.errors.DirectoryError) as caught:
        bm.load_result(directory)
    assert str(directory) in caught.value.received and caught.value.expected and "again" in caught.value.fix


def test_a_temporary_directory_ends_with_its_result_and_without_a_warning(directory):
    result = bm.Result(directory, is_temporary=True)
    assert result.litert_path.is_file()
    del result
    gc.collect()
    assert not directory.exists()


class Halves(keras.layers.Layer):
    def call(self, x):
        return x / 2


def test_a_model_with_own_classes_needs_them_or_says_so(directory):
    keras.Sequential([keras.Input((2,)), Halves(name="halves")]).save(directory / "model.keras")
    with pytest.raises(bm.errors.ModelError) as caught:
        _ = bm.load_result(directory).model
    assert "Halves" in caught.value.received and "custom_objects" in caught.value.fix
    result = bm.load_result(directory, custom_objects={"Halves": Halves})
    assert isinstance(result.model.layers[0], Halves) and result.model is result.model
