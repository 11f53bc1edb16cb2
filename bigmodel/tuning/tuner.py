"""KerasTuner's tuner with trials of ours. Only functions import this module: it loads KerasTuner."""

from __future__ import annotations

import contextlib
import gc
import io
import time
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import keras
import keras_tuner
from keras_tuner import engine

from bigmodel.errors import ConversionError, summary
from bigmodel.training.hparams import write_hparams
from bigmodel.tuning.clock import Clock
from bigmodel.tuning.ledger import MODELS_KEPT, Ledger, Row
from bigmodel.tuning.objective import Objective
from bigmodel.tuning.settings import seeded
from bigmodel.tuning.space import Space
from bigmodel.tuning.trial import Bench

Run = Callable[[Any, Mapping[str, Any], Path, float | None], Mapping[str, Any]]


class Declared(keras_tuner.HyperModel):
    """What a trial is made of: the caller's `build(hp)`, and the space of values.

    Args:
        build: A function or a `HyperModel`; `None`: the trial starts from the bench's model.
        space: `hp -> values`.
        seed: Of the weights that `build` draws.
    """

    def __init__(self, build: Any, space: Space, seed: int) -> None:
        super().__init__()
        self._make = build.build if hasattr(build, "build") else build
        self._space, self._seed = space, seed

    def build(self, hp: Any) -> tuple[keras.Model | None, dict[str, Any]]:
        """Returns the network, or `None`, and the values."""
        network = None
        if self._make is not None:
            with seeded(self._seed):
                network = self._make(hp)
        return network, self.values(hp)

    def values(self, hp: Any) -> dict[str, Any]:
        """Returns the values alone."""
        return dict(self._space(hp))


class TrialTuner(engine.base_tuner.BaseTuner):
    """Runs trials of ours under an oracle of KerasTuner; `results_summary()` and the rest work as documented there.

    Args:
        oracle: Who proposes values.
        declared: What trials are made of.
        bench: Runs them.
        ledger: Keeps what they came to.
        clock: Says when they have to end.
        watch: Called after each trial with its row and the best one so far.
        logs: Directory for TensorBoard's HParams dashboard; `None`: none is written.
    """

    def __init__(
        self,
        oracle: Any,
        declared: Declared,
        bench: Bench,
        ledger: Ledger,
        clock: Clock,
        watch: Callable[[Row, Row | None], Any] | None = None,
        logs: str | None = None,
    ) -> None:
        self.bench, self.ledger, self.clock, self.watch, self.logs = bench, ledger, clock, watch, logs
        oracle.verbose = 0
        with contextlib.redirect_stdout(io.StringIO()):  # KerasTuner prints that it goes on
            super().__init__(
                oracle, declared, directory=str(ledger.directory.parent), project_name=ledger.directory.name
            )

    def run_trial(self, trial: Any, *fit_args: Any, **fit_kwargs: Any) -> dict[str, float]:
        """Runs one trial in this process, or recalls it, and returns its score."""
        row = self.ledger.once(trial.trial_id, _values(trial), lambda folder: self._figures(trial, folder))
        return self._told(row)

    def _figures(self, trial: Any, folder: Path) -> dict[str, Any]:
        started = time.monotonic()
        try:
            network, values = self.hypermodel.build(trial.hyperparameters)
            return self.bench.run(network, {**values, **_rounds(trial)}, folder, deadline=self.clock.deadline)
        except Exception as error:  # the caller's build, Keras and TensorFlow raise what they like
            return failed(error, self.bench.objective, time.monotonic() - started)
        finally:
            gc.collect()  # models hold each other in circles, with all that was traced for them

    def _told(self, row: Row) -> dict[str, float]:
        self.clock.saw(row)
        rows = ranked(self.ledger.rows(again=False), self.bench.objective)
        if not _has_rounds(row):
            self.ledger.keep_models([one["trial"] for one in rows[:MODELS_KEPT]])
        if self.logs is not None:
            scalars = {name: row[name] for name in ("score", "metric", "size_bytes") if row.get(name) is not None}
            write_hparams(self.logs, f"trial_{row['trial']}", row["values"], scalars)
        if self.watch is not None:
            self.watch(row, rows[0] if rows else None)
        if row["score"] is None:
            raise keras_tuner.errors.FailedTrialError(row["reason"])
        return {"score": row["score"]}

    def search_parallel(self, run: Run, processes: int) -> None:
        """Searches with several trials at a time.

        Args:
            run: Runs a trial in a process of its own, as `Workers.run` does.
            processes: How many at a time.
        """
        ongoing: dict[Future[Row], Any] = {}
        names = [f"tuner{number}" for number in range(processes)]
        owners: dict[Any, str] = {}
        with ThreadPoolExecutor(processes) as pool:
            while True:
                stopped = False
                for name in names:
                    if name in owners.values():
                        continue
                    trial = self.oracle.create_trial(name)
                    if trial.status == "RUNNING":
                        future = pool.submit(self._row, trial, run)
                        ongoing[future], owners[future] = trial, name
                    stopped = stopped or trial.status == "STOPPED"
                if not ongoing:
                    if stopped:
                        return
                    continue
                for future in wait(ongoing, return_when=FIRST_COMPLETED).done:
                    trial = ongoing.pop(future)
                    owners.pop(future)
                    self._end(trial, future.result())

    def _row(self, trial: Any, run: Run) -> Row:
        def figures(folder: Path) -> Mapping[str, Any]:
            started = time.monotonic()
            try:
                values = {**self.hypermodel.values(trial.hyperparameters), **_rounds(trial)}
                return run(trial.hyperparameters, values, folder, self.clock.deadline)
            except ConversionError as error:  # the process was lost, and with it this trial, but no other
                return failed(error, self.bench.objective, time.monotonic() - started)

        return self.ledger.once(trial.trial_id, _values(trial), figures)

    def _end(self, trial: Any, row: Row) -> None:
        try:
            self.oracle.update_trial(trial.trial_id, self._told(row))
            trial.status = "COMPLETED"
        except keras_tuner.errors.FailedTrialError as error:
            trial.status, trial.message = "FAILED", str(error)
        self.on_trial_end(trial)


def forget(directory: Path) -> None:
    """Lets a search in this process start from its first trial again, instead of where KerasTuner left it.

    What the ledger has is not run again. But KerasTuner's oracles come back without the state of their random numbers,
    and can't read what they were writing when the process was killed; asked again for each trial, they propose the
    same ones. Chiefs with workers, whose trials end in an order of their own, keep their state.

    Args:
        directory: The search's.
    """
    (directory / "tuner0.json").unlink(missing_ok=True)


def failed(error: Exception, objective: Objective, seconds: float) -> dict[str, Any]:
    """Returns the figures of a trial that could not be carried out."""
    reason = " ".join(filter(None, [getattr(error, "problem", ""), getattr(error, "received", "")]))
    score = objective.worst if objective.is_bounded else None
    return {
        "status": "failed",
        "reason": reason or summary(error),
        "score": score,
        "seconds": seconds,
        "seconds_outside": 0.0,
    }


def ranked(rows: list[Row], objective: Objective) -> list[Row]:
    """Returns the rows that have a network and a score, the best first; equal ones in the order of their trials."""
    able = [row for row in rows if row["status"] == "done" and row["score"] is not None]
    sign = 1 if objective.direction == "min" else -1
    return sorted(able, key=lambda row: (sign * row["score"], row["trial"]))


def _values(trial: Any) -> dict[str, Any]:
    return dict(trial.hyperparameters.values)


def _rounds(trial: Any) -> dict[str, Any]:
    """Hyperband's order of epochs, where there is one."""
    epochs = trial.hyperparameters.values.get("tuner/epochs")
    return {} if epochs is None else {"epochs": epochs}


def _has_rounds(row: Row) -> bool:
    return "tuner/epochs" in row["values"]
