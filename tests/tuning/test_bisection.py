"""The ladder of sizes, and the start of the Bayesian search, against a stand-in for trials whose outcome is known."""

from __future__ import annotations

import itertools
import math
import warnings

import keras_tuner
import numpy as np
import pytest

from bigmodel.config import Target, TrainConfig
from bigmodel.tuning.clock import Clock
from bigmodel.tuning.objective import Objective
from bigmodel.tuning.oracles import BudgetOracle, WarmOracle, ladder_of
from bigmodel.tuning.outset import drop_untrained, first_rung
from bigmodel.tuning.trial import Bench

LADDER = ladder_of(0.02)


def run(holds_short: float, holds_long: float, tmp_path, seconds=None):
    """What is tried when networks hold down to these shares, after short and after long trainings."""
    clock = Clock(seconds)
    goal = Objective("size", "min", Target())
    oracle = BudgetOracle(clock, goal, fixed={"bits": 4}, ladder=LADDER, epochs=2, longer=3, seed=0)
    tried = []

    def outcome(values):
        assert values["bits"] == 4
        held = values["channels"] >= (holds_short if values["epochs"] == 2 else holds_long)
        tried.append((values["channels"], values["epochs"], held))
        return values["channels"] if held else 2.5

    play(oracle, outcome, tmp_path)
    return tried


def play(oracle, outcome, tmp_path):
    """Asks for trials until there are no more, and tells what they came to."""
    oracle._set_project_dir(str(tmp_path), "tuning")
    oracle.verbose = 0
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning, module="keras_tuner")
        warnings.filterwarnings("ignore", module=r"sklearn\.gaussian_process")
        while (trial := oracle.create_trial("tuner0")).status == "RUNNING":
            oracle.update_trial(trial.trial_id, {"score": outcome(trial.hyperparameters.values)})
            trial.status = "COMPLETED"
            oracle.end_trial(trial)


def test_rungs_are_half_octaves():
    assert LADDER[0] == 0.5 and LADDER[-1] <= 0.02 * math.sqrt(2)
    assert all(b / a == pytest.approx(2**-0.5, rel=1e-3) for a, b in itertools.pairwise(LADDER))


@pytest.mark.parametrize(("short", "long"), [(0.2, 0.1), (0.2, 0.2), (0.5, 0.3), (0.01, 0.01), (0.1, 0.15), (0.9, 0.3)])
def test_the_smallest_that_holds_after_a_long_training_is_found_in_few_trials(short, long, tmp_path):
    tried = run(short, long, tmp_path)
    held = {share for share, _, holds in tried if holds}
    least = min(share for share in LADDER if share >= min(short, long))
    assert least in held
    between = least / 2**0.25
    is_between = between >= long and least > LADDER[-1]
    assert min(held) == (pytest.approx(between, rel=1e-3) if is_between else least)
    assert len([row for row in tried if row[1] == 2]) <= math.ceil(math.log2(len(LADDER) + 1))
    assert len({row[:2] for row in tried}) == len(tried), "nothing is tried twice"


def test_where_nothing_holds_it_ends(tmp_path):
    tried = run(2.0, 2.0, tmp_path)
    assert tried[-1] == (0.5, 6, False) and not any(holds for *_, holds in tried)


def test_nothing_is_proposed_when_the_time_is_up(tmp_path):
    assert run(0.1, 0.1, tmp_path, seconds=1e-9) == []


SHARES = [0.7, 0.5, 0.35, 0.25, 0.18, 0.12, 0.09, 0.06]


@pytest.mark.parametrize(
    "outset", [pytest.param(0, marks=pytest.mark.slow), 3, pytest.param(7, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("least", [0.06, 0.12, 0.5, 0.8])
def test_the_bayesian_search_starts_with_the_fewest_channels_that_hold(outset, least, tmp_path):
    space = keras_tuner.HyperParameters()
    space.Choice("bits", [8, 4])
    space.Choice("channels", SHARES, ordered=True)
    goal = Objective("size", "min", Target())
    settings = {"objective": keras_tuner.Objective("score", "min"), "max_trials": 14, "seed": 1}
    oracle = WarmOracle(goal, SHARES, outset, hyperparameters=space, **settings)
    tried = []

    def outcome(values):
        tried.append((values["bits"], values["channels"]))
        held = values["channels"] >= (least if values["bits"] == 4 else least / 2)
        return values["channels"] * values["bits"] / 32 if held else 2.5

    play(oracle, outcome, tmp_path)
    ladder = list(itertools.takewhile(lambda row: row[0] == 4, tried))
    assert tried[0] == (4, SHARES[outset]) and len(ladder) <= 7
    limit = [share for share in SHARES if share >= least][-1:] + [share for share in SHARES if share < least][:1]
    assert {(4, share) for share in limit} <= set(ladder), "the smallest that holds, and the largest that does not"
    assert len(set(tried)) == len(tried) == 14, "nothing is tried twice"


@pytest.fixture
def bench(trained, data):
    goal = Objective("size", "min", Target(max_drop=0.05))
    metric = trained.evaluate(*data.validation.arrays()[:2], verbose=0, return_dict=True)["accuracy"]
    return Bench(trained, data, goal, TrainConfig(), 0, {"metric": metric})


def test_the_first_trial_is_the_smallest_network_that_holds_untrained(bench, monkeypatch):
    for least, rung in ((0.7, 0), (0.25, 3), (0.06, 7), (0.9, 0)):
        monkeypatch.setattr(
            "bigmodel.tuning.outset.drop_untrained",
            lambda bench, values, least=least: float(values["channels"] < least),
        )
        assert first_rung(bench, SHARES, {}) == rung


def test_networks_are_judged_as_cut_and_rounded_and_the_model_stays(bench, trained):
    before = trained.get_weights()
    assert drop_untrained(bench, {"channels": 1.0}) == pytest.approx(0, abs=1e-6)
    assert drop_untrained(bench, {"bits": 8}) < drop_untrained(bench, {"bits": 2})
    assert first_rung(bench, [1.0, 0.9], {"bits": 5}) is None, "there is no such network"
    assert all(np.array_equal(a, b) for a, b in zip(before, trained.get_weights(), strict=True))
