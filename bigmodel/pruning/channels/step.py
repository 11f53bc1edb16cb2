"""Pruning channels: rank, remove, repair, fine-tune; in one round, or in rounds that stop before too much is lost."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras

from bigmodel.config import PruneConfig, TrainConfig
from bigmodel.data import Data, as_data
from bigmodel.errors import ModelError
from bigmodel.evaluation import evaluate_model, primary_metric
from bigmodel.pruning.channels.budget import choose_for_config
from bigmodel.pruning.channels.groups import ChannelMap, find_channels
from bigmodel.pruning.channels.ranking import score_channels
from bigmodel.pruning.channels.removal import remove_channels
from bigmodel.pruning.channels.repair import repair_channels
from bigmodel.training import SOFT_SHARE, compile_like, ensure_compiled, fit, peak_learning_rate

CALIBRATION = 1024
"""Samples that the ranking and the repair look at."""
ROUNDS = 4
"""Rounds of a removal with a threshold; each removes the same share of what is left."""


def prune_channels(
    model: keras.Model,
    data: Data | Any,
    config: PruneConfig,
    *,
    train: TrainConfig,
    seed: int = 0,
    verbose: int = 0,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    checkpoint: str | os.PathLike[str] | None = None,
) -> keras.Model:
    """Makes a smaller model without a share of the channels. The caller's model, data and configs are not changed.

    Channels are ranked and removed, the layers that read them are refitted by least squares, statistics of
    BatchNormalization are taken anew, and the result is fine-tuned with the whole model as its teacher. With
    `config.max_drop` this is done in rounds, and the last model within the threshold comes back.

    Args:
        model: A functional model, or a built Sequential one.
        data: Data to fine-tune on, in any form that `as_data` takes.
        config: What goes, how it is chosen, and when to stop.
        train: How to fine-tune; with `epochs=0` the repaired model comes back.
        seed: Same seed, same result.
        verbose: As in Keras' `fit`.
        callbacks: Further Keras callbacks.
        checkpoint: Path prefix from which an interrupted training goes on.

    Returns:
        A new functional model, compiled like the caller's.

    Raises:
        ModelError: The model has no graph of layers, or none of its channels can be removed.
        ArgumentError: A share, the criterion or the budget can't be used.
        DataError: The data does not fit the model.
    """
    model, _ = ensure_compiled(model, data)
    data = as_data(data, model=model, seed=seed, batch_size=train.batch_size)
    run = _Removal(model, data, train, seed, verbose, tuple(callbacks))
    if config.max_drop is None:
        return run.round(model, config, train.epochs, checkpoint)
    return run.rounds(config, checkpoint)


@dataclasses.dataclass(frozen=True)
class _Removal:
    """What all rounds of a removal share."""

    model: keras.Model
    data: Data
    train: TrainConfig
    seed: int
    verbose: int
    callbacks: tuple[keras.callbacks.Callback, ...]

    def round(
        self, model: keras.Model, config: PruneConfig, epochs: int, checkpoint: str | os.PathLike[str] | None
    ) -> keras.Model:
        """Removes channels of `model` once, repairs and fine-tunes."""
        channels = find_channels(model, where=config.where, exact=not config.normalized)
        _check(channels)
        assert self.data.calibration is not None
        calibration = self.data.calibration.sample(CALIBRATION, seed=self.seed)
        scores = score_channels(model, channels, config.criterion, data=calibration, seed=self.seed)
        sample, _, _ = calibration.sample(1).arrays()
        keep = choose_for_config(model, channels, scores, config, sample)
        smaller = remove_channels(model, keep, channels=channels)
        compile_like(smaller, self.model)
        repair_channels(model, smaller, channels, keep, calibration, samples=CALIBRATION, seed=self.seed)
        fit(
            smaller,
            self.data,
            self.train,
            epochs=epochs,
            learning_rate=peak_learning_rate(smaller),  # the widths changed: much has to be learned again
            teacher=self.model,
            distillation=SOFT_SHARE,
            callbacks=self.callbacks,
            seed=self.seed,
            checkpoint=checkpoint,
            verbose=self.verbose,
        )
        return smaller

    def rounds(self, config: PruneConfig, checkpoint: str | os.PathLike[str] | None) -> keras.Model:
        """Removes in rounds until the order is met or the metric falls below the threshold."""
        metric = primary_metric(self.model)
        split = self.data.validation or self.data.train
        reference = evaluate_model(self.model, split).metric
        best, epochs = self.model, max(1, self.train.epochs // ROUNDS) if self.train.epochs else 0
        for number in range(1, ROUNDS + 1):
            path = None if checkpoint is None else f"{Path(checkpoint)}-{number}"
            smaller = self.round(best, _part(config), epochs, path)
            if metric.drop(reference, evaluate_model(smaller, split).metric) > (config.max_drop or 0.0):
                break
            best = smaller
        if best is self.model:
            raise ModelError(
                "No channels can be removed within the threshold.",
                received=f"max_drop={config.max_drop}, broken in the first of {ROUNDS} rounds",
                expected=f"a removal that costs at most this much of the {metric.name}",
                fix="Allow more, order a smaller share, or train longer.",
            )
        return best


def _part(config: PruneConfig) -> PruneConfig:
    """One round's part of an order: after all rounds as much is left as the order leaves at once."""

    def part(left: float) -> float:
        return left ** (1 / ROUNDS)

    if config.budget is not None:
        budget = {name: part(share) for name, share in config.budget.items()}
        return dataclasses.replace(config, budget=budget, max_drop=None)
    shares = config.sparsity
    if isinstance(shares, (int, float)):
        return dataclasses.replace(config, sparsity=1 - part(1 - shares), max_drop=None)
    if callable(shares):
        return dataclasses.replace(config, sparsity=lambda group: 1 - part(1 - shares(group)), max_drop=None)
    return dataclasses.replace(
        config, sparsity={name: 1 - part(1 - share) for name, share in shares.items()}, max_drop=None
    )


def _check(channels: ChannelMap) -> None:
    if not channels.groups:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in list(channels.pinned.items())[:5])
        raise ModelError(
            "No channels can be removed from this model.",
            received=reasons or "a model without layers that make channels",
            expected="a hidden layer whose channels can be followed to all layers that read them",
            fix="Pass rules for layers of your own to `find_channels`, or prune single weights.",
        )
