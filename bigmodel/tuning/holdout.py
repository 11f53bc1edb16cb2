"""The fold of the validation data that takes no part in a search, and the verdict on it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras

from bigmodel.data import Data, Split
from bigmodel.evaluation import evaluate_file, evaluate_model
from bigmodel.tuning.objective import Objective, metric_value
from bigmodel.tuning.trial import Bench, Figures, judged


def set_aside(data: Data, fraction: float, seed: int) -> tuple[Data, Split | None]:
    """Cuts a fold from the validation split. The data is not changed.

    Args:
        data: Data from `as_data`.
        fraction: Share that is cut; 0: none is.
        seed: Seed of the cut; classes keep their shares.

    Returns:
        The data with the rest of the validation split, and the fold; `None` where there is nothing to cut it from.
    """
    split: Split | None = data.validation
    if split is None or fraction == 0 or (split.size is not None and split.size < 2):
        return data, None
    kept, cut, _ = split.source.cut(fraction, seed)
    if cut.size == 0 or kept.size == 0:
        return data, None
    rest = dataclasses.replace(split, source=kept)
    return dataclasses.replace(data, validation=rest), dataclasses.replace(split, source=cut)


class Verdict:
    """Judges trials on the fold that was set aside.

    Args:
        bench: What the trials share.
        fold: The fold; `None`: there is none, and the search's own figures are believed.
    """

    def __init__(self, bench: Bench, fold: Split | None) -> None:
        self.bench = bench
        self.fold = None if fold is None else judged(Data(train=None, validation=fold), bench.seed)
        self._reference: float | None = None

    def figures(self, folder: Path) -> Figures:
        """Returns what a trial's model, or file where there is one, reaches on the fold.

        Args:
            folder: The trial's.
        """
        if self.fold is None:
            return {}
        path = folder / "model.tflite"
        if path.is_file():
            answers = evaluate_file(path, self.fold, like=self.bench.model, **self.bench.runtime)
        else:
            model = keras.models.load_model(folder / "model.keras", compile=False)
            answers = evaluate_model(model, self.fold, like=self.bench.model)
        objective = self.bench.objective
        figures = {"holdout_metric": answers.metric, "holdout_samples": answers.samples}
        if objective.is_bounded:
            return {**figures, "holdout_drop": self.bench.metric.drop(self.reference, answers.metric)}
        return {**figures, "holdout_objective": metric_value(objective.name, answers)}

    @property
    def reference(self) -> float:
        """The float file's metric on the fold."""
        if self._reference is None:
            assert self.fold is not None
            path, bench = self.bench.baseline["path"], self.bench
            self._reference = evaluate_file(path, self.fold, like=bench.model, **bench.runtime).metric
        return self._reference

    def holds(self, figures: Figures) -> bool:
        """Says whether a trial keeps the bound on the fold too."""
        return figures.get("holdout_drop", 0.0) <= self.bench.objective.target.max_drop + 1e-9


def within(rows: list[Any], objective: Objective) -> Iterator[Any]:
    """The rows of ranked trials that keep the bounds on the search's own samples."""
    return (row for row in rows if objective.is_within(row["score"]))
