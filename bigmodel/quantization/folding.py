"""Folds a normalisation into the fully connected layers after it, before their weights get a grid.

The converter does the same on the way to the file: it multiplies the rows of the kernel, which takes a kernel that was
quantized before off its grid. (A normalisation *after* a layer is no such case: it multiplies whole channels.) Of an
`RMSNormalization` it takes the factors, and the division by the root mean square stays.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from bigmodel.graph import copy_operation, is_graph, trace

# Layers that do nothing when a model runs: the converter looks through them, and so does `find_folds`.
PASSING = (
    keras.layers.ActivityRegularization,
    keras.layers.AlphaDropout,
    keras.layers.Dropout,
    keras.layers.GaussianDropout,
    keras.layers.GaussianNoise,
    keras.layers.Identity,
)

Folds = Mapping[keras.layers.Layer, tuple[keras.layers.Dense, ...]]


def find_folds(model: keras.Model) -> Folds:
    """Returns the normalisations that only fully connected layers read, with these layers.

    They are each `BatchNormalization` of vectors, and each `RMSNormalization` of the last axis.

    Args:
        model: A functional or built Sequential model; its nested models are searched too.
    """
    graph = trace(model)
    called = Counter(id(call.operation) for call in graph)
    readers: dict[int, list[Any]] = {}
    for call in graph:
        for tensor in call.inputs:
            readers.setdefault(id(tensor), []).append(call)
    results = {id(tensor) for tensor in keras.tree.flatten(graph.outputs)}

    def ends(tensor: Any) -> list[Any]:
        """The operations that read a tensor's values, `None` for one that is not a fully connected layer."""
        found: list[Any] = [None] if id(tensor) in results else []
        for reader in readers.get(id(tensor), []):
            layer = reader.operation
            passes = isinstance(layer, PASSING) or (type(layer) is keras.layers.Flatten and len(tensor.shape) == 2)
            if passes and called[id(layer)] == 1:
                found += ends(reader.outputs)
            else:
                found.append(layer if type(layer) is keras.layers.Dense and called[id(layer)] == 1 else None)
        return found

    folds: dict[keras.layers.Layer, tuple[keras.layers.Dense, ...]] = {}
    for call in graph:
        layer = call.operation
        if is_graph(layer):
            folds.update(find_folds(layer))
        elif called[id(layer)] == 1 and _has_row_factors(layer, call.outputs):
            targets = ends(call.outputs)
            if targets and None not in targets:
                folds[layer] = tuple(targets)
    return folds


def _has_row_factors(layer: Any, outputs: Any) -> bool:
    """Whether a layer is a normalisation that multiplies the rows of a kernel after it."""
    if type(layer) is keras.layers.BatchNormalization:
        return len(outputs.shape) == 2
    return type(layer) is keras.layers.RMSNormalization and list(layer.axis) in ([-1], [len(outputs.shape) - 1])


def folded(dense: keras.layers.Dense, normalisation: keras.layers.Layer) -> keras.layers.Dense:
    """Returns a new layer that computes `dense(normalisation(x))` as at inference, after `remainder(normalisation)`.

    The given ones are not changed.
    """
    factor, shift = _factor_and_shift(normalisation)
    kernel = np.asarray(dense.kernel, np.float64)
    shifts = isinstance(normalisation, keras.layers.BatchNormalization)
    new: Any = copy_operation(dense, {"dtype": "float32", "use_bias": dense.use_bias or shifts})
    new.build((None, kernel.shape[0]))
    new.kernel.assign(factor[:, None] * kernel)
    if new.use_bias:
        new.bias.assign(shift @ kernel + (np.asarray(dense.bias, np.float64) if dense.use_bias else 0.0))
    return new


def remainder(normalisation: Any) -> list[keras.layers.Layer]:
    """Returns what of a normalisation is left when the layers after it have its factors. It is not changed."""
    if isinstance(normalisation, keras.layers.BatchNormalization):
        return []
    divided: Any = copy_operation(normalisation, {})
    before = max(normalisation.axis[0], 1)
    divided.build((*(None for _ in range(before)), *normalisation.scale.shape))
    divided.scale.assign(np.ones(normalisation.scale.shape))
    return [divided]


def _factor_and_shift(normalisation: Any) -> tuple[np.ndarray, np.ndarray]:
    if isinstance(normalisation, keras.layers.RMSNormalization):
        factor = np.asarray(normalisation.scale, np.float64)
        return factor, np.zeros(factor.shape)
    factor = 1.0 / np.sqrt(np.asarray(normalisation.moving_variance, np.float64) + normalisation.epsilon)
    if normalisation.scale:
        factor = factor * np.asarray(normalisation.gamma, np.float64)
    shift = -np.asarray(normalisation.moving_mean, np.float64) * factor
    if normalisation.center:
        shift = shift + np.asarray(normalisation.beta, np.float64)
    return factor, shift
