"""The values of a trial, applied: to a network before it trains, and to the configs of the steps."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import random
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np

from bigmodel.config import AugmentConfig, PruneConfig, QuantizeConfig, TrainConfig
from bigmodel.data import Data
from bigmodel.data.augmentation import augment
from bigmodel.errors import ArgumentError, ModelError, describe
from bigmodel.training import clone, fit, pretrain
from bigmodel.training.compilation import Compilation
from bigmodel.training.initialization import initialize
from bigmodel.training.regularization import regularize
from bigmodel.tuning.space import TRAINING
from bigmodel.tuning.widths import shares_that_go

_SLOTS = {
    "bits": (32, 16, 8, 4, 2, 1),
    "activations": ("dynamic", "static", "float"),
    "schedule": ("cosine", "constant"),
}


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draws what Keras draws from a seed; Python's and NumPy's own states are given back."""
    state, array_state = random.getstate(), np.random.get_state()
    keras.utils.set_random_seed(seed)
    try:
        yield
    finally:
        random.setstate(state)
        np.random.set_state(array_state)


def check_values(values: Mapping[str, Any]) -> None:
    """Checks the values that have a few forms only; the others are checked by the configs that they go into.

    Raises:
        ArgumentError: A value is none of them.
    """
    for name, known in _SLOTS.items():
        if name in values and values[name] not in known:
            raise ArgumentError(
                "The trial can't be made.",
                received=f"{name}={describe(values[name])}",
                expected="one of " + ", ".join(map(repr, known)),
                fix=f"Let the space return other values of {name}.",
            )


def train_config(train: TrainConfig, values: Mapping[str, Any], *, times: int = 1) -> TrainConfig:
    """Returns how a trial trains.

    Args:
        train: What holds where the trial says nothing.
        values: The trial's values.
        times: Factor on its epochs.
    """
    own = {name: values[name] for name in ("learning_rate", "batch_size", "distillation") if name in values}
    epochs = times * int(values.get("epochs", train.epochs))
    # A cosine brings its gains at its end, so that a longer one needs more patience to get there.
    patience = train.patience and max(train.patience, math.ceil(train.patience * epochs / max(train.epochs, 1)))
    return dataclasses.replace(train, epochs=epochs, patience=patience, **own)


def trains_whole(values: Mapping[str, Any]) -> bool:
    """Says whether the whole network trains before anything is compressed: if that is asked for, or all that is."""
    compresses = {"channels", "sparsity", "bits"} & set(values)
    return not compresses or any(name in values for name in TRAINING)


def trained(
    network: keras.Model,
    data: Data,
    values: Mapping[str, Any],
    train: TrainConfig,
    *,
    callbacks: list[keras.callbacks.Callback],
    seed: int,
) -> keras.Model:
    """Trains a network as a trial asks. The network is not changed; a clone comes back.

    Args:
        network: A compiled model.
        data: The splits of the search.
        values: The trial's values.
        train: What `train_config` made of them.
        callbacks: For Keras' `fit`.
        seed: Of new weights, the order of the data and the dropped units.

    Raises:
        ModelError: The network compiles in a way of its own, so that the optimizer can't be another.
    """
    made = clone(network)
    if "initializer" in values:
        made = initialize(made, values["initializer"], seed=seed)
    own = {name: float(values[name]) for name in ("dropout", "l2", "label_smoothing") if name in values}
    if own:
        made = regularize(made, seed=seed, **own)
    if values.get("augmentation"):
        data = augment(data, AugmentConfig(strength=float(values["augmentation"])), seed=seed, model=made)
    _compile(made, values)
    if values.get("schedule") == "constant":
        train = dataclasses.replace(train, pretrain_epochs=train.epochs)
        pretrain(made, data, train, callbacks=callbacks, seed=seed)
    else:
        rate = values.get("learning_rate", float(np.asarray(made.optimizer.learning_rate)))
        fit(made, data, train, learning_rate=rate, callbacks=callbacks, seed=seed)
    return made


def _compile(made: keras.Model, values: Mapping[str, Any]) -> None:
    if not {"optimizer", "learning_rate", "weight_decay"} & set(values):
        return
    compilation = Compilation.of(made)
    if compilation.is_custom:
        raise ModelError(
            "The optimizer can't be searched.",
            received=f"{type(made).__name__} with a compile() of its own",
            expected="a model that compiles as keras.Model does",
            fix="Leave optimizer, learning_rate and weight_decay out of the space.",
        )
    own = compilation.settings["optimizer"]
    optimizer = keras.optimizers.get(values["optimizer"]) if "optimizer" in values else own
    config = {**optimizer.get_config()}
    config |= {name: values[name] for name in ("learning_rate", "weight_decay") if name in values}
    fresh = type(optimizer).from_config(config)
    dataclasses.replace(compilation, settings={**compilation.settings, "optimizer": fresh}).apply(made)


def channels_config(model: keras.Model, values: Mapping[str, Any]) -> PruneConfig | None:
    """Returns how channels are removed; `None` where they stay.

    Args:
        model: The network that loses them.
        values: The trial's values.

    Raises:
        ModelError: The model has no graph of layers.
    """
    share = float(values.get("channels", 1.0))
    if share >= 1:
        return None
    return PruneConfig(shares_that_go(model, share), granularity="channel")


def ease_dropout(smaller: keras.Model, values: Mapping[str, Any], whole: keras.Model) -> None:
    """Lowers the dropout rates of a network that has lost channels, in place: a narrow one has nothing to spare.

    Each rate is at most the whole network's, times the share of the parameters that is left. On Fashion-MNIST, a
    network of 38, 19 and 10 channels reaches 0.64 with the rate of one half that it came with, and 0.86 without.

    Args:
        smaller: The network.
        values: The trial's values; a dropout of their own stays.
        whole: The network it was made of.
    """
    if "dropout" in values:
        return
    share = smaller.count_params() / whole.count_params()
    rates = {layer.name: layer.rate for layer in whole._flatten_layers() if isinstance(layer, keras.layers.Dropout)}
    for layer in smaller._flatten_layers():
        if layer.name in rates:
            layer.rate = min(layer.rate, share * rates[layer.name])


def zeros_config(values: Mapping[str, Any]) -> PruneConfig | None:
    """Returns how weights become zero; `None` where they do not."""
    share = float(values.get("sparsity", 0.0))
    return PruneConfig(sparsity=share) if share > 0 else None


def quantize_config(values: Mapping[str, Any], ordered: QuantizeConfig | None = None) -> QuantizeConfig | None:
    """Returns how weights are rounded; `None` for float files.

    Args:
        values: The trial's values.
        ordered: What holds besides bits, activations and clipping.
    """
    bits = int(values.get("bits", 32))
    if bits > 8:
        return None
    config = ordered or QuantizeConfig(bits)
    if config.method == "auto":  # at 8 bits there is next to nothing to win back
        config = dataclasses.replace(config, method="post_training" if bits == 8 else "aware")
    own = {"clipping": values["clipping"]} if "clipping" in values else {}
    return dataclasses.replace(config, bits=bits, activations=values.get("activations", "dynamic"), **own)
