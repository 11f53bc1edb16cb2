"""What data is worth: the validation metric after short trainings that differ in nothing but the data.

`choose_augmentation` drops the transforms that hurt, `judge_synthesis` says whether synthetic samples help.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Final

import keras
import numpy as np

from bigmodel.config import AugmentConfig, TrainConfig
from bigmodel.data import Data, Split
from bigmodel.data.augmentation import CANDIDATES, augment, kind_of
from bigmodel.errors import DataError
from bigmodel.evaluation.metric import Metric, primary_metric
from bigmodel.training.cloning import clone_uncompiled
from bigmodel.training.compilation import compile_like, peak_learning_rate
from bigmodel.training.loop import seed_random_layers
from bigmodel.training.rates import warmup_cosine

SAMPLES: Final = 2048
"""Most samples of train, and of validation, that a judgement reads."""
_FEWEST_STEPS: Final = 48
_MOST_EPOCHS: Final = 6
_LOSS_RISE: Final = 0.05
"""A validation loss that is higher by less than this share is as good: variety costs at first and pays late."""


@dataclasses.dataclass(frozen=True)
class Score:
    """What a short training led to on the validation sample.

    Args:
        metric: The metric that decides.
        loss: The loss.
    """

    metric: float
    loss: float

    def is_worse(self, other: Score, metric: Metric) -> bool:
        """Says whether this is worse than another one: a worse metric, and a loss that is clearly higher."""
        rise = self.loss - other.loss > _LOSS_RISE * abs(other.loss)
        return (rise or math.isnan(self.loss)) and metric.drop(other.metric, self.metric) > 0


@dataclasses.dataclass(frozen=True)
class AugmentationChoice:
    """Which transforms "auto" keeps.

    Args:
        config: The config with the names of what is kept.
        scores: What each short training led to, by the names of its transforms, joined by " + "; "none" is without.
        notes: What was kept and dropped, and why.
    """

    config: AugmentConfig
    scores: Mapping[str, Score]
    notes: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class SynthesisJudgement:
    """What synthetic samples do to the validation metric.

    Args:
        plain: After training on the real samples alone.
        synthetic: After as many steps on the real and the synthetic ones.
        helps: Whether the metric rose, or stayed with a lower loss.
        note: The same in words.
    """

    plain: Score
    synthetic: Score
    helps: bool
    note: str


class _Judge:
    """One model that is trained again and again from the caller's weights, and traced once."""

    def __init__(self, model: keras.Model, data: Data, train: TrainConfig, seed: int) -> None:
        if data.validation is None:
            raise DataError(
                "There is nothing to judge by.",
                received="no validation split",
                expected="validation data, on which a short training is measured",
                fix="Pass bm.Data(train=..., validation=...), or validation_fraction above 0.",
            )
        size = data.train.size
        samples = SAMPLES if size is None else min(SAMPLES, size)
        steps = max(1, samples // train.batch_size)
        self.epochs = min(_MOST_EPOCHS, max(2, math.ceil(_FEWEST_STEPS / steps)))
        self.seed, self.samples, self.batch_size = seed, samples, train.batch_size
        self.validation = data.validation.sample(SAMPLES, seed=seed).batches(train.batch_size)
        self.metric = primary_metric(model)
        self.model = clone_uncompiled(model)
        peak = train.learning_rate if train.learning_rate is not None else peak_learning_rate(model)
        rate = warmup_cosine(peak, self.epochs * math.ceil(samples / train.batch_size))
        compile_like(self.model, model, learning_rate=rate)
        seed_random_layers(self.model, seed)
        self.model.optimizer.build(self.model.trainable_variables)
        self._start = [(variable, np.array(variable)) for variable in self._variables()]

    def _variables(self) -> list[Any]:
        return [*self.model.variables, *self.model.optimizer.variables]

    def score(self, data: Data, config: AugmentConfig | None = None) -> Score:
        """Trains from the caller's weights on a sample of train, augmented if asked for."""
        for variable, value in self._start:
            variable.assign(value)
        sample: Split = data.train.sample(self.samples, seed=self.seed)
        if config is not None:
            own = Data(train=sample, validation=data.validation, calibration=data.calibration)
            sample = augment(own, config, seed=self.seed, model=self.model).train
        self.model.fit(
            sample.batches(self.batch_size, shuffle=True, seed=self.seed), epochs=self.epochs, shuffle=False, verbose=0
        )
        measured = self.model.evaluate(self.validation, verbose=0, return_dict=True)
        names = [name for name in measured if name == self.metric.name or name.endswith("_" + self.metric.name)]
        return Score(float(measured[names[0]]), float(measured["loss"]))


def choose_augmentation(
    model: keras.Model, data: Data, config: AugmentConfig, *, train: TrainConfig | None = None, seed: int = 0
) -> AugmentationChoice:
    """Drops from "auto" what hurts on the validation split. Nothing that the caller passes is changed.

    Each transform for the data's kind is tried alone: a few epochs on a sample, from the caller's weights, against the
    same training without it. It is dropped if the validation metric is worse and the loss clearly higher. While
    what is left hurts together, the half with the lower losses stays. The number of steps is bounded; the clock decides
    nothing.

    Args:
        model: A compiled model.
        data: Splits from `as_data`, with validation.
        config: The order; transforms that are named are kept without a measurement.
        train: Batch size and learning rate; `None`: the defaults.
        seed: Same seed, same choice.

    Raises:
        DataError: There is no validation split.
        ModelError: The model can't be cloned.
    """
    if config.transforms != "auto":
        return AugmentationChoice(config, {}, ())
    kinds = kind_of(data, model)
    names = list(dict.fromkeys(name for kind in kinds if kind is not None for name in CANDIDATES[kind]))
    if not data.train.has_labels:
        names = [name for name in names if name != "mixup"]
    if not names:
        return AugmentationChoice(dataclasses.replace(config, transforms=()), {}, ("augmentation: none fits the data",))
    judge = _Judge(model, data, train or TrainConfig(), seed)
    none = judge.score(data)
    scores = {"none": none}
    for name in names:
        scores[name] = judge.score(data, dataclasses.replace(config, transforms=(name,)))
    kept = tuple(name for name in names if not scores[name].is_worse(none, judge.metric))
    while len(kept) > 1:
        together = " + ".join(kept)
        scores[together] = judge.score(data, dataclasses.replace(config, transforms=kept))
        if not scores[together].is_worse(none, judge.metric):
            break
        better = sorted(kept, key=lambda name: scores[name].loss)[: len(kept) // 2]
        kept = tuple(name for name in kept if name in better)
    notes = _notes(names, kept, scores, judge.metric)
    return AugmentationChoice(dataclasses.replace(config, transforms=kept), scores, notes)


def judge_synthesis(
    model: keras.Model, data: Data, synthetic: Data, *, train: TrainConfig | None = None, seed: int = 0
) -> SynthesisJudgement:
    """Says what synthetic samples do to the validation metric. Nothing that the caller passes is changed.

    Two short trainings from the caller's weights take as many steps of as many samples, once of the real data alone
    and once of the data with its synthetic share.

    Args:
        model: A compiled model.
        data: The real splits, with validation.
        synthetic: What `synthesize` made of them.
        train: Batch size and learning rate; `None`: the defaults.
        seed: Same seed, same judgement.

    Raises:
        DataError: There is no validation split.
        ModelError: The model can't be cloned.
    """
    judge = _Judge(model, data, train or TrainConfig(), seed)
    plain, mixed = judge.score(data), judge.score(synthetic)
    better = judge.metric.is_better(mixed.metric, plain.metric)
    helps = better or (mixed.metric == plain.metric and mixed.loss < plain.loss)
    note = (
        f"synthetic samples {'help' if helps else 'do not help'}: validation {judge.metric.name} {plain.metric:.4f} "
        f"without, {mixed.metric:.4f} with them"
    )
    return SynthesisJudgement(plain, mixed, helps, note)


def _notes(names: list[str], kept: tuple[str, ...], scores: Mapping[str, Score], metric: Metric) -> tuple[str, ...]:
    without = scores["none"]
    notes = [f"augmentation: {', '.join(kept) or 'none'} kept of {', '.join(names)}"]
    for name in names:
        if name not in kept:
            own = scores[name]
            alone = "" if own.is_worse(without, metric) else "; it hurts together with the others"
            notes.append(
                f"augmentation: {name} dropped, validation {metric.name} {without.metric:.4f} without it and "
                f"{own.metric:.4f} with it, loss {without.loss:.4f} and {own.loss:.4f}{alone}"
            )
    return tuple(notes)
