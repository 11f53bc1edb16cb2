"""Searches with real trials: the winner, what is verified, resumption, failures, time."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from searches import TRAIN, build, network, rates, search

from bigmodel.config import Target, TrainConfig, TuneConfig
from bigmodel.data import Data
from bigmodel.errors import ModelError
from bigmodel.tuning import Options
from bigmodel.tuning.holdout import set_aside
from bigmodel.tuning.objective import Objective
from bigmodel.tuning.space import Bounds
from bigmodel.tuning.trial import Bench


@pytest.fixture(scope="module")
def compressed(trained, data, float_file, tmp_path_factory):
    """A small constrained search, and what it told."""
    told, watched = [], []
    options = Options(tell=told.append, watch=lambda row, best: watched.append((row, best)))
    config = TuneConfig(2, tuner="grid", space=lambda hp: {"bits": 8, "channels": hp.Choice("c", [0.9, 0.5])})
    directory = tmp_path_factory.mktemp("compressed")
    weights = [w.copy() for w in trained.get_weights()]
    found = search(trained, data, config, directory, options=options, baseline=float_file)
    for before, after in zip(weights, trained.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    return found, told, watched, directory, config


def test_the_winner_is_the_smallest_that_holds_and_was_verified(compressed):
    found, *_ = compressed
    assert found.target_met and found.objective == "size"
    held = [row for row in found.trials if row["score"] < 2 and row.get("verified") is not False]
    assert found.value == min(row["score"] for row in held)
    winner = next(row for row in found.trials if row["trial"] == found.trial)
    assert winner["verified"] and winner["holdout_drop"] <= 0.05 and winner["metric_drop"] <= 0.05
    assert found.litert_path.stat().st_size == winner["size_bytes"]
    assert found.model.get_layer("hidden").layer.units < 24


def test_every_trial_is_told_once_with_the_best_so_far(compressed):
    found, told, watched, *_ = compressed
    assert [row["trial"] for row in told] == [row["trial"] for row in found.trials]
    scores = [best["score"] for _, best in watched if best is not None]
    assert scores == sorted(scores, reverse=True)


def test_a_search_that_is_done_is_read_and_not_run_again(compressed, trained, data, monkeypatch, capsys):
    found, _, _, directory, config = compressed
    monkeypatch.setattr("bigmodel.tuning.trial.Bench.run", lambda *a, **k: pytest.fail("a trial was run again"))
    again = search(trained, data, config, directory)  # the baseline too is read
    assert again.hyperparameters == found.hyperparameters and again.trials == found.trials
    again.tuner.results_summary(1)
    assert f"Trial {found.trial} summary" in capsys.readouterr().out


def test_a_search_that_was_cut_off_ends_as_the_unbroken_one(trained, data, tmp_path):
    config = TuneConfig(3, tuner="random", space=rates, objective="loss")
    whole = search(trained, data, config, tmp_path / "whole")

    class Cut(BaseException):
        pass

    def cut(row):
        if row["trial"] == "1":
            raise Cut

    with pytest.raises(Cut):
        search(trained, data, config, tmp_path / "cut", options=Options(tell=cut))
    resumed = search(trained, data, config, tmp_path / "cut")
    keys = ("trial", "values", "score", "metric")
    assert [[row[k] for k in keys] for row in resumed.trials] == [[row[k] for k in keys] for row in whole.trials]
    for a, b in zip(resumed.model.get_weights(), whole.model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_what_lost_channels_learns_from_the_whole_network_until_it_is_quantized(trained, data, tmp_path, monkeypatch):
    class Seen(Exception):
        pass

    def seen(made, data, bits, *, train, teacher, **settings):
        told.append((teacher is trained, train.distillation))
        raise Seen

    told = []
    monkeypatch.setattr("bigmodel.tuning.trial.quantize_aware", seen)
    bench = Bench(trained, data, Objective("loss", "min", Target()), TRAIN, 0, {"metric": 0.9})
    for more in ({}, {"distillation": 0.25}, {"channels": 1.0}):
        with pytest.raises(Seen):
            bench.run(None, {"bits": 4, "channels": 0.5, **more}, tmp_path)
    assert told == [(True, 0.5), (True, 0.25), (True, None)]


@pytest.mark.parametrize("tuner", [pytest.param("grid", marks=pytest.mark.slow), "bayesian", "hyperband"])
def test_models_of_ones_own_are_built_and_trained_by_every_oracle(tuner, data, tmp_path):
    config = TuneConfig(4, tuner=tuner, build=build)
    found = search(network(), data, config, tmp_path)
    assert found.objective == "accuracy" and found.value == max(row["score"] for row in found.trials)
    assert found.model.layers[0].units == found.hyperparameters["width"]
    assert 2 <= len(found.trials) <= 4 and found.litert_path is None


def test_trials_that_fail_are_recorded_with_their_reason_and_do_not_end_the_search(trained, data, tmp_path):
    config = TuneConfig(
        3, tuner="grid", objective="loss", space=lambda hp: {"optimizer": hp.Choice("o", ["adam", "no", "sgd"])}
    )
    found = search(trained, data, config, tmp_path)
    failed = [row for row in found.trials if row["status"] == "failed"]
    assert [row["values"]["o"] for row in failed] == ["no"] and "no" in failed[0]["reason"]
    assert found.hyperparameters["o"] in ("adam", "sgd")


def test_if_every_trial_fails_the_error_says_why(trained, data, float_file, tmp_path):
    config = TuneConfig(2, space=lambda hp: {"bits": hp.Choice("b", [5, 7])})
    with pytest.raises(ModelError, match="bits=5"):
        search(trained, data, config, tmp_path, baseline=float_file)


def test_a_hopeless_training_stops_early_and_says_how_bad_it_was(trained, data, float_file, tmp_path):
    def space(hp):
        return {"initializer": "zeros", "learning_rate": hp.Choice("r", [1e-9, 1e-8]), "bits": 8}

    with pytest.raises(ModelError, match="worse while it trained"):
        search(trained, data, TuneConfig(2, tuner="grid", space=space), tmp_path, baseline=float_file)
    rows = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("trial_*/result.json"))]
    assert {row["status"] for row in rows} == {"stopped"} and all(2 < row["score"] < 3 for row in rows)


def test_where_nothing_holds_the_search_widens_once_and_says_so(trained, data, float_file, tmp_path, monkeypatch):
    monkeypatch.setattr("bigmodel.tuning.holdout.Verdict.holds", lambda self, figures: False)
    config = TuneConfig(1, tuner="grid", space=lambda hp: {"bits": 8})
    found = search(trained, data, config, tmp_path, baseline=float_file)
    assert not found.target_met and "trained twice as long" in found.notes[0]
    assert [row["trial"] for row in found.trials] == ["0", "0x2"]
    assert all(row["verified"] is False for row in found.trials)


@pytest.mark.parametrize(
    ("verdicts", "shares", "winner"),
    [
        ("no yes yes yes", (0.1147, 0.1098), 0.1098),
        ("no yes yes no", (0.1147, 0.1098), 0.1147),
        ("no yes no yes", (0.1147, 0.1197), 0.1197),
        ("no yes no no", (0.1147, 0.1197), 0.125),
        ("no no yes yes", (0.125,), 0.125),
        ("no no yes no yes", (0.125, 0.1768), 0.1768),
        ("yes", (), 0.1051),
    ],
)
def test_between_the_smallest_and_the_first_that_holds_on_the_fold_up_to_two_more_are_tried(
    verdicts, shares, winner, trained, data, float_file, tmp_path, monkeypatch
):
    """Shares from 0.1 on hold on the samples of the search; what the fold says is given."""

    def run(bench, network, values, folder, **options):
        trained.save(folder / "model.keras")
        figures = {"applied": dict(values), "metric": 0.9, "metric_drop": 0.0}
        figures["score"] = values["channels"] if values["channels"] >= 0.1 else 2.5
        return {"status": "done", "reason": "", "seconds": 0.0, "seconds_outside": 0.0, "epochs": 1, **figures}

    answers = iter(verdicts.split())
    monkeypatch.setattr("bigmodel.tuning.search.bounds_of", lambda *a, **k: Bounds(least_channels=0.1))
    monkeypatch.setattr("bigmodel.tuning.trial.Bench.run", run)
    monkeypatch.setattr("bigmodel.tuning.holdout.Verdict.figures", lambda *a: {"holds": next(answers) == "yes"})
    monkeypatch.setattr("bigmodel.tuning.holdout.Verdict.holds", lambda self, figures: figures["holds"])
    found = search(trained, data, TuneConfig(1), tmp_path, options=Options(bisect=True), baseline=float_file)
    after = {row["trial"]: row["values"]["channels"] for row in found.trials if row["trial"].endswith("half")}
    assert [after[name] for name in sorted(after, key=len)] == pytest.approx(shares, abs=1e-4)
    assert found.target_met and found.value == pytest.approx(winner, abs=1e-4) and next(answers, None) is None
    assert all(row["values"]["epochs"] == 3 * TRAIN.epochs for row in found.trials if row["trial"] in after)
    names = sorted(after, key=len)
    for done in range(len(names) + 1):  # cut off before, between and after those two
        for trial in names[done:]:
            shutil.rmtree(tmp_path / f"trial_{trial}")
        answers = iter(verdicts.split()[len(verdicts.split()) - len(names) + done :])
        resumed = search(trained, data, TuneConfig(1), tmp_path, options=Options(bisect=True), baseline=float_file)
        assert (resumed.trial, resumed.trials) == (found.trial, found.trials)


def test_the_fold_is_disjoint_from_what_the_search_sees(data):
    searched, fold = set_aside(data, 0.25, seed=3)
    whole, rest, cut = (split.arrays()[0] for split in (data.validation, searched.validation, fold))
    assert len(rest) + len(cut) == len(whole) and len(cut) == round(0.25 * len(whole))
    assert not {row.tobytes() for row in rest} & {row.tobytes() for row in cut}
    assert set_aside(data, 0.0, seed=3) == (data, None)
    assert set_aside(Data(train=data.train), 0.3, seed=3)[1] is None


def test_the_time_is_kept_inside_a_trial_too(trained, data, tmp_path):
    config = TuneConfig(50, tuner="random", objective="loss", max_seconds=6.0, space=rates)
    found = search(trained, data, config, tmp_path, train=TrainConfig(epochs=10_000, batch_size=8, patience=10_000))
    assert "time was up" in found.trials[-1]["reason"]


def test_a_bounded_size_is_never_met_by_a_larger_file(compressed):
    found, *_ = compressed
    objective = Objective("size", "min", Target(max_drop=0.05, size=10, optimize="size"))
    assert objective.score(found.trials[0], {"size_bytes": 10**6}) > 2
