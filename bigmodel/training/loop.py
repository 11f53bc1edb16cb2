"""The one training loop that every step uses."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
import warnings
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from bigmodel.config import TrainConfig
from bigmodel.data import Data
from bigmodel.evaluation.metric import primary_metric
from bigmodel.training.acceleration import choose_xla
from bigmodel.training.checkpoint import Checkpoint, path_of, run_of
from bigmodel.training.compilation import Compilation, peak_learning_rate
from bigmodel.training.distillation import Distillation
from bigmodel.training.memory import in_parts, is_out_of_memory, share_gpus
from bigmodel.training.placement import fed, placed, resolve_precision
from bigmodel.training.rates import SHARE_OF_COMPILED, cosine_by_epoch, warmup_cosine
from bigmodel.training.selection import BestWeights


@dataclasses.dataclass(frozen=True)
class TrainingResult:
    """What a training run did.

    Args:
        history: For each measure its value after each epoch, validation measures as `val_...`.
        epochs: Epochs that were trained, those before an interruption included.
        seconds: Wall time of this call.
        notes: What was chosen or happened on the way, for the report.
    """

    history: dict[str, list[float]]
    epochs: int
    seconds: float
    notes: tuple[str, ...]


def fit(
    model: keras.Model,
    data: Data,
    config: TrainConfig,
    *,
    epochs: int | None = None,
    learning_rate: float | None = None,
    teacher: keras.Model | None = None,
    distillation: float = 0.0,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    seed: int = 0,
    checkpoint: str | os.PathLike[str] | None = None,
    verbose: int = 0,
) -> TrainingResult:
    """Fine-tunes a model in place, and leaves it at its best epoch on the validation split, the start included.

    The data, the config and the teacher are not changed. The model is compiled afterwards as it was before. The
    learning rate warms up to a peak and falls to zero with a cosine. The same seed gives the same weights, and so does
    a run that was interrupted and goes on from `checkpoint`.

    A callback with an attribute `settled` (`MagnitudePruning`) keeps epochs, and the start, out of the comparison as
    long as it is false: a network that is still denser than asked for is better, but not what was asked for.

    Args:
        model: A compiled model; it belongs to the caller's step.
        data: Its `train` split is trained on; `validation` decides, and may be missing.
        config: How to train.
        epochs: Epochs in place of `config.epochs`.
        learning_rate: Its peak where `config.learning_rate` is `None`; `None`: a tenth of the compiled one.
        teacher: A model whose outputs are learned next to the labels, if they have a share.
        distillation: Their share at the start where `config.distillation` is `None`.
        callbacks: Callbacks for Keras' `fit`.
        seed: Decides the order of the data and the dropped units.
        checkpoint: Path prefix of the file from which an interrupted run goes on; `None`: none is written.
        verbose: As in Keras' `fit`.

    Raises:
        ModelError: The model is not compiled, or can't be replicated for a strategy.
        DirectoryError: The checkpoint belongs to another run.
    """
    choices = (config.learning_rate, learning_rate, SHARE_OF_COMPILED * peak_learning_rate(model))
    peak = next(rate for rate in choices if rate is not None)
    run = _Run(model, data, config, config.epochs if epochs is None else epochs, seed, peak)
    share = distillation if config.distillation is None else config.distillation
    learning = None if teacher is None or not share else Distillation(teacher, share)
    return run.train(list(callbacks), distillation=learning, checkpoint=checkpoint, verbose=verbose)


def pretrain(
    model: keras.Model,
    data: Data,
    config: TrainConfig,
    *,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    seed: int = 0,
    checkpoint: str | os.PathLike[str] | None = None,
    verbose: int = 0,
) -> TrainingResult:
    """Trains a model from the start, in place: `fit` for `config.pretrain_epochs` with the compiled learning rate.

    The optimizer's own learning rate or schedule is kept as the caller compiled it; `config.learning_rate` is for
    fine-tuning. Arguments, result and errors are those of `fit`.
    """
    run = _Run(model, data, config, config.pretrain_epochs, seed, None)
    return run.train(list(callbacks), distillation=None, checkpoint=checkpoint, verbose=verbose)


class _Clock(keras.callbacks.Callback):
    """Tells the epoch, which the order of the data depends on.

    TensorFlow never forgets the functions that a data set calls. So they read the epoch from a list, through which
    nothing of the training can be reached.
    """

    def __init__(self) -> None:
        super().__init__()
        self.face = [0]

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self.face[0] = epoch


class _Run:
    """One training run: what it was asked for, and what it has to tell."""

    def __init__(
        self, model: keras.Model, data: Data, config: TrainConfig, epochs: int, seed: int, peak: float | None
    ) -> None:
        self.model, self.data, self.config = model, data, config
        self.epochs, self.seed, self.peak = epochs, seed, peak
        self.compilation = Compilation.of(model)
        self.clock = _Clock()
        face = self.clock.face
        batches = data.train.batches(config.batch_size, shuffle=True, seed=seed, epoch=lambda: face[0])
        if epochs == 1 and int(batches.cardinality()) < 0:  # schedules have no epoch before, from which to learn it
            batches = batches.apply(tf.data.experimental.assert_cardinality(sum(1 for _ in batches)))
        self.whole = self.batches = batches
        self.validation = data.validation and data.validation.batches(config.batch_size)
        self.parts = 1  # of a batch that go through one after the other, where a whole one does not fit the memory
        self.xla: bool | None = None
        self.notes: list[str] = []

    def train(
        self,
        callbacks: list[keras.callbacks.Callback],
        *,
        distillation: Distillation | None,
        checkpoint: str | os.PathLike[str] | None,
        verbose: int,
    ) -> TrainingResult:
        started = time.perf_counter()
        start = [np.asarray(variable) for variable in self.model.variables]
        before = run_of(checkpoint) if checkpoint else {}
        self._split(before.get("parts", 1))
        while True:
            try:
                history = self._attempt(callbacks, before, distillation, checkpoint, verbose)
                break
            except Exception as error:  # TensorFlow and XLA raise different ones
                if not is_out_of_memory(error):
                    raise
            self._split(2 * self.parts)
            if checkpoint:  # the epochs before have accumulated nothing: they can't be gone on from in parts
                path_of(checkpoint).unlink(missing_ok=True)
            for variable, value in zip(self.model.variables, start, strict=True):
                variable.assign(value)
        if self.parts > 1:
            self.notes.append(
                f"a batch did not fit the memory: trained in {self.parts} parts with accumulated gradients"
            )
        epochs = len(next(iter(history.values()), []))
        return TrainingResult(history, epochs, time.perf_counter() - started, tuple(self.notes))

    def _attempt(
        self,
        callbacks: list[keras.callbacks.Callback],
        before: dict[str, Any],
        distillation: Distillation | None,
        checkpoint: str | os.PathLike[str] | None,
        verbose: int,
    ) -> dict[str, list[float]]:
        self.notes = list(share_gpus())
        precision = resolve_precision(self.config.precision)
        try:
            with placed(self.model, precision=precision, strategy=self.config.strategy) as trainee:
                if self.config.strategy is None:  # the clock decided it, so that a run that goes on takes it over
                    self.xla = before["xla"] if before else choose_xla(trainee, self.compilation, self.batches)
                self._describe(precision, distillation)
                by_epoch = self._compile(trainee)
                seed_random_layers(trainee, self.seed)
                ours = by_epoch if distillation is None else [*by_epoch, distillation]
                history = self._fit(trainee, [*callbacks, *ours], checkpoint, verbose)
        finally:
            if distillation is not None:
                distillation.release()
            self.compilation.apply(self.model)
        return history

    def _split(self, parts: int) -> None:
        if parts == self.parts:
            return
        self.parts = parts
        train, validation = self.data.train, self.data.validation
        self.batches = in_parts(self.whole, parts, train.size)
        if validation is not None:
            whole = validation.batches(self.config.batch_size)
            self.validation = in_parts(whole, min(parts, validation.size or parts), validation.size)

    def _steps(self) -> int | None:
        """Steps of the whole run, parts counted; `None` where a stream does not know its length."""
        steps = int(self.batches.cardinality())
        return steps * self.epochs if steps >= 0 else None

    def _compile(self, trainee: keras.Model) -> list[keras.callbacks.Callback]:
        steps = self._steps()
        known = steps is not None and self.peak is not None
        rate = warmup_cosine(self.peak, steps) if steps is not None and self.peak is not None else self.peak
        scope = self.config.strategy.scope() if self.config.strategy is not None else contextlib.nullcontext()
        with scope:
            self.compilation.apply(trainee, learning_rate=rate, parts=self.parts, jit=self.xla)
        if known or self.peak is None:
            return []
        return [keras.callbacks.LearningRateScheduler(cosine_by_epoch(self.peak, self.epochs))]

    def _fit(
        self,
        trainee: keras.Model,
        callbacks: list[keras.callbacks.Callback],
        checkpoint: str | os.PathLike[str] | None,
        verbose: int,
    ) -> dict[str, list[float]]:
        best = self._selection(trainee, callbacks)
        saver = checkpoint and Checkpoint(checkpoint, self._identity(trainee), best=best, callbacks=callbacks)
        done, stopped = saver.resume(trainee) if saver else (0, False)
        self.clock.face[0] = done
        with warnings.catch_warnings():
            # Keras says so of every stream whose length it learns when it ends.
            warnings.filterwarnings("ignore", message="Your input ran out of data")
            if done:
                self.notes.append(f"resumed after epoch {done}")
            elif best is not None and all(getattr(callback, "settled", True) for callback in callbacks):
                best.start = trainee.evaluate(self.validation, verbose=0, return_dict=True)
            history = trainee.fit(
                fed(self.batches, self.config.strategy),
                validation_data=self.validation,
                initial_epoch=self.epochs if stopped else done,
                epochs=self.epochs,
                shuffle=False,  # The split does it.
                callbacks=[self.clock, *callbacks, *filter(None, (best, saver))],
                verbose=verbose,
            ).history
        if best is not None and best.epoch is not None:
            self.notes.append(f"kept epoch {best.epoch} of {self.epochs}" if best.epoch else "kept the weights it had")
        values = saver.history if saver else history
        return {name: [float(value) for value in series] for name, series in values.items()}

    def _selection(self, trainee: keras.Model, callbacks: list[keras.callbacks.Callback]) -> BestWeights | None:
        if self.validation is None or self.epochs == 0:
            return None
        watched = [callback for callback in callbacks if hasattr(callback, "settled")]
        return BestWeights(
            primary_metric(trainee),
            patience=self.config.patience_of(self.epochs),
            is_comparable=lambda: all(callback.settled for callback in watched),
            samples=self.data.validation and self.data.validation.size,
        )

    def _identity(self, trainee: keras.Model) -> dict[str, Any]:
        return {
            "variables": [list(variable.shape) for variable in trainee.variables],
            "optimizer": type(trainee.optimizer).__name__,
            "learning_rate": self.peak,
            "epochs": self.epochs,
            "batch_size": self.config.batch_size,
            "patience": self.config.patience_of(self.epochs),
            "parts": self.parts,
            "xla": self.xla,
            "seed": self.seed,
            "samples": self.data.train.size,
        }

    def _describe(self, precision: str, distillation: Distillation | None) -> None:
        if precision != "float32":
            self.notes.append(f"trained in {precision}")
        if self.config.strategy is not None:
            self.notes.append(f"trained on {self.config.strategy.num_replicas_in_sync} replicas")
        if self.xla is not None:
            self.notes.append(f"trained {'with' if self.xla else 'without'} XLA, which was measured")
        if distillation is not None:
            self.notes.append(f"distilled from {distillation.teacher.name}")


def seed_random_layers(model: keras.Model, seed: int) -> None:
    """Sets the generators of dropout and other random layers, in place, to a state that depends on the seed alone."""
    states = [variable for variable in model.variables if variable.name == "seed_generator_state"]
    for position, state in enumerate(states):
        first = np.random.default_rng((seed, position)).integers(2**31)
        state.assign(np.asarray([first, 0]))
