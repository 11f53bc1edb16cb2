"""The figures of a report as text."""

from __future__ import annotations

import pytest

from bigmodel.report import Record
from bigmodel.report.figures import interval_text


@pytest.mark.parametrize(
    ("higher_is_better", "interval", "ends"),
    [(True, [-0.01, 0.02], ("-0.0200", "+0.0100")), (False, [-0.01, 0.02], ("-1.0 %", "+2.0 %")), (True, None, None)],
)
def test_an_interval_is_read_from_its_lower_end(higher_is_better, interval, ends):
    final = {"metric": 0.9, "size_bytes": 1, "drop_interval": interval}
    record = Record(
        target_met=True, metric="m", max_drop=0.01, baseline=final, final=final, higher_is_better=higher_is_better
    )
    assert interval_text(record) == ends
