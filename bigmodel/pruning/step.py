"""The pruning step: one verb for all granularities."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import keras

from bigmodel.config import PruneConfig, TrainConfig
from bigmodel.pruning.channels import prune_channels
from bigmodel.pruning.weights import prune_weights


def prune_model(
    model: keras.Model,
    data: Any,
    config: PruneConfig,
    *,
    train: TrainConfig,
    seed: int = 0,
    verbose: int = 0,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    checkpoint: str | os.PathLike[str] | None = None,
) -> keras.Model:
    """Prunes a model as its config orders. The caller's model, data and configs are not changed.

    Args:
        model: A built Keras model; functional or Sequential where channels are removed.
        data: Data to fine-tune on, in any form that `as_data` takes.
        config: What goes; with granularity "channel" the model gets smaller, else it gets zeros.
        train: How to fine-tune.
        seed: Same seed, same result.
        verbose: As in Keras' `fit`.
        callbacks: Further Keras callbacks.
        checkpoint: Path prefix from which an interrupted training goes on.

    Returns:
        A new model, compiled like the caller's.

    Raises:
        ModelError: The model can't go through the step.
        ArgumentError: An order can't be carried out on this model.
        DataError: The data does not fit the model.
    """
    prune = prune_channels if config.granularity == "channel" else prune_weights
    return prune(
        model, data, config, train=train, seed=seed, verbose=verbose, callbacks=callbacks, checkpoint=checkpoint
    )
