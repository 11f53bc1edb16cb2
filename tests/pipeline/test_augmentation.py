"""What the steps of a run train on."""

from __future__ import annotations

import pytest
from jobs import comparable

import bigmodel as bm
from bigmodel.errors import ArgumentError

ORDERS = {
    "prune": 0.5,
    "quantize": bm.QuantizeConfig(activations="float", method="post_training"),
    "train": bm.TrainConfig(epochs=1, batch_size=64),
    "tune": None,
    "verbose": 0,
}


@pytest.fixture
def trained_on(monkeypatch):
    """What each pruning of a run trained on."""
    from bigmodel.run import native

    seen = []
    work = native.prune_model

    def noted(model, data, *given, **settings):
        seen.append(data)
        return work(model, data, *given, **settings)

    monkeypatch.setattr(native, "prune_model", noted)
    return seen


@pytest.mark.slow
def test_an_order_reaches_the_training_samples_and_no_others(trained, digits, trained_on):
    record = bm.compress_and_tune(trained, digits, augment=["noise"], **ORDERS).report
    (data,) = trained_on
    assert data.train.augmentation is not None
    assert data.validation.augmentation is None and data.calibration.augmentation is None
    assert any(note.startswith("augmentation of x (tabular): noise") for note in record.notes)


@pytest.mark.slow
def test_auto_tells_what_it_measured_and_keeps(trained, digits, trained_on, tmp_path):
    record = bm.compress_and_tune(trained, digits, directory=tmp_path, **ORDERS).report
    step = record.steps[0]
    assert step["name"] == "augment" and set(step["transforms"]) <= {"noise", "feature_masking", "mixup"}
    assert 0 <= step["metric_before"] <= 1 and 0 <= step["metric_after"] <= 1
    assert any(note.startswith("augmentation:") and "kept of" in note for note in record.notes)
    (data,) = trained_on
    assert (data.train.augmentation is not None) == bool(step["transforms"])
    (tmp_path / "report.json").unlink()  # as of a run that was killed at its end: it goes on and trains nothing
    again = bm.compress_and_tune(trained, digits, directory=tmp_path, **ORDERS).report
    assert comparable(again) == comparable(record) and len(trained_on) == 1


@pytest.mark.slow
def test_a_run_that_trains_nothing_says_that_it_varied_nothing(trained, digits):
    record = bm.compress_and_tune(trained, digits, augment=["noise"], **{**ORDERS, "prune": None}).report
    assert "augment: no step trained on the data, so that nothing was varied" in record.notes


def test_a_transform_that_does_not_exist_is_an_error_before_anything_runs(trained, digits):
    with pytest.raises(ArgumentError, match="transforms"):
        bm.compress_and_tune(trained, digits, augment=["rotate"], **ORDERS)
