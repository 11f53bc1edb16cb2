"""Who proposes the values of the next trial: KerasTuner's oracles, told when to stop, and a bisection of our own.

Only functions import this module: it loads KerasTuner.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import keras_tuner
from keras_tuner import engine

from bigmodel.config import TuneConfig
from bigmodel.tuning.clock import Clock
from bigmodel.tuning.objective import Objective

Start = tuple[Sequence[float], int]
_STOPPED = {"status": "STOPPED", "values": None}


def oracle_of(
    config: TuneConfig, objective: Objective, clock: Clock, *, seed: int, most_epochs: int, start: Start
) -> Any:
    """Returns the oracle that a config asks for, which stops when the time is up.

    Args:
        config: Its `tuner` and `max_trials` count.
        objective: Its direction counts.
        clock: Says when the time is up.
        seed: Same seed, same proposals.
        most_epochs: Of hyperband: epochs of its longest trainings.
        start: Of "bayesian": shares of the parameters, from large to small, and which of them is tried first.
    """
    rungs, outset = start
    kinds = {
        "bayesian": partial(_timed(WarmOracle, clock), objective, rungs, outset),
        "random": _timed(keras_tuner.oracles.RandomSearchOracle, clock),
        "grid": _timed(keras_tuner.oracles.GridSearchOracle, clock),
        "hyperband": _timed(keras_tuner.oracles.HyperbandOracle, clock),
    }
    settings: dict[str, Any] = {
        "objective": keras_tuner.Objective("score", objective.direction),
        "seed": seed + 1,  # KerasTuner takes 0 for none
        "max_consecutive_failed_trials": config.max_trials + 1,  # a failed trial is a result; all failed is our error
    }
    if config.tuner == "hyperband":
        settings |= {"max_epochs": max(2, most_epochs), "hyperband_iterations": 1}
    else:
        settings["max_trials"] = config.max_trials
    oracle = kinds[config.tuner](**settings)
    oracle.max_trials = config.max_trials  # hyperband has no argument for it
    return oracle


class WarmOracle(keras_tuner.oracles.BayesianOptimizationOracle):
    """Bayesian optimization that first looks for the fewest channels, and tries nothing twice.

    The file shrinks, and the metric falls, as channels go. So the smallest share that holds at the fewest bits is
    looked for first, from an outset on in growing steps, then by bisection. What is known then, KerasTuner's Gaussian
    process starts from.

    Args:
        goal: Says which trials hold.
        rungs: Shares of the parameters that are left, from large to small; empty: there is none to look for.
        outset: The rung that is tried first.
        settings: As KerasTuner's oracle takes them.
    """

    def __init__(self, goal: Objective, rungs: Sequence[float], outset: int, **settings: Any) -> None:
        super().__init__(**settings)
        self.goal, self.rungs, self.outset = goal, list(rungs), outset

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        rung = self._next() if self.rungs else None
        if rung is not None:
            return {"status": "RUNNING", "values": smallest(self.hyperparameters, self.rungs[rung])}
        response: dict[str, Any] = super().populate_space(trial_id)
        if response["status"] == "RUNNING" and self._duplicate(response["values"]):
            response = self._random_populate_space()
        return response

    def _next(self) -> int | None:
        """The rung to try; `None`: the smallest that holds is known, or is being tried."""
        held = self._held()
        low = max((rung for rung, holds in held.items() if holds), default=-1)
        high = min((rung for rung, holds in held.items() if not holds and rung > low), default=len(self.rungs))
        step = 2 ** max(len(held) - 1, 0)
        if not held:
            rung = self.outset
        elif not any(held.values()):
            rung = max(high - step, 0)
        else:
            rung = min(low + step, len(self.rungs) - 1) if all(held.values()) else (low + high) // 2
        return (
            rung
            if low < rung < high and not self._duplicate(smallest(self.hyperparameters, self.rungs[rung]))
            else None
        )

    def _held(self) -> dict[int, bool]:
        """For each rung that was tried, whether it held."""
        ends = (trial for trial in self.trials.values() if trial.status in ("COMPLETED", "FAILED"))
        tried = {self._compute_values_hash(trial.hyperparameters.values): trial for trial in ends}
        hashes = [self._compute_values_hash(smallest(self.hyperparameters, share)) for share in self.rungs]
        return {n: self.goal.is_within(tried[key].score) for n, key in enumerate(hashes) if key in tried}


def rungs_of(hp: Any) -> list[float]:
    """Returns the shares in a space's "channels" from large to small: its values, or a ladder between its ends.

    >>> hp = keras_tuner.HyperParameters()
    >>> _ = hp.Float("channels", 0.2, 0.8)
    >>> rungs_of(hp)
    [0.8, 0.56569, 0.4, 0.28284, 0.2]
    """
    axis = next((one for one in hp.space if one.name == "channels"), None)
    if axis is None or isinstance(axis, engine.hyperparameters.Fixed):
        return []
    if isinstance(axis, engine.hyperparameters.Choice):
        return sorted(axis.values, reverse=True)
    count = math.ceil(round(2 * math.log2(axis.max_value / axis.min_value), 6))
    ladder = [round(axis.max_value * 2 ** (-n / 2), 5) for n in range(count)]
    return [*ladder, axis.min_value]


def smallest(hp: Any, share: float) -> dict[str, Any]:
    """Returns a space's values with a share of the channels, the fewest bits and else its defaults."""
    made = engine.hyperparameters.HyperParameters()
    for one in hp.space:
        made.merge([one])
        if made.is_active(one):
            value = min(one.values) if one.name == "bits" and hasattr(one, "values") else one.default
            made.values[one.name] = share if one.name == "channels" else value
    return dict(made.values)


def _timed(kind: Any, clock: Clock) -> Any:
    class Timed(kind):
        """An oracle that proposes nothing more when the time is up."""

        def populate_space(self, trial_id: str) -> Any:
            return super().populate_space(trial_id) if clock.may_start(trial_id) else dict(_STOPPED)

    return Timed


class BudgetOracle(engine.oracle.Oracle):
    """Finds the smallest network that holds, by bisection over what is left of it, then trains there for longer.

    Short trainings part the shares on a geometric ladder into those that hold and those that do not; each rung leaves
    1/sqrt(2) of the one above. A longer training usually saves a rung or two: the one below the smallest that held is
    trained for longer, and from there on downwards until one does not hold, or upwards until one does. At last the
    middle between the smallest that held and the one below is tried.

    Args:
        clock: Says when the time is up.
        objective: Says which trials hold.
        fixed: Values of every trial.
        ladder: Shares of the parameters that are left, from large to small.
        epochs: Epochs of a short training.
        longer: How many times as long the last trainings are.
        seed: Not used; every oracle has one.
    """

    def __init__(
        self,
        clock: Clock,
        objective: Objective,
        *,
        fixed: Mapping[str, Any],
        ladder: list[float],
        epochs: int,
        longer: int,
        seed: int,
    ) -> None:
        super().__init__(objective=keras_tuner.Objective("score", "min"), max_trials=10**3, seed=seed + 1)
        self.max_consecutive_failed_trials = 10**3
        self.clock, self.goal = clock, objective
        self.fixed, self.ladder, self.epochs, self.longer = dict(fixed), ladder, epochs, longer

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        proposal = self._next() if self.clock.may_start(trial_id) else None
        if proposal is None:
            return dict(_STOPPED)
        share, epochs = proposal
        return {"status": "RUNNING", "values": {**self.fixed, "channels": share, "epochs": epochs}}

    def _next(self) -> tuple[float, int] | None:
        """The share and the epochs of the next trial; `None`: done."""
        short, long = self._held(self.epochs), self._held(self.epochs * self.longer)
        low = max((rung for rung, holds in self._rungs(short).items() if holds), default=-1)  # the smallest that held
        high = min((rung for rung, holds in self._rungs(short).items() if not holds), default=len(self.ladder))
        high = max(high, low + 1)
        if not long and high - low > 1:
            return self.ladder[(low + high) // 2], self.epochs
        rung = self._longer_at(low, self._rungs(long))
        share = self._between(short, long) if rung is None else self.ladder[rung]
        return None if share is None else (share, self.epochs * self.longer)

    def _longer_at(self, low: int, long: Mapping[int, bool]) -> int | None:
        """The rung of the next long training; `None` where the way has ended."""
        rungs = sorted(long)
        if not rungs:
            return min(low + 1, len(self.ladder) - 1)
        if all(long.values()):
            down = rungs[-1] + 1
            return down if down < len(self.ladder) else None
        up = rungs[0] - 1  # the first rung did not hold: up, until one does or has done so with less training
        return up if not any(long.values()) and up > low else None

    def _between(self, short: Mapping[float, bool], long: Mapping[float, bool]) -> float | None:
        """The middle of the smallest share that held and the next one below, once."""
        if set(long) - set(self.ladder):
            return None
        above = min((share for tried in (short, long) for share, holds in tried.items() if holds), default=0.0)
        below = max((share for share, holds in long.items() if not holds and share < above), default=0.0)
        return round(math.sqrt(above * below), 5) or None

    def _rungs(self, held: Mapping[float, bool]) -> dict[int, bool]:
        return {self.ladder.index(share): holds for share, holds in held.items() if share in self.ladder}

    def _held(self, epochs: int) -> dict[float, bool]:
        """For each share that was tried with so many epochs, whether it held."""
        found = {}
        for trial in self.trials.values():
            values = trial.hyperparameters.values
            if trial.status in ("COMPLETED", "FAILED") and values.get("epochs") == epochs:
                found[values["channels"]] = self.goal.is_within(trial.score)
        return found


def ladder_of(least: float) -> list[float]:
    """Returns shares from 1/2 downwards, each 1/sqrt(2) of the one before, to about `least`.

    >>> ladder_of(0.2)
    [0.5, 0.35355, 0.25, 0.17678]
    """
    rungs = max(1, math.ceil(2 * math.log2(0.5 / least)))
    return [round(0.5 * 2 ** (-rung / 2), 5) for rung in range(rungs + 1)]
