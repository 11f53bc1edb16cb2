"""Weight sharing: the weights of a kernel share a few values, and training moves the values."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from typing import Any, final

import keras
import numpy as np
from numpy.typing import NDArray

from bigmodel.config import ClusterConfig, TrainConfig, Where
from bigmodel.data import Data, as_data
from bigmodel.errors import ModelError, check_argument, describe, whole_from
from bigmodel.pruning.codebook import Initialization, codebook, distinct_count
from bigmodel.pruning.constrained_fit import ConstrainedFit
from bigmodel.pruning.constraints import Held, StepConstraint
from bigmodel.pruning.layers import check_where, prunable
from bigmodel.training import clone, ensure_compiled, fit, peak_learning_rate

_MOST_CLUSTERS = 256
"""Kernels with more values than bytes can number count as not clustered."""


class ClusterConstraint(StepConstraint):
    """Moves each weight to the mean of its cluster; the cluster of zeros stays at zero.

    Args:
        indices: Which cluster each weight belongs to, of the shape of the weights.
        zero: Index of the cluster that stays at zero, or `None`.
        inner: See `StepConstraint`; so is `fit`.
        fit: See `StepConstraint`.
    """

    def __init__(self, indices: NDArray[np.int32], zero: int | None, inner: Any, fit: object) -> None:
        super().__init__(inner, fit)
        flat = indices.ravel()
        _, first, counts = np.unique(flat, return_index=True, return_counts=True)
        shares = np.float32(1) / counts.astype(np.float32)
        live = np.ones(counts.shape, dtype=np.float32)
        if zero is not None:
            live[zero] = 0
        self.clusters = len(counts)
        self.indices = keras.Variable(flat, dtype="int32", trainable=False, name="clusters")
        self.first = keras.Variable(first, dtype="int32", trainable=False, name="first_of_cluster")
        self.shares = keras.Variable(shares, dtype="float32", trainable=False, name="shares")
        self.live = keras.Variable(live, dtype="float32", trainable=False, name="live")

    def act(self, value: Any) -> Any:
        ops = keras.ops
        flat = ops.reshape(ops.cast(value, "float32"), (-1,))
        # The mean by differences to one member: equal weights stay equal to the last bit, however many they are.
        reference = ops.take(flat, self.first.value)
        differences = flat - ops.take(reference, self.indices.value)
        moved = ops.segment_sum(differences, self.indices.value, num_segments=self.clusters)
        means = (reference + moved * self.shares.value) * self.live.value
        return ops.cast(ops.reshape(ops.take(means, self.indices.value), value.shape), value.dtype)


class Codebooks(Held):
    """Clusters on some variables of a model; which weight belongs to which never changes.

    Args:
        model: See `Held`; so is `fit`.
        codebooks: For each variable its shared values, and the index of its value for each weight.
        fit: See `Held`.
    """

    def __init__(
        self,
        model: keras.Model,
        codebooks: Sequence[tuple[keras.Variable, NDArray[np.float64], NDArray[np.int32]]],
        *,
        fit: object,
    ) -> None:
        # Clusters that no weight belongs to are none.
        self._indices = [np.unique(ids, return_inverse=True)[1].reshape(ids.shape) for _, _, ids in codebooks]
        self._zeros = [_position_of_zero(values[np.unique(ids)]) for _, values, ids in codebooks]
        for variable, values, ids in codebooks:
            variable.assign(values[ids])
        super().__init__(model, [variable for variable, _, _ in codebooks], fit=fit)

    def _constraint(self, index: int, inner: Any, fit: object) -> StepConstraint:
        return ClusterConstraint(self._indices[index].astype(np.int32), self._zeros[index], inner, fit)

    def apply(self) -> None:
        """Gives each weight the mean of its cluster, outside of a training step."""
        for variable, ids, zero in zip(self.variables, self._indices, self._zeros, strict=True):
            weights = np.asarray(variable).astype(np.float64)
            means = np.bincount(ids.ravel(), weights.ravel()) / np.bincount(ids.ravel())
            if zero is not None:
                means[zero] = 0
            variable.assign(means[ids])


def _position_of_zero(values: NDArray[np.float64]) -> int | None:
    return int(np.flatnonzero(values == 0)[0]) if (values == 0).any() else None


@final
class WeightClustering(ConstrainedFit):
    """Clusters a model's weights when training starts, and trains the shared values.

    When `fit` has returned, each kernel holds at most `clusters` different values and the model is as it was otherwise.
    Weights move together, by the mean of their updates, inside the compiled training step; which weight shares which
    value stays. Zeros of a pruned kernel stay zeros, as one of the values: prune first, then cluster.

    Args:
        clusters: Most different values of each kernel, the zero included; at least 2.
        where: Which layers, as a function `layer -> bool`; `None`: all layers with a kernel, except depthwise ones.
        initialization: Where k-means starts: "linear" (evenly over the range, so that the few large weights get values
            of their own) or "density" (at quantiles).

    Raises:
        ArgumentError: A value is out of range.
        ModelError: The model has no kernel to cluster.

    Source:
        Han et al., "Deep Compression", 2016, https://arxiv.org/abs/1510.00149, section 3.

    Example:
        >>> import keras, numpy as np
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
        >>> model.compile("adam", "mse")
        >>> history = model.fit(np.ones((8, 8)), np.ones((8, 4)), verbose=0, callbacks=[WeightClustering(5)])
        >>> len(np.unique(model.layers[0].kernel.numpy()))
        5
    """

    def __init__(
        self, clusters: int = 16, *, where: Where | None = None, initialization: Initialization = "linear"
    ) -> None:
        super().__init__()
        check = functools.partial(check_argument, "WeightClustering")
        check("clusters", clusters, whole_from(2), "a whole number of at least 2")
        check("initialization", initialization, lambda i: i in ("linear", "density"), "'linear' or 'density'")
        check_where("WeightClustering", where)
        self.clusters, self.where, self.initialization = clusters, where, initialization
        self.settled = False
        """Whether the weights are clustered, so that epochs are comparable from here on."""

    def _hold(self) -> Codebooks:
        variables = _kernels(self.model, self.where)
        books = [(v, *codebook(np.asarray(v), self.clusters, initialization=self.initialization)) for v in variables]
        self.settled = True
        return Codebooks(self.model, books, fit=self.params)


@final
class KeepClusters(ConstrainedFit):
    """Keeps the shared values of a clustered model shared during any `fit`, quantization-aware training included.

    Acts on kernels with at most `clusters` different values, at least two and at most half as many as weights, when
    training starts; all other weights train freely. Zeros among them stay zero.

    Args:
        clusters: Most different values of a kernel that counts as clustered.
        where: Which layers, as a function `layer -> bool`; `None`: all layers with a kernel.

    Example:
        >>> import keras, numpy as np
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
        >>> model.set_weights([np.array([[1.0], [2.0], [1.0], [2.0]]), np.zeros(1)])
        >>> model.compile("adam", "mse")
        >>> history = model.fit(np.random.rand(8, 4), np.ones((8, 1)), verbose=0, callbacks=[KeepClusters()])
        >>> len(np.unique(model.layers[0].kernel.numpy()))
        2
    """

    def __init__(self, clusters: int = _MOST_CLUSTERS, *, where: Where | None = None) -> None:
        super().__init__()
        check_argument("KeepClusters", "clusters", clusters, whole_from(2), "a whole number of at least 2")
        check_where("KeepClusters", where)
        self.clusters, self.where = clusters, where

    def _hold(self) -> Codebooks:
        books = []
        for _, variable in prunable(self.model, self.where or (lambda layer: True)):
            weights = np.asarray(variable)
            most = min(self.clusters, weights.size // 2)
            if 2 <= distinct_count(weights, max(most, 1)) <= most:
                books.append((variable, *codebook(weights, most)))
        return Codebooks(self.model, books, fit=self.params)


def cluster_weights(
    model: keras.Model,
    data: Data | Any,
    config: ClusterConfig,
    *,
    train: TrainConfig,
    seed: int = 0,
    verbose: int = 0,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    checkpoint: str | os.PathLike[str] | None = None,
) -> keras.Model:
    """Clusters a model's weights and trains the shared values. The caller's model, data and configs are not changed.

    Zeros of a pruned model stay zeros. The clustered weights compete with those of each epoch on the validation split.

    Args:
        model: A built model.
        data: Data to fine-tune on, in any form that `as_data` takes.
        config: How many values, and in which layers.
        train: How to fine-tune; with `epochs=0` the weights are clustered without training.
        seed: Same seed, same result.
        verbose: As in Keras' `fit`.
        callbacks: Further Keras callbacks.
        checkpoint: Path prefix from which an interrupted training goes on.

    Returns:
        A new model, compiled like the caller's, with at most `config.clusters` different values in each kernel.

    Raises:
        ModelError: The model can't be cloned, or has no kernel to cluster.
        DataError: The data does not fit the model.
    """
    model, _ = ensure_compiled(model, data)
    data = as_data(data, model=model, seed=seed, batch_size=train.batch_size)
    clustered = clone(model)
    for variable in _kernels(clustered, config.where):
        values, indices = codebook(np.asarray(variable), config.clusters)
        variable.assign(values[indices])
    clustering = WeightClustering(config.clusters, where=config.where)
    clustering.settled = True  # The start may compete: it has what was asked for.
    # A value moves by the mean of many updates, which partly cancel out: on digits, 16 values, five epochs, the loss is
    # 0.112 at a tenth of the compiled rate, 0.107 at a third, and 0.099 at the rate itself.
    fit(
        clustered,
        data,
        train,
        learning_rate=peak_learning_rate(clustered),
        teacher=model,
        callbacks=[*callbacks, clustering],
        seed=seed,
        checkpoint=checkpoint,
        verbose=verbose,
    )
    for variable in _kernels(clustered, config.where):
        count = distinct_count(np.asarray(variable), config.clusters)
        if count > config.clusters:
            raise ModelError(
                "The clustered model has more values than asked for.",
                received=f"{variable.path}: more than {config.clusters} different values",
                expected=f"at most {config.clusters} in each kernel",
                fix="Leave out callbacks that set weights when training ends.",
            )
    return clustered


def _kernels(model: keras.Model, where: Where | None) -> list[keras.Variable]:
    variables = [kernel for _, kernel in prunable(model, where)]
    if not variables:
        raise ModelError(
            "The model has no kernel to cluster.",
            received=f"{type(model).__name__} {model.name!r}" + (" with where=" + describe(where) if where else ""),
            expected="a trainable layer with a kernel, such as Dense or Conv2D",
            fix="Let `where` select a layer, or name the weights of your own layer in get_prunable_weights().",
        )
    return variables
