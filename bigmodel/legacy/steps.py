"""The steps for tf_keras networks in their shells: the verbs of `pruning` and `quantization`, done by the toolkit.

Each takes a compiled shell and returns a new one; the caller's network is not changed. Callbacks may be those of either
Keras. An interrupted training starts again: the toolkit's state is in no checkpoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from bigmodel.config import ClusterConfig, PruneConfig, QuantizeConfig, TrainConfig, Where
from bigmodel.data import Data
from bigmodel.legacy import grids, pruning, quantization
from bigmodel.legacy.shell import network_in, shell
from bigmodel.legacy.training import fit

# Peak learning rate of quantization-aware training, as a share of the compiled one.
_AWARE_SHARE = 0.1


def pretrain_model(
    model: keras.Model,
    data: Data,
    train: TrainConfig,
    *,
    callbacks: Sequence[Any] = (),
    seed: int = 0,
    verbose: int = 0,
) -> keras.Model:
    """Trains a copy of the network for `train.pretrain_epochs` with the compiled learning rate."""
    network = pruning.copy(network_in(model))
    fit(
        network, model, data, train,
        epochs=train.pretrain_epochs, share=None, callbacks=callbacks, seed=seed, verbose=verbose,
    )  # fmt: skip
    return shell(network, like=model)


def prune_model(
    model: keras.Model,
    data: Data,
    config: PruneConfig,
    *,
    train: TrainConfig,
    seed: int = 0,
    verbose: int = 0,
    callbacks: Sequence[Any] = (),
) -> keras.Model:
    """Prunes by the toolkit's `prune_low_magnitude` while fine-tuning, and strips its wrappers.

    Args:
        model: A compiled shell.
        data: Data from `as_data`.
        config: What goes.
        train: How to fine-tune.
        seed: Same seed, same result.
        verbose: As in Keras' `fit`.
        callbacks: Further callbacks; the toolkit's `UpdatePruningStep` is added.

    Raises:
        ArgumentError: The toolkit can't do what the config orders.
        ModelError: No layer can be pruned.
    """
    pruning.check_pruning(config)
    steps = _steps(data, train)
    wrapped = pruning.wrapped_for_pruning(network_in(model), config, steps)
    fit(
        wrapped, model, data, train,
        epochs=train.epochs, share=1.0, callbacks=[pruning.update_callback(), *callbacks],
        settled=lambda: int(wrapped.optimizer.iterations) > pruning.last_step(config, steps), seed=seed,
        verbose=verbose,
    )  # fmt: skip
    return shell(pruning.stripped(wrapped), like=model)


def _steps(data: Data, train: TrainConfig) -> int:
    batches = int(data.train.batches(train.batch_size).cardinality())
    if batches < 0:  # a stream tells its length when it has been read
        batches = sum(1 for _ in data.train.batches(train.batch_size))
    return max(1, batches * train.epochs)


def cluster(
    model: Any,
    data: Data,
    config: ClusterConfig | int = 16,
    *,
    train: TrainConfig | None = None,
    seed: int = 0,
    verbose: int = 0,
    callbacks: Sequence[Any] = (),
) -> keras.Model:
    """Lets the weights of each kernel share few values, by the toolkit's `cluster_weights`; zeros stay zero.

    Args:
        model: A compiled shell.
        data: Data from `as_data`.
        config: How many values; or the number alone.
        train: How to fine-tune.
        seed: Same seed, same result.
        verbose: As in Keras' `fit`.
        callbacks: Further callbacks.
    """
    config, train = config if isinstance(config, ClusterConfig) else ClusterConfig(config), train or TrainConfig()

    def tuned(wrapped: Any) -> None:
        fit(
            wrapped, model, data, train,
            epochs=train.epochs, share=_AWARE_SHARE, callbacks=callbacks, seed=seed, verbose=verbose,
        )  # fmt: skip

    return shell(pruning.clustered(network_in(model), config.clusters, config.where, tuned), like=model)


def check_orders(model: keras.Model, config: QuantizeConfig) -> None:
    """Checks that the toolkit and the converter can do what a config orders, before anything is trained.

    Raises:
        ArgumentError: Activations can't be trained as ordered.
        ModelError: They can't quantize so, or the toolkit refuses every layer.
    """
    quantization.check_quantization(config)
    if config.method != "aware":
        quantization.check_post_training(config)
        if config.activations == "float":
            grids.check_weights(network_in(model), config.where)
    if config.method == "aware":
        quantization.check_aware(config)
        quantization.aware(network_in(model), config)


def round_weights(model: keras.Model, where: Where | None = None) -> keras.Model:
    """Puts the weights on 8-bit grids without training: the network as its weight-only file computes.

    Args:
        model: A shell of a float network; it is not changed.
        where: Which layers; `None`: all that have a grid in the file.
    """
    return shell(grids.rounded(network_in(model), where), like=model)


def quantize_aware(
    model: keras.Model,
    data: Data,
    config: QuantizeConfig,
    *,
    train: TrainConfig,
    seed: int = 0,
    verbose: int = 0,
    callbacks: Sequence[Any] = (),
) -> tuple[keras.Model, tuple[dict[str, str], ...]]:
    """Trains with the toolkit's fake quantization; zeros and shared values of the network are preserved.

    Args:
        model: A compiled shell.
        data: Data from `as_data`.
        config: Which layers; 8 bits, static activations.
        train: How to train.
        seed: Same seed, same result.
        verbose: As in Keras' `fit`.
        callbacks: Further callbacks.

    Returns:
        A shell of the network as its file computes, and what stays float.

    Raises:
        ArgumentError: The activations are not static.
        ModelError: The toolkit can't do what the config orders, or refuses every layer.
    """
    quantization.check_quantization(config)
    quantization.check_aware(config)
    network, flat, names, skipped = quantization.aware(network_in(model), config)
    fit(
        network, model, data, train,
        epochs=train.epochs, share=_AWARE_SHARE, callbacks=callbacks, settled=_after_first_epoch(network),
        seed=seed, verbose=verbose,
    )  # fmt: skip
    made = quantization.settled(network, flat, names)
    return shell(made, recipe=quantization.recipe_of(flat, names), like=model), tuple(skipped)


def _after_first_epoch(network: Any) -> Any:
    """Before the first step the ranges of the activations are not those of any data."""
    return lambda: int(network.optimizer.iterations) > 0
