"""Pruning channels: rank, remove, repair, fine-tune."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from bigmodel.config import PruneConfig, TrainConfig
from bigmodel.data import Data, as_data
from bigmodel.errors import ModelError
from bigmodel.pruning.channels.cost import CostModel
from bigmodel.pruning.channels.groups import ChannelMap, find_channels
from bigmodel.pruning.channels.ranking import score_channels
from bigmodel.pruning.channels.removal import remove_channels
from bigmodel.pruning.channels.repair import repair_channels
from bigmodel.pruning.channels.selection import Selection
from bigmodel.training import compile_like, ensure_compiled, fit, peak_learning_rate

CALIBRATION = 1024
"""Samples that the ranking and the repair look at."""
_DEFAULT = Selection()


def prune_channels(
    model: keras.Model,
    data: Data | Any,
    config: PruneConfig,
    *,
    train: TrainConfig,
    selection: Selection = _DEFAULT,
    seed: int = 0,
    verbose: int = 0,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> keras.Model:
    """Makes a smaller model without a share of the channels. The caller's model, data and configs are not changed.

    Channels are ranked and removed, the layers that read them are refitted by least squares, statistics of
    BatchNormalization are taken anew, and the result is fine-tuned with the whole model as its teacher.

    Args:
        model: A functional model, or a built Sequential one.
        data: Data to fine-tune on, in any form that `as_data` takes.
        config: `sparsity` is the share of the channels that go; `where` says which layers may lose some.
        train: How to fine-tune; with `epochs=0` the repaired model comes back.
        selection: How the channels are chosen.
        seed: Same seed, same result.
        verbose: As in Keras' `fit`.
        callbacks: Further Keras callbacks.

    Returns:
        A new functional model, compiled like the caller's.

    Raises:
        ModelError: The model has no graph of layers, or none of its channels can be removed.
        ArgumentError: A share or the criterion can't be used.
        DataError: The data does not fit the model.
    """
    model, _ = ensure_compiled(model, data)
    data = as_data(data, model=model, seed=seed, batch_size=train.batch_size)
    channels = find_channels(model, where=config.where)
    _check(channels)
    calibration = data.calibration.sample(CALIBRATION, seed=seed)
    scores = score_channels(model, channels, selection.criterion, data=calibration, seed=seed)
    keep = selection.choose(channels, scores, CostModel(model, channels), config.sparsity)
    smaller = remove_channels(model, keep, channels=channels)
    compile_like(smaller, model)
    repair_channels(model, smaller, channels, keep, calibration, samples=CALIBRATION, seed=seed)
    fit(
        smaller,
        data,
        train,
        learning_rate=peak_learning_rate(smaller),  # the widths changed: much has to be learned again
        teacher=model,
        callbacks=callbacks,
        seed=seed,
        verbose=verbose,
    )
    return smaller


def _check(channels: ChannelMap) -> None:
    if not channels.groups:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in list(channels.pinned.items())[:5])
        raise ModelError(
            "No channels can be removed from this model.",
            received=reasons or "a model without layers that make channels",
            expected="a hidden layer whose channels can be followed to all layers that read them",
            fix="Pass rules for layers of your own to `find_channels`, or prune single weights.",
        )
