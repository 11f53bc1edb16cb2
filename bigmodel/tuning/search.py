"""The tuning step: searches, verifies the winner on data that the search did not see, and says whether it holds."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import keras

from bigmodel.config import QuantizeConfig, Target, TrainConfig, TuneConfig
from bigmodel.data import Data
from bigmodel.errors import ModelError
from bigmodel.evaluation import evaluate_model
from bigmodel.tuning.clock import Clock
from bigmodel.tuning.holdout import Verdict, set_aside
from bigmodel.tuning.ledger import AGAIN, BETWEEN, Ledger, Row
from bigmodel.tuning.objective import Objective, objective_of
from bigmodel.tuning.settings import seeded, train_config, trained
from bigmodel.tuning.space import Bounds, bounds_of, checked, space_of
from bigmodel.tuning.trial import Bench, judged, measure_baseline

# Trials that train twice as long when none has held: those that came nearest.
_NEAREST = 3
_LONGER = 3
# Trials between the smallest that holds on the fold and the next below, which held on the search's samples alone.
_HALVINGS = 2


@dataclasses.dataclass(frozen=True, eq=False)
class Tuned:
    """What a search found.

    Args:
        model: The best trial's model, compiled like the one that was given; it simulates its file where it has bits.
        trial: The best trial's name.
        hyperparameters: Its values, by name.
        trials: Every trial: trial, values, status ("done", "stopped", "failed"), reason, score, metric, size_bytes,
            seconds, and for those that were verified `holdout_metric` and `verified`.
        objective: What the score says, as `bigmodel.tuning.Objective` explains.
        value: The best trial's score.
        target_met: Whether it keeps the bounds, on the samples of the search and on the fold that was set aside.
        litert_path: Its file; `None` where the objective needed none.
        tuner: KerasTuner's tuner: `tuner.results_summary()`, `tuner.oracle` and the rest.
        notes: What a reader should know.

    Example:
        `tuned = bm.tune(model, (x, y), 20); tuned.tuner.results_summary(); bm.export_litert(tuned.model, "m.tflite")`
    """

    model: keras.Model
    trial: str
    hyperparameters: Mapping[str, Any]
    trials: Sequence[Mapping[str, Any]]
    objective: str
    value: float
    target_met: bool
    litert_path: Path | None
    tuner: Any
    notes: tuple[str, ...]


def tune_model(
    model: keras.Model,
    data: Data,
    config: TuneConfig,
    *,
    target: Target,
    train: TrainConfig,
    seed: int,
    directory: Path,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    options: Options | None = None,
) -> Tuned:
    """Searches for the best hyperparameters. The caller's model, data and configs are not changed.

    A search that was cut off goes on when called again: finished trials are not run again.

    Args:
        model: A compiled model: trials start from it, or from what `config.build` makes, and its loss and metrics
            count.
        data: Data from `as_data`.
        config: What is searched, by which tuner, for how long.
        target: The bounds of an objective that has them.
        train: How trials train where they say nothing else.
        seed: Same seed, same result.
        directory: Where the trials lie.
        callbacks: For every training.
        options: What a run that surrounds the search knows or wants to know.

    Returns:
        The winner and all trials.

    Raises:
        ArgumentError: The objective or a value of the space is not known.
        ModelError: No trial came to anything.
        ConversionError: The model has no float file.
    """
    options = options or Options()
    return _Search(model, data, config, target, train, seed, directory, tuple(callbacks), options).go()


@dataclasses.dataclass(frozen=True)
class Options:
    """What a run that surrounds a search knows, and wants to know.

    Args:
        tell: Called with each trial's row when it is new.
        watch: Called after each trial with its row and the best one so far.
        fixed: Values that every trial takes, by the names of `VALUES`: what was ordered.
        may_remove_channels: Whether channels may go.
        bisect: Whether to look along one ladder of sizes instead of everywhere: few trials, the same ones each time.
        quantize: How weights are rounded, where that was ordered.
        baseline: The float file that trials are compared with; `None`: that of the model.
    """

    tell: Callable[[Row], Any] | None = None
    watch: Callable[[Row, Row | None], Any] | None = None
    fixed: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    may_remove_channels: bool = True
    bisect: bool = False
    quantize: QuantizeConfig | None = None
    baseline: Path | None = None


@dataclasses.dataclass
class _Search:
    model: keras.Model
    data: Data
    config: TuneConfig
    target: Target
    train: TrainConfig
    seed: int
    directory: Path
    callbacks: tuple[keras.callbacks.Callback, ...]
    options: Options

    def __post_init__(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        self.objective: Objective = objective_of(self.config, self.target, self.model)
        self.ledger = Ledger(self.directory, self.options.tell)
        self.searched, self.fold = set_aside(self.data, self.config.holdout, self.seed)
        self.notes: list[str] = []

    def go(self) -> Tuned:
        """Searches, verifies, and goes on for a little where the fold says otherwise than the search's samples."""
        with warnings.catch_warnings():
            # KerasTuner calls what Python has deprecated, at each step of an oracle.
            warnings.filterwarnings("ignore", category=DeprecationWarning, module="keras_tuner")
            # Few points, or equal ones, leave a Gaussian process with a length scale at the end of its range.
            warnings.filterwarnings("ignore", module=r"sklearn\.gaussian_process")
            bench = self._bench()
            tuner = self._tuner(bench)
            self._run(tuner)
            verdict = Verdict(bench, self.fold)
            winner = self._verified(verdict, again=False)
            if winner is None and bench.objective.is_bounded and not tuner.clock.is_over:
                self._widen(bench, tuner)
                winner = self._verified(verdict)
            elif winner is not None and self.options.bisect:
                winner = self._halve(bench, tuner, verdict, winner)
            return self._tuned(bench, tuner, winner)

    def _bench(self) -> Bench:
        if self.config.build is not None and self.objective.is_bounded:
            self.model = self._reference()
        path = self.options.baseline or self.directory / "float.tflite"
        baseline = self.ledger.fact("baseline", lambda: self._baseline(path))
        return Bench(
            self.model, self.searched, self.objective, self.train, self.seed, {**baseline, "path": str(path)},
            self.options.quantize, self.callbacks,
        )  # fmt: skip

    def _baseline(self, path: Path) -> Row:
        if not self.objective.is_bounded:  # nothing is compared with its file
            answers = evaluate_model(self.model, judged(self.searched, self.seed), like=self.model)
            return {"metric": answers.metric}
        return measure_baseline(self.model, self.searched, self.target, self.seed, path)

    def _reference(self) -> keras.Model:
        """The network of the default hyperparameters, trained: what compressed ones are compared with."""
        path = self.directory / "reference.keras"
        if not path.is_file():
            with seeded(self.seed):
                made = trained(
                    self.model, self.searched, {}, self.train, callbacks=list(self.callbacks), seed=self.seed
                )
            made.save(path.with_name("part.keras"))
            path.with_name("part.keras").replace(path)
        return self._load(path)

    def _bounds(self) -> Bounds:
        start = self.model if self.config.build is None else None
        channels = self.options.may_remove_channels and self._looks_at_channels()

        def find() -> Row:
            bounds = bounds_of(start, self.searched, self.target, self.train, channels=channels, seed=self.seed)
            return dataclasses.asdict(bounds)

        return Bounds(**{**self.ledger.fact("bounds", find), "fixed": tuple(self.options.fixed)})

    def _looks_at_channels(self) -> bool:
        return not callable(self.config.space) and self.config.space != "training"

    def _tuner(self, bench: Bench) -> Any:
        from bigmodel.tuning.oracles import BudgetOracle, ladder_of, oracle_of
        from bigmodel.tuning.tuner import Declared, TrialTuner, forget

        bounds, fixed = self._bounds(), dict(self.options.fixed)
        clock = Clock(self.config.max_seconds, self.ledger.rows())
        if self.options.bisect:
            oracle = BudgetOracle(
                clock, self.objective, fixed=fixed, ladder=ladder_of(min(bounds.least_channels, 0.5)),
                epochs=max(1, self.train.epochs), longer=_LONGER, seed=self.seed,
            )  # fmt: skip
            space: Any = lambda hp: checked({**hp.values})  # noqa: E731
        else:
            declared_space = space_of(self.config, bounds)

            def space(hp: Any) -> Mapping[str, Any]:
                return {**declared_space(hp), **fixed}

            oracle = oracle_of(
                self.config, self.objective, clock, seed=self.seed, most_epochs=train_config(self.train, {}).epochs,
                start=self._start(bench, space),
            )  # fmt: skip

        if self.config.parallel_trials == 1:
            forget(self.directory)
        with redirect_stdout(io.StringIO()):
            declared = Declared(self.config.build, space, self.seed)
            logs = self.config.tensorboard
            return TrialTuner(oracle, declared, bench, self.ledger, clock, self.options.watch, logs)

    def _start(self, bench: Bench, space: Any) -> tuple[list[float], int]:
        """Shares of the parameters that a search for the fewest channels climbs, and where it starts."""
        if self.config.tuner != "bayesian" or not self.objective.is_bounded or self.config.build is not None:
            return [], 0
        import keras_tuner

        from bigmodel.tuning.oracles import rungs_of, smallest
        from bigmodel.tuning.outset import first_rung

        hp = keras_tuner.HyperParameters()
        is_searched = "channels" in space(hp) and "channels" not in self.options.fixed
        rungs = rungs_of(hp) if is_searched and self.options.may_remove_channels else []
        if not rungs:
            return [], 0

        def find() -> Row:
            hp.values = smallest(hp, rungs[0])
            return {"rung": first_rung(bench, rungs, space(hp))}

        rung = self.ledger.fact("outset", find)["rung"]
        return ([], 0) if rung is None else (rungs, rung)

    def _run(self, tuner: Any) -> None:
        if self.config.parallel_trials > 1:
            from bigmodel.tuning.workers import Workers

            workers = Workers(tuner.bench, self.config.build, self.directory / "shared")
            tuner.search_parallel(workers.run, self.config.parallel_trials)
        else:
            tuner.search()

    # --- the end -----------------------------------------------------------------------------------------------

    def _ranked(self, *, again: bool = True) -> list[Row]:
        from bigmodel.tuning.tuner import ranked

        return [row for row in ranked(self.ledger.rows(again=again), self.objective) if self._has_model(row)]

    def _has_model(self, row: Row) -> bool:
        return (self.ledger.folder(row["trial"]) / "model.keras").is_file()

    def _verified(self, verdict: Verdict, *, again: bool = True) -> Row | None:
        """The best trial that holds on the fold too, among those that were trained longer too if `again`; or `None`."""
        for row in self._ranked(again=again):
            if (verified := self._held(verdict, row)) is not None:
                return verified
        return None

    def _held(self, verdict: Verdict, row: Row) -> Row | None:
        """A trial with the fold's figures, if it holds there too."""
        if not self.objective.is_within(row["score"]):
            return None
        figures = self.ledger.verified(row["trial"], lambda folder: self._judged(verdict, folder))
        return {**row, **figures} if figures["verified"] else None

    def _judged(self, verdict: Verdict, folder: Path) -> Row:
        figures = verdict.figures(folder)
        return {**figures, "verified": verdict.holds(figures)}

    def _widen(self, bench: Bench, tuner: Any) -> None:
        """Trains the trials that came nearest once more, twice as long."""
        self.notes.append(
            f"no trial held on the fold that was set aside: the best {_NEAREST} were trained twice as long"
        )
        tried: dict[str, Row] = {}
        for row in self._ranked(again=False):  # of trials that differ in their epochs alone the best one
            kind = {name: value for name, value in row["values"].items() if name != "epochs"}
            tried.setdefault(json.dumps(kind, sort_keys=True), row)
        for row in list(tried.values())[:_NEAREST]:
            self._run_one(bench, tuner, row["trial"] + AGAIN, row["values"], times=2)

    def _halve(self, bench: Bench, tuner: Any, verdict: Verdict, winner: Row) -> Row:
        """Looks between the winner and the next smaller trial, where that one held until it was verified.

        A smaller trial that was trained for less than the longest first gets as much; then the sizes are bisected.
        """
        smaller = [row for row in self._ranked(again=False) if row["score"] < winner["score"]]
        if not smaller:
            return winner
        longest = max(row["values"]["epochs"] for row in self.ledger.rows(again=False))
        trial, refused = smaller[-1]["trial"], smaller[-1]["values"]
        for _ in range(_HALVINGS):
            if tuner.clock.is_over or refused["channels"] == winner["values"]["channels"]:
                break
            share = math.sqrt(refused["channels"] * winner["values"]["channels"])
            is_short = refused["epochs"] < longest
            trial, values = trial + BETWEEN, {**refused, "epochs": longest}
            values["channels"] = refused["channels"] if is_short else round(share, 5)
            held = self._held(verdict, self._run_one(bench, tuner, trial, values))
            winner, refused = (held, refused) if held is not None else (winner, values)
        return winner

    def _run_one(self, bench: Bench, tuner: Any, trial: str, values: Row, *, times: int = 1) -> Row:
        """Runs a trial that no oracle proposed, or recalls it; returns its row."""
        hp = tuner.oracle.get_space()
        hp.values = dict(values)

        def figures(folder: Path) -> Row:
            network, made = tuner.hypermodel.build(hp)
            return bench.run(network, made, folder, times=times, deadline=tuner.clock.deadline)

        row = self.ledger.once(trial, values, figures)
        tuner.clock.saw(row)
        if self.options.watch is not None:
            self.options.watch(row, None)
        return row

    def _tuned(self, bench: Bench, tuner: Any, winner: Row | None) -> Tuned:
        able = self._ranked()
        if not able:
            reasons = "; ".join(sorted({row["reason"] for row in self.ledger.rows() if row["reason"]})[:3])
            raise ModelError(
                "No trial came to anything.",
                received=f"{len(self.ledger.rows())} trials: {reasons or 'the time was up'}",
                expected="at least one trial that trains and can be measured",
                fix="Widen the space or the target, or allow more trials or time.",
            )
        best = winner or min(able, key=lambda row: (row.get("metric_drop", 0.0), row["trial"]))
        folder = self.ledger.folder(best["trial"])
        file = folder / "model.tflite"
        return Tuned(
            model=self._load(folder / "model.keras"),
            trial=best["trial"],
            hyperparameters=_hyperparameters(best),
            trials=tuple({**row, **self.ledger.verdict(row["trial"])} for row in self.ledger.rows()),
            objective=self.objective.name,
            value=best["score"],
            target_met=winner is not None,
            litert_path=file if file.is_file() else None,
            tuner=tuner,
            notes=tuple(self.notes),
        )

    def _load(self, path: Path) -> keras.Model:
        from bigmodel.own_parts import custom_objects_of, has_lambda
        from bigmodel.training import compile_like

        own, safe_mode = custom_objects_of(self.model), not has_lambda(self.model)
        model = keras.models.load_model(path, own, compile=False, safe_mode=safe_mode)
        compile_like(model, self.model)
        return model


def _hyperparameters(row: Row) -> dict[str, Any]:
    """The values that were searched, and those that the space gave to every trial; not hyperband's own."""
    return {name: v for name, v in {**row["values"], **row["applied"]}.items() if not name.startswith("tuner/")}
