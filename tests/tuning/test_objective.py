"""The score: its formula, its order, and metrics by name against Keras' own."""

from __future__ import annotations

import itertools
import math

import keras
import numpy as np
import pytest

from bigmodel.config import Target, TuneConfig
from bigmodel.errors import ArgumentError
from bigmodel.evaluation.evaluation import Evaluation
from bigmodel.tuning.objective import Objective, metric_value, objective_of

BASE = {"size_bytes": 1000, "latency_ms": 2.0, "macs": 500}


def score(target: Target, name: str = "size", **figures: float) -> float:
    return Objective(name, "min", target).score({"metric_drop": 0.0, **figures}, BASE)


@pytest.mark.parametrize(
    ("figures", "expected"),
    [
        ({"size_bytes": 250}, 0.25),
        ({"size_bytes": 1000}, 1.0),
        ({"size_bytes": 4000}, 2 - 1 / 4),
        ({"size_bytes": 10, "metric_drop": 0.03}, 2 + 0.02 / 1.02),
        ({"size_bytes": 10, "metric_drop": math.inf}, 3.0),
        ({"size_bytes": 10, "metric_drop": math.nan}, 3.0),
        ({}, 3.0),
    ],
)
def test_the_score_is_its_formula(figures, expected):
    assert score(Target(max_drop=0.01, optimize="size"), **figures) == pytest.approx(expected)


def test_broken_bounds_add_up_in_their_units():
    target = Target(max_drop=0.01, size=100, latency_ms=1.0, optimize="size")
    v = 0.02 + (150 / 100 - 1) + (3.0 / 1.0 - 1)
    assert score(target, size_bytes=150, latency_ms=3.0, metric_drop=0.03) == pytest.approx(2 + v / (1 + v))


def test_balanced_puts_slow_files_behind_and_size_does_not():
    slow = {"size_bytes": 100, "slowdown": 1.65}
    assert score(Target(optimize="size"), **slow) == pytest.approx(0.1)
    assert score(Target(), **slow) == pytest.approx(2 + 0.5 / 1.5)


def test_whatever_holds_beats_whatever_does_not_and_less_is_better_among_equals():
    target = Target(max_drop=0.01, optimize="size")
    sizes, drops = (1, 10, 999, 1000, 1001, 10**9), (0.0, 0.01, 0.0101, 0.5, 1.0, math.inf)
    scored = {(s, d): score(target, size_bytes=s, metric_drop=d) for s, d in itertools.product(sizes, drops)}
    held = [value for (_, drop), value in scored.items() if drop <= 0.01]
    broken = [value for (_, drop), value in scored.items() if drop > 0.01]
    assert max(held) < 2 <= min(broken) <= max(broken) == 3
    for drop in (0.0, 0.01):
        by_size = [scored[size, drop] for size in sizes]
        assert by_size == sorted(by_size) and len(set(by_size)) == len(sizes)
    by_drop = [scored[10, drop] for drop in drops[2:]]
    assert by_drop == sorted(by_drop) and len(set(by_drop)) == len(by_drop)


@pytest.mark.parametrize(
    ("config", "target", "name", "direction"),
    [
        (TuneConfig(), Target(), "size", "min"),
        (TuneConfig(), Target(optimize="latency"), "latency", "min"),
        (TuneConfig(objective="macs"), Target(), "macs", "min"),
        (TuneConfig(objective="val_accuracy"), Target(), "accuracy", "max"),
        (TuneConfig(objective="mse"), Target(), "mse", "min"),
        (TuneConfig(objective="AUC"), Target(), "AUC", "max"),
        (TuneConfig(objective="loss"), Target(), "loss", "min"),
        (TuneConfig(objective="mine", direction="max"), Target(), "mine", "max"),
        (TuneConfig(space="training"), Target(), "accuracy", "max"),
    ],
)
def test_the_name_tells_the_direction(config, target, name, direction, trained):
    objective = objective_of(config, target, trained)
    assert (objective.name, objective.direction) == (name, direction)


def test_an_unknown_name_is_refused_before_anything_runs(trained):
    with pytest.raises(ArgumentError, match="direction"):
        objective_of(TuneConfig(objective="mine"), Target(), trained)


def test_a_metric_by_name_is_what_keras_computes_from_one_hot_labels():
    rng = np.random.default_rng(0)
    outputs = rng.dirichlet(np.ones(3), 50).astype("float32")
    labels = rng.integers(0, 3, 50)
    evaluation = Evaluation(0.5, {"accuracy": 0.5}, 50, None, outputs, labels)
    auc = keras.metrics.AUC()
    auc.update_state(np.eye(3)[labels], outputs)
    assert metric_value("AUC", evaluation) == pytest.approx(float(auc.result()))
    assert metric_value("mse", evaluation) == pytest.approx(np.mean((np.eye(3)[labels] - outputs) ** 2), rel=1e-5)
    assert metric_value("accuracy", evaluation) == 0.5
    with pytest.raises(ArgumentError, match="mine"):
        metric_value("mine", evaluation)
