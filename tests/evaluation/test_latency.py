from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bigmodel.errors import ArgumentError
from bigmodel.evaluation.latency import measure_latency


@pytest.mark.slow
def test_a_larger_network_takes_longer(tmp_path: Path) -> None:
    import keras

    paths = []
    for units in (8, 2048):
        model = keras.Sequential([keras.Input((units,)), keras.layers.Dense(units), keras.layers.Dense(units)])
        paths.append(tmp_path / f"{units}.tflite")
        model.export(paths[-1], format="litert", verbose=False)
    small, large = measure_latency(paths, seconds=0.1)
    assert 0 < small.median_ms <= small.p95_ms
    assert large.median_ms > 5 * small.median_ms
    assert large.runs >= 40 and small.threads == 1


def test_order_is_kept_and_delegate_is_told(files: dict[str, Path]) -> None:
    sample = np.zeros((1, 8, 8, 1), np.float32)
    results = measure_latency([files["float"], files["int8"]], delegate=None, sample=sample, seconds=0.02)
    assert [r.delegate for r in results] == [None, None]
    assert measure_latency([]) == []


def test_no_time_is_refused(files: dict[str, Path]) -> None:
    with pytest.raises(ArgumentError, match="seconds"):
        measure_latency([files["float"]], seconds=0)


def test_measuring_needs_no_keras(files: dict[str, Path], python: Callable[..., str]) -> None:
    code = """
import sys
from bigmodel.evaluation import inspect_file, measure_latency
from bigmodel.litert import LiteModel
measure_latency([sys.argv[1]], seconds=0.01)
inspect_file(sys.argv[1])
print(sorted({"keras", "tensorflow"} & set(sys.modules)))
"""
    assert python(code, files["float"]).splitlines()[-1] == "[]"
