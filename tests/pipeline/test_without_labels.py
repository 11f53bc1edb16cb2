"""The whole call on x alone."""

from __future__ import annotations

import numpy as np
import pytest

import bigmodel as bm

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def orders():
    return {"prune": None, "quantize": bm.QuantizeConfig(bits=4, method="post_training"), "verbose": 0}


@pytest.fixture(scope="module")
def result(trained, digits, orders, tmp_path_factory):
    data = bm.Data(train=digits.train[0], test=digits.test[0])
    return bm.compress_and_tune(trained, data, directory=tmp_path_factory.mktemp("run"), **orders)


def test_the_metric_is_the_agreement_with_the_model_on_the_test_split(result, trained, digits):
    x = digits.test[0]
    answers = bm.LiteModel(result.litert_path).predict(x).argmax(-1)
    share = float(np.mean(answers == trained.predict(x, verbose=0).argmax(-1)))
    report = result.report
    assert (report.metric, report.higher_is_better, report.split) == ("agreement", True, "test")
    assert report.baseline["metric"] == 1.0
    assert report.final["metric"] == pytest.approx(share, abs=1e-6) and report.final["per_class"] is not None
    assert any(note.startswith("there were no labels") for note in report.notes)
    assert any(note.startswith("digit: agreement is the share") for note in report.notes)


def test_the_same_call_finds_its_run_again(result, trained, digits, orders):
    data = bm.Data(train=digits.train[0], test=digits.test[0])
    again = bm.compress_and_tune(trained, data, directory=result.directory, **orders)
    assert again.report.to_dict() == result.report.to_dict()
    with pytest.raises(bm.errors.DirectoryError):
        bm.compress_and_tune(trained, digits, directory=result.directory, **orders)
