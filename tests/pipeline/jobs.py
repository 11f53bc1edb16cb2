"""The jobs of these tests: a model and data each, and how the records of two runs are compared."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

import bigmodel as bm

# Pruning, and then quantization-aware training: after two epochs of pruning the file is not as good as the float one.
ORDERS: dict[str, Any] = {
    "prune": 0.8,
    "quantize": 8,
    "target": bm.Target(optimize="size"),
    "train": bm.TrainConfig(epochs=2, batch_size=64),
}


def shares(hp: Any) -> dict[str, Any]:
    """A space of two values, one with a condition."""
    values = {"bits": hp.Choice("bits", [8, 4]), "channels": hp.Float("channels", 0.3, 0.9)}
    with hp.conditional_scope("bits", [4]):
        values["clipping"] = hp.Choice("clipping", ["min_max", "mse"])
    return values


# A search whose trials depend on what earlier ones came to: a bisection, random ones up to nine, a Gaussian process.
SEARCH: dict[str, Any] = {
    "augment": None,
    "tune": bm.TuneConfig(11, space=shares),
    "target": bm.Target(max_drop=0.05, optimize="size"),
    "train": bm.TrainConfig(epochs=2, batch_size=128),
}
JOBS = {"steps": ORDERS, "search": SEARCH}
_CLOCKS = ("seconds", "seconds_outside", "latency_ms", "latency_p95_ms", "slowdown")


def digits_data() -> bm.Data:
    """The embedded digits as rows of 64 values in 0..1: train and test."""
    (x, y), (x_test, y_test) = bm.data.load_digits()
    x, x_test = (images.reshape(-1, 64).astype("float32") / 16 for images in (x, x_test))
    return bm.Data(train=(x, y), test=(x_test, y_test))


def digits_model() -> keras.Model:
    """A small network for them, not trained."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.layers.Input((64,), name="pixels"),
            keras.layers.Dense(48, activation="relu", name="hidden"),
            keras.layers.Dropout(0.1, name="dropout"),
            keras.layers.Dense(10, name="digit"),
        ],
        name="digits",
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.Adam(5e-3), loss=loss, metrics=["accuracy"])
    return model


def comparable(report: Any) -> Any:
    """A record without what clocks tell. Its reasons must not speak of latency: rank by size."""
    return {**_without_clocks(report.to_dict()), "target": report.to_dict()["target"]}


def _without_clocks(part: Any) -> Any:
    if isinstance(part, list):
        return [_without_clocks(one) for one in part]
    if isinstance(part, dict):
        return {key: _without_clocks(one) for key, one in part.items() if key not in _CLOCKS}
    return part


def state(model: keras.Model) -> list[Any]:
    """All of a model that a run could change."""
    optimizer = model.optimizer.variables if model.compiled else []
    weights = [np.asarray(variable).tobytes() for variable in (*model.variables, *optimizer)]
    return [weights, model.compiled, model.trainable, [(v.path, v.constraint, v.trainable) for v in model.variables]]


def accuracy(scores: np.ndarray, labels: Any) -> float:
    """Share of rows whose largest score is the label's."""
    return float(np.mean(np.argmax(scores, axis=-1) == np.asarray(labels).reshape(-1)))


def main(job: str, model: str, directory: str, where: str) -> None:
    """Runs orders in a directory, and kills this process where the text says: "epoch 1 of prune", "file 2"."""
    what, number, *rest = where.split(" ") if where else ("nothing", "0")
    count = int(number)

    def strike() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    callbacks: list[keras.callbacks.Callback] = []
    if what == "epoch":
        callbacks.append(Strikes(count, rest[-1], strike))
    elif what != "nothing":
        target, name = POINTS[what]
        strike_at_call(target, name, count, strike)
    data = digits_data()
    bm.compress_and_tune(
        keras.models.load_model(model), data, **JOBS[job], directory=directory, callbacks=callbacks, verbose=0
    )


class Strikes(keras.callbacks.Callback):
    """Strikes in the middle of an epoch of a step: "prune", or "aware"; or of a training by its number: "5"."""

    def __init__(self, epoch: int, step: str, strike: Callable[[], None]) -> None:
        super().__init__()
        self.epoch, self.step, self.strike = epoch, step, strike
        self.now = self.trainings = -1

    def on_train_begin(self, logs: Any = None) -> None:
        self.trainings += 1

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.now = epoch

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        is_aware = any(type(layer).__name__ == "Quantized" for layer in self.model.layers)
        is_step = self.step == ("aware" if is_aware else "prune") or self.step == str(self.trainings)
        if self.now == self.epoch and batch == 7 and is_step:
            self.strike()


# Functions of a run in which it can be struck, by a word: where the name is looked up, and the name.
POINTS = {
    "conversion": ("bigmodel.export.child", "_Child._wait"),
    "measurement": ("bigmodel.run.candidates", "inspect_file"),
    "entry": ("bigmodel.run.journal", "_append"),
    "race": ("bigmodel.run.competition", "measure_latency"),
    "file": ("bigmodel.run.journal", "os.replace"),
    "augmentation": ("bigmodel.training.judgement", "_Judge.score"),
    "trial": ("bigmodel.tuning.ledger", "Ledger.once"),
    "proposal": ("bigmodel.tuning.oracles", "WarmOracle.populate_space"),
    "model": ("bigmodel.tuning.trial", "Bench._measured"),
    "verdict": ("bigmodel.tuning.holdout", "Verdict.figures"),
}


def strike_at_call(module: str, name: str, count: int, strike: Callable[[], None]) -> None:
    """Lets a function work `count` times and strikes right after the next time."""
    holder = importlib.import_module(module)
    *path, name = name.split(".")
    for part in path:
        holder = getattr(holder, part)
    work = getattr(holder, name)
    calls = iter(range(10**9))

    def counted(*arguments: Any, **options: Any) -> Any:
        done = work(*arguments, **options)
        if next(calls) == count:
            strike()
        return done

    setattr(holder, name, counted)


if __name__ == "__main__":
    main(*sys.argv[1:])
