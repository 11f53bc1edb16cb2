"""The augmentation of a run: decided when the first step that trains asks for data, and kept in the journal."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import keras

from bigmodel.config import AugmentConfig
from bigmodel.data import Data
from bigmodel.data.augmentation import augment
from bigmodel.errors import ModelError
from bigmodel.run.journal import Journal
from bigmodel.run.plan import Plan
from bigmodel.run.progress import Stages
from bigmodel.training import choose_augmentation

Row = dict[str, Any]

_STEP, _ENTRY = "step augment", "augmentation"


@dataclasses.dataclass
class AugmentationStage:
    """What the steps of a run train on.

    Args:
        plan: The orders.
        data: The run's splits.
        journal: The run's journal.
        stages: Shows what goes on.
        seed: The run's seed.
    """

    plan: Plan
    data: Data
    journal: Journal
    stages: Stages
    seed: int

    def __post_init__(self) -> None:
        self._varied: Data | None = None

    def training_data(self, network: keras.Model) -> Data:
        """Returns the splits, with the train split varied as it was ordered or, with "auto", as was found to help.

        Args:
            network: The compiled network of the first step that trains: "auto" is measured on it, once.
        """
        if self.plan.augment is None:
            return self.data
        if self._varied is None:
            config, notes = self._chosen(network) if self.plan.augment == "auto" else (self.plan.augment, [])
            self._varied = augment(self.data, config, seed=self.seed, model=network) if config.transforms else self.data
            notes += [note for note in self._varied.notes if note not in self.data.notes]
            self.journal.once(_ENTRY, lambda: {"notes": notes})
        return self._varied

    def ordered_data(self, network: keras.Model) -> Data:
        """Returns what networks train on for which "auto" can't be measured, so that only an order counts.

        Untrained ones have no weights to start from. A search's trials lose most of their channels, and with them the
        capacity that variation asks for: on Fashion-MNIST, what helps 784-256-128-64-10 costs an eighth of it 0.9
        points (0.8429, 0.8517 without).
        """
        return self.data if self.plan.augment == "auto" else self.training_data(network)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader should know."""
        if self.plan.augment is None:
            return ()
        told = self.journal.recall(_ENTRY)  # of a run that goes on, the steps that trained may all be done
        if told is not None:
            return tuple(told["notes"])
        trained = "the whole network" if self.plan.augment == "auto" else "on the data"
        return (f"augment: no step trained {trained}, so that nothing was varied",)

    @property
    def steps(self) -> list[Row]:
        """What the report's list of steps says: the measurement, where there was one."""
        told = self.journal.recall(_STEP)
        return [] if told is None else [{key: value for key, value in told.items() if key != "notes"}]

    def _chosen(self, network: keras.Model) -> tuple[AugmentConfig, list[str]]:
        """What was found to help, and notes about it."""
        if self.data.validation is None:
            note = "augment='auto': nothing was varied, as there is no validation split to judge by"
            return AugmentConfig(()), [note]
        with self.stages.stage("augmentation") as stage:
            told = self.journal.once(_STEP, lambda: self._measured(network))
            stage.outcome = ", ".join(told["transforms"]) or "none"
        return AugmentConfig(tuple(told["transforms"])), list(told["notes"])

    def _measured(self, network: keras.Model) -> Row:
        started = time.perf_counter()
        row: Row = {"name": "augment", "transforms": [], "notes": []}
        try:
            choice = choose_augmentation(network, self.data, AugmentConfig(), train=self.plan.train, seed=self.seed)
        except ModelError as error:
            return {**row, "notes": [f"augment='auto': nothing was varied: {error.problem}"]}
        kept = list(choice.config.transforms)
        if choice.scores:
            row["metric_before"] = choice.scores["none"].metric
            row["metric_after"] = choice.scores[" + ".join(kept) or "none"].metric
        return {**row, "transforms": kept, "notes": list(choice.notes), "seconds": time.perf_counter() - started}
