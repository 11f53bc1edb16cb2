"""Pruning weights by magnitude, in any pattern of zeros, with fine-tuning."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import keras

from bigmodel.config import PruneConfig, TrainConfig
from bigmodel.data import Data, as_data
from bigmodel.errors import ModelError
from bigmodel.pruning.callback import MagnitudePruning, missing_zeros
from bigmodel.pruning.regularization import scale_dropout
from bigmodel.training import clone, ensure_compiled, fit, peak_learning_rate


def prune_weights(
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
    """Prunes a model while fine-tuning it. The caller's model, data and configs are not changed.

    The masks grow over the first half of the training. Epochs compete on the validation split from the moment
    the full sparsity is reached. Dropout rates fall with the share of connections that stay. The learning rate has its
    peak at the compiled one unless `train` says otherwise. Frozen layers are pruned too (an explicit sparsity holds for
    the whole model), but they can't recover: unfreeze them, or leave them out with `where`.

    Args:
        model: A built model.
        data: Data to fine-tune on, in any form that `as_data` takes.
        config: Sparsity, schedule, layers.
        train: How to fine-tune; with `epochs=0` the weights are dropped without training.
        seed: Same seed, same result.
        verbose: As in Keras' `fit`.
        callbacks: Further Keras callbacks.
        checkpoint: Path prefix from which an interrupted training goes on.

    Returns:
        A new model, compiled like the caller's, with exact zeros at `config.sparsity` in each kernel.

    Raises:
        ModelError: The model can't be cloned, or has no kernel to prune.
        DataError: The data does not fit the model.
    """
    model, _ = ensure_compiled(model, data)
    data = as_data(data, model=model, seed=seed, batch_size=train.batch_size)
    pruned = clone(model)
    scale_dropout(pruned, 1.0 - config.share)
    pattern = {name: getattr(config, name) for name in ("granularity", "ranking", "block_shape")}
    pruning = MagnitudePruning(
        config.share, schedule=config.schedule, where=config.where, frequency=config.frequency, frozen=True, **pattern
    )
    # Half of the weights or more have to be learned again: on Fashion-MNIST at 80 % sparsity, three epochs give 0.811
    # at a tenth of the compiled learning rate, 0.839 at a third, and 0.853 at the rate itself.
    rate = peak_learning_rate(pruned)
    fit(
        pruned,
        data,
        train,
        learning_rate=rate,
        teacher=model,
        callbacks=[*callbacks, pruning],
        seed=seed,
        checkpoint=checkpoint,
        verbose=verbose,
    )
    missing = missing_zeros(pruned, config.share, config.where, **pattern)
    if missing:
        name, count = next(iter(missing.items()))
        raise ModelError(
            "The pruned model is denser than asked for.",
            received=f"{len(missing)} kernels short of zeros; {name} lacks {count}",
            expected=f"{config.share:.0%} zeros, {pattern}",
            fix="Leave out callbacks that set weights when training ends.",
        )
    return pruned
