"""The ranking of candidates, on figures alone."""

from __future__ import annotations

import math
from typing import Any

import pytest

from bigmodel.config import Target
from bigmodel.errors import ArgumentError
from bigmodel.evaluation import Metric
from bigmodel.run.candidates import SLOWER_ALLOWED, channel_budget, choose

ACCURACY = Metric("accuracy", higher_is_better=True)
LOSS = Metric("loss", higher_is_better=False)
FLOAT_MS = 1.0


def file(name: str, *, metric: float = 0.9, drop: float = 0.0, size: int = 1000, ms: float = 0.5) -> dict[str, Any]:
    return {"name": name, "metric": metric, "metric_drop": drop, "size_bytes": size, "latency_ms": ms}


SMALL_SLOW = file("small slow", size=100, ms=2.0)
SMALL = file("small", size=200, ms=0.9)
FAST = file("fast", size=300, ms=0.2)
BAD = file("bad", size=10, ms=0.1, metric=0.5, drop=0.4)


@pytest.mark.parametrize(
    ("target", "wins"),
    [
        (Target(), "small"),
        (Target(optimize="size"), "small slow"),
        (Target(optimize="latency"), "fast"),
        (Target(max_drop=0.4), "bad"),
        (Target(size=250, optimize="latency"), "small"),
        (Target(latency_ms=0.3), "fast"),
        (Target(size=99), None),
        (Target(size=250, latency_ms=0.3), None),
    ],
)
@pytest.mark.parametrize("turned", [False, True], ids=["", "in reverse order"])
def test_what_wins_under_a_target(target, wins, turned):
    files = [SMALL_SLOW, SMALL, FAST, BAD]
    choice = choose(files[::-1] if turned else files, target, ACCURACY, FLOAT_MS)
    assert choice.target_met == (wins is not None)
    assert wins is None or choice.name == wins
    assert set(choice.reasons) == {f["name"] for f in files} and all(choice.reasons.values())


def test_none_within_the_bounds_gives_the_best_metric_and_says_so():
    files = [
        file("a", metric=0.80, drop=0.1),
        file("b", metric=0.85, drop=0.05, size=9999),
        file("c", metric=0.1, drop=0.8),
    ]
    choice = choose(files, Target(), ACCURACY, FLOAT_MS)
    assert (choice.name, choice.target_met) == ("b", False)
    assert choice.reasons["b"] == "best metric, as none keeps the bounds"
    assert "0.1000 worse, 0.0100 is allowed" in choice.reasons["a"]


def test_of_a_loss_the_smallest_is_the_best():
    files = [file("a", metric=1.3, drop=0.3), file("b", metric=1.2, drop=0.2)]
    choice = choose(files, Target(), LOSS, FLOAT_MS)
    assert (choice.name, choice.target_met) == ("b", False)
    assert "0.3000 worse (relative), 0.0100 is allowed" in choice.reasons["a"]


@pytest.mark.parametrize("metric", [ACCURACY, LOSS])
def test_what_is_no_number_never_wins(metric):
    broken = file("broken", metric=math.nan, drop=math.nan, size=1, ms=0.01)
    for files in ([broken, BAD], [BAD, broken], [broken, SMALL]):
        assert choose(files, Target(), metric, FLOAT_MS).name != "broken"
    only = choose([broken], Target(), metric, FLOAT_MS)
    assert (only.name, only.target_met) == ("broken", False)


def test_balanced_allows_a_tenth_more_than_the_float_file_and_not_more():
    at, above = (
        file("at", size=1, ms=SLOWER_ALLOWED * FLOAT_MS),
        file("above", size=1, ms=SLOWER_ALLOWED * FLOAT_MS + 1e-6),
    )
    quick = file("quick", size=2, ms=0.1)
    assert choose([at, quick], Target(), ACCURACY, FLOAT_MS).name == "at"
    choice = choose([above, quick], Target(), ACCURACY, FLOAT_MS)
    assert choice.name == "quick"
    assert choice.reasons["above"] == "1.10x the latency of the float file"


def test_where_all_are_slow_the_smallest_wins_and_the_reasons_are_true():
    choice = choose([file("a", size=10, ms=5), file("b", size=20, ms=4)], Target(), ACCURACY, FLOAT_MS)
    assert choice.name == "a" and choice.target_met
    assert "all of these take over 1.1x" in choice.reasons["a"]
    assert choice.reasons["b"] == "2.00x the size of the chosen file"


def test_of_equal_sizes_the_better_metric_wins_then_the_name():
    files = [file("b", metric=0.90), file("a", metric=0.90), file("c", metric=0.91), file("d", metric=0.89, ms=0.1)]
    assert choose(files, Target(), ACCURACY, FLOAT_MS).name == "c"
    assert choose(files, Target(), LOSS, FLOAT_MS).name == "d"
    choice = choose(files[:2], Target(), ACCURACY, FLOAT_MS)
    assert choice.name == "a"
    assert choice.reasons["b"] == "ties with the chosen file, whose metric is no worse"


def test_a_drop_at_the_bound_is_allowed_whatever_floats_make_of_it():
    assert choose([file("a", drop=0.9 - 0.89)], Target(max_drop=0.01), ACCURACY, FLOAT_MS).target_met
    assert not choose([file("a", drop=0.0101)], Target(max_drop=0.01), ACCURACY, FLOAT_MS).target_met


def test_every_broken_bound_is_named():
    choice = choose(
        [SMALL, file("big", size=5000, ms=3, drop=0.1)], Target(size="1KB", latency_ms=2), ACCURACY, FLOAT_MS
    )
    assert choice.reasons["big"].split("; ") == [
        "accuracy is 0.1000 worse, 0.0100 is allowed",
        "5,000 bytes, 1,000 are allowed",
        "3.0000 ms, 2.0000 are allowed",
    ]


def test_a_budget_counts_what_a_file_needs_besides_its_weights():
    small = {"format": "dynamic_int8", "status": "lost", "size_bytes": 12_000, "parameters": 10_000, "latency_ms": 2.0}
    fast = {"format": "float32", "status": "lost", "size_bytes": 42_000, "parameters": 10_000, "latency_ms": 1.0}
    rows = [small, fast, {"format": "dynamic_int4", "status": "failed"}]
    assert channel_budget(Target(size=7_000, latency_ms=0.5), rows) == {"parameters": 0.465, "latency": 0.475}
    assert channel_budget(Target(size=50_000, latency_ms=5.0), rows) == {}
    with pytest.raises(ArgumentError, match="size can't be reached"):
        channel_budget(Target(size=2_000), rows)
