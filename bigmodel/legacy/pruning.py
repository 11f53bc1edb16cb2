"""Zeros and shared weights in tf_keras networks, by the toolkit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from bigmodel.config import PruneConfig
from bigmodel.errors import ArgumentError, ModelError
from bigmodel.legacy.loading import load_tf_keras, load_toolkit
from bigmodel.legacy.network import all_layers, check_configs, is_network

_LEAST_UPDATES = 10
"""A schedule has at least so many updates of the masks, also when a fit is shorter than `frequency` allows."""
_RAMP = 0.5
"""Share of a fit in which the polynomial schedule prunes; the rest is for the network to recover."""


def copy(network: Any, replace: Callable[[Any], Any] | None = None) -> Any:
    """Returns a tf_keras network made again, with the same weights, layers replaced where `replace` gives another.

    Raises:
        ModelError: A layer can't be made again.
    """
    keras2 = load_tf_keras()
    check_configs(network)
    made = keras2.models.clone_model(network)
    made.set_weights(network.get_weights())
    if replace is None:
        return made

    def visit(layer: Any) -> Any:
        if is_network(layer):
            return keras2.models.clone_model(layer, clone_function=visit)
        return replace(layer)

    return keras2.models.clone_model(made, clone_function=visit)


def check_pruning(config: PruneConfig) -> None:
    """Checks that the toolkit can do what a config orders.

    Raises:
        ArgumentError: It can't.
    """
    for field, value, is_done in (
        ("granularity", config.granularity, config.granularity != "channel"),
        ("ranking", config.ranking, config.ranking == "layer"),
    ):
        if not is_done:
            raise ArgumentError(
                "tf_keras models are not pruned so.",
                received=f"PruneConfig({field}={value!r}) for a tf_keras model",
                expected="what tensorflow-model-optimization does: granularity 'weight', '2:4' or 'block', per layer",
                fix="Move the model to Keras 3 first: bm.from_legacy(model).",
            )


def wrapped_for_pruning(network: Any, config: PruneConfig, steps: int) -> Any:
    """Returns a copy of a network whose kernels the toolkit prunes while it trains.

    Args:
        network: The network; it is not changed.
        config: How much goes, and when.
        steps: Steps of the training.

    Raises:
        ModelError: No layer can be pruned.
    """
    toolkit = load_toolkit().sparsity.keras
    schedule = _schedule(toolkit, config, steps)
    settings: dict[str, Any] = {"pruning_schedule": schedule}
    if config.granularity == "2:4":
        settings["sparsity_m_by_n"] = (2, 4)
    if config.granularity == "block":
        settings["block_size"] = config.block_shape
    found = [layer for layer in _prunable(network, config) if _fits(layer, config.granularity)]
    if not found:
        raise ModelError(
            "The model has nothing to prune.",
            received=f"layers {[layer.name for layer in all_layers(network)]}",
            expected="a layer with a kernel that the toolkit prunes and `where` chooses",
            fix="Check `where` and `granularity`; depthwise convolutions are not pruned.",
        )
    names = {layer.name for layer in found}

    def wrap(layer: Any) -> Any:
        return toolkit.prune_low_magnitude(layer, **settings) if layer.name in names else layer

    return copy(network, wrap)


def left_dense(network: Any, config: PruneConfig) -> list[dict[str, str]]:
    """Returns the layers that a config chooses and its pattern does not fit, as rows of the report."""
    reason = f"the pattern '{config.granularity}' does not fit its kernel of shape "
    return [
        {"layer": layer.name, "step": "prune", "reason": reason + str(tuple(layer.kernel.shape))}
        for layer in _prunable(network, config)
        if not _fits(layer, config.granularity)
    ]


def _prunable(network: Any, config: PruneConfig) -> list[Any]:
    """The layers with a kernel that the toolkit prunes and `where` chooses."""
    from tensorflow_model_optimization.python.core.sparsity.keras.prune_registry import PruneRegistry

    return [
        layer
        for layer in all_layers(network)
        if getattr(layer, "kernel", None) is not None
        and PruneRegistry.supports(layer)
        and not type(layer).__name__.startswith("Depthwise")
        and (config.where is None or config.where(layer))
    ]


def _fits(layer: Any, granularity: str) -> bool:
    rank = len(layer.kernel.shape)
    if granularity == "2:4":  # the toolkit fills up groups of four inputs, and all of less than three would stay
        return rank in (2, 4) and layer.kernel.shape[-2] >= 4
    return granularity == "weight" or rank == 2


def _schedule(toolkit: Any, config: PruneConfig, steps: int) -> Any:
    end = max(1, int(steps * _RAMP))
    frequency = max(1, min(config.frequency, end // _LEAST_UPDATES))
    if config.schedule == "constant":
        return toolkit.ConstantSparsity(config.share, begin_step=0, frequency=frequency)
    if config.schedule == "polynomial":
        # The last update falls on a multiple of the frequency.
        end = max(1, end // frequency) * frequency
        return toolkit.PolynomialDecay(0.0, config.share, begin_step=0, end_step=end, frequency=frequency)
    return _by_function(toolkit, config.schedule, config.share, steps, frequency)


def _by_function(toolkit: Any, progress: Any, share: float, steps: int, frequency: int) -> Any:
    """A schedule `step -> progress`, tabulated: the toolkit asks for it inside its graph."""
    import tensorflow as tf

    table = np.asarray([share * float(progress(step)) for step in range(steps + 1)], np.float32)

    class Tabulated(toolkit.PruningSchedule):
        def __call__(self, step: Any) -> Any:
            place = tf.minimum(tf.cast(step, tf.int32), steps)
            return self._should_prune_in_step(step, 0, -1, frequency), tf.gather(table, place)

        def get_config(self) -> dict[str, Any]:
            return {"class_name": "Tabulated", "config": {}}

    return Tabulated()


def last_step(config: PruneConfig, steps: int) -> int:
    """Returns the step at which the network has the sparsity that was ordered."""
    if config.schedule == "constant":
        return 0
    if config.schedule == "polynomial":
        return max(1, int(steps * _RAMP))
    assert callable(config.schedule)
    return next((step for step in range(steps) if config.schedule(step) >= 1), steps - 1)


def update_callback() -> Any:
    """Returns the callback without which the toolkit's masks stand still."""
    return load_toolkit().sparsity.keras.UpdatePruningStep()


def stripped(wrapped: Any) -> Any:
    """Returns the network without the toolkit's wrappers, with exact zeros where the masks have them."""
    for layer in all_layers(wrapped):
        for weight, mask, _ in getattr(layer, "pruning_vars", ()):
            weight.assign(weight * mask)
    return copy(load_toolkit().sparsity.keras.strip_pruning(wrapped))


def clustered(network: Any, clusters: int, where: Any, train: Callable[[Any], None]) -> Any:
    """Returns a copy of a network whose kernels share `clusters` values each, the zeros of a pruned one among them.

    Args:
        network: The network; it is not changed.
        clusters: Most values of a kernel.
        where: Which layers, or `None`.
        train: Trains the wrapped network in place.
    """
    toolkit = load_toolkit().clustering.keras
    settings = {
        "number_of_clusters": clusters,
        "cluster_centroids_init": toolkit.CentroidInitialization.KMEANS_PLUS_PLUS,
        "preserve_sparsity": has_zeros(network),
    }

    def wrap(layer: Any) -> Any:
        is_wanted = type(layer).__name__ in ("Dense", "Conv2D", "Conv1D") and (where is None or where(layer))
        return toolkit.cluster_weights(layer, **settings) if is_wanted else layer

    wrapped = copy(network, wrap)
    train(wrapped)
    return copy(toolkit.strip_clustering(wrapped))


def has_zeros(network: Any) -> bool:
    """Says whether a kernel of a network has been pruned: at least a tenth of it are zeros."""
    kernels = [w.numpy() for w in network.weights if "kernel" in w.name.rpartition("/")[2]]
    return any((kernel == 0).mean() >= 0.1 for kernel in kernels)


def shares_values(network: Any) -> bool:
    """Says whether all large kernels of a network have at most 256 different values."""
    kernels = [
        w.numpy() for w in network.weights if "kernel" in w.name.rpartition("/")[2] and w.shape.num_elements() > 512
    ]
    return bool(kernels) and all(len(np.unique(kernel)) <= 256 for kernel in kernels)
