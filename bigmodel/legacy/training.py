"""The training of tf_keras networks: the loop of `bigmodel.training`, in the words of Keras 2."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np

from bigmodel.config import TrainConfig
from bigmodel.data import Data
from bigmodel.errors import ArgumentError
from bigmodel.evaluation import evaluate_model, primary_metric
from bigmodel.legacy.compilation import training_settings
from bigmodel.legacy.loading import load_tf_keras
from bigmodel.legacy.shell import shell
from bigmodel.training import peak_learning_rate
from bigmodel.training.rates import cosine_by_epoch


def check_training(config: TrainConfig, epochs: int) -> None:
    """Checks that a config can be kept by tf_keras and its toolkit.

    Raises:
        ArgumentError: It asks for reduced precision, a strategy, distillation, or no epochs.
    """
    if config.strategy is not None or config.precision not in ("auto", "float32") or config.distillation:
        ordered = ("precision", "strategy", "distillation")
        raise ArgumentError(
            "A tf_keras model can't be trained so.",
            received=", ".join(f"{name}={getattr(config, name)!r}" for name in ordered),
            expected="precision 'auto' or 'float32', no strategy and no distillation",
            fix="Leave them out, or move the model to Keras 3 with bm.from_legacy(model).",
        )
    if epochs == 0:
        raise ArgumentError(
            "The toolkit prunes and quantizes while it trains.",
            received="TrainConfig(epochs=0) for a tf_keras model",
            expected="at least one epoch",
            fix="Pass train=bm.TrainConfig(epochs=5), or move the model to Keras 3 first: bm.from_legacy(model).",
        )


def fit(
    network: Any,
    like: keras.Model,
    data: Data,
    config: TrainConfig,
    *,
    epochs: int,
    share: float | None,
    callbacks: Sequence[Any] = (),
    settled: Callable[[], bool] = lambda: True,
    seed: int = 0,
    verbose: int = 0,
) -> None:
    """Trains a tf_keras network in place, and leaves it at its best epoch on the validation split.

    Args:
        network: The network; it belongs to the caller's step.
        like: The compiled shell whose loss, optimizer and metric count.
        data: Data from `as_data`.
        config: How to train.
        epochs: How long.
        share: Peak of the learning rate as a share of the compiled one, from which it falls with a cosine; `None`: the
            compiled rate or schedule itself.
        callbacks: Callbacks of tf_keras or Keras 3.
        settled: Whether the network is what was ordered; epochs before are not compared.
        seed: Decides the order of the data and the dropped units.
        verbose: As in Keras' `fit`.

    Raises:
        ArgumentError: The config can't be kept.
    """
    check_training(config, epochs)
    keras2 = load_tf_keras()
    peak = None if share is None else config.learning_rate or share * peak_learning_rate(like)
    network.compile(**training_settings(like, learning_rate=peak))
    schedule = [] if peak is None else [keras2.callbacks.LearningRateScheduler(cosine_by_epoch(peak, epochs))]
    best = _best_epoch(network, like, data, config.patience_of(epochs), settled)
    with _seeded(seed):
        network.fit(
            data.train.batches(config.batch_size, shuffle=True, seed=seed),
            epochs=epochs,
            verbose=verbose,
            callbacks=[*schedule, *map(_forwarded, callbacks), *best],
        )


def _best_epoch(network: Any, like: keras.Model, data: Data, patience: int, settled: Callable[[], bool]) -> list[Any]:
    """A callback that keeps the weights of the best comparable epoch; none without a validation split."""
    if data.validation is None:
        return []
    metric, measured = primary_metric(like), shell(network, like=like)

    class BestEpoch(load_tf_keras().callbacks.Callback):  # type: ignore[misc]
        def on_train_begin(self, logs: Any = None) -> None:
            self.best: tuple[float, list[np.ndarray]] | None = None
            self.worse = 0
            if settled():
                self.compare()

        def compare(self) -> None:
            value = evaluate_model(measured, data.validation, like=like).metric
            if self.best is None or metric.is_better(value, self.best[0]):
                self.best, self.worse = (value, network.get_weights()), 0
            else:
                self.worse += 1

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            if settled():
                self.compare()
                self.model.stop_training = self.worse >= patience

        def on_train_end(self, logs: Any = None) -> None:
            if self.best is not None:
                network.set_weights(self.best[1])

    return [BestEpoch()]


def _forwarded(callback: Any) -> Any:
    """A callback of either Keras as one of tf_keras."""
    keras2 = load_tf_keras()
    if isinstance(callback, keras2.callbacks.Callback):
        return callback

    def forward(name: str) -> Callable[..., Any]:
        return lambda _, *args: getattr(callback, name)(*args)

    names = [name for name in dir(keras2.callbacks.Callback) if name.startswith(("on_", "set_"))]
    return type("Forwarded", (keras2.callbacks.Callback,), {name: forward(name) for name in names})()


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seeds what tf_keras draws from, and gives Python and NumPy their states back."""
    python, numpy = random.getstate(), np.random.get_state()
    load_tf_keras().utils.set_random_seed(seed)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
