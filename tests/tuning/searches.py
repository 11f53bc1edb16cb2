"""Networks, spaces and a small search; processes of their own can import them."""

from __future__ import annotations

import dataclasses
import os
import signal
from pathlib import Path
from typing import Any

import keras

from bigmodel.config import Target, TrainConfig, TuneConfig
from bigmodel.data import Data
from bigmodel.tuning.search import Options, Tuned, tune_model


def build(hp: Any) -> keras.Model:
    model = keras.Sequential(
        [
            keras.Input((8,)),
            keras.layers.Dense(hp.Int("width", 2, 16), activation="relu"),
            keras.layers.Dense(2, activation="softmax"),
        ]
    )
    rate = hp.Float("rate", 1e-4, 1e-1, sampling="log")
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def rates(hp: Any) -> dict[str, Any]:
    return {"learning_rate": hp.Choice("learning_rate", [1e-3, 1e-2, 3e-2])}


def network(width: int = 24, rate: float = 0.01) -> keras.Model:
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((8,)),
            keras.layers.Dense(width, activation="relu", name="hidden"),
            keras.layers.Dense(2, activation="softmax", name="head"),
        ]
    )
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


TRAIN = TrainConfig(epochs=1, batch_size=64)


def search(model: keras.Model, data: Data, config: TuneConfig, directory: Path, **changes: Any) -> Tuned:
    """A search with what the tests share."""
    options = dataclasses.replace(changes.pop("options", Options()), baseline=changes.pop("baseline", None))
    settings = {"target": Target(max_drop=0.05, optimize="size"), "train": TRAIN, "seed": 0, **changes}
    return tune_model(model, data, config, directory=directory, options=options, **settings)


def build_or_die(hp: Any) -> keras.Model:
    """Kills its process where the network would be wide; the default, with which a space is declared, is not."""
    if hp.Int("width", 2, 16) >= int(os.environ["LOSE_WIDTH_FROM"]):
        os.kill(os.getpid(), signal.SIGKILL)
    return build(hp)
