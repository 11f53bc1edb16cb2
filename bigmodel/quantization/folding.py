"""Folds a normalisation into the fully connected layers after it, before their weights get a grid.

The converter does the same on the way to the file: it multiplies the rows of the kernel, which takes a kernel that was
quantized before off its grid. (A normalisation *after* a layer is no such case: it multiplies whole channels.)
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

Folds = Mapping[keras.layers.BatchNormalization, tuple[keras.layers.Dense, ...]]


def find_folds(model: keras.Model) -> Folds:
    """Returns the normalisations that only fully connected layers of vectors read, with these layers.

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
            passes = isinstance(layer, PASSING) or type(layer) is keras.layers.Flatten
            if passes and called[id(layer)] == 1:
                found += ends(reader.outputs)
            else:
                found.append(layer if type(layer) is keras.layers.Dense and called[id(layer)] == 1 else None)
        return found

    folds: dict[keras.layers.BatchNormalization, tuple[keras.layers.Dense, ...]] = {}
    for call in graph:
        layer = call.operation
        if is_graph(layer):
            folds.update(find_folds(layer))
        elif type(layer) is keras.layers.BatchNormalization and called[id(layer)] == 1 and len(call.outputs.shape) == 2:
            targets = ends(call.outputs)
            if targets and None not in targets:
                folds[layer] = tuple(targets)
    return folds


def folded(dense: keras.layers.Dense, normalisation: keras.layers.BatchNormalization) -> keras.layers.Dense:
    """Returns a new layer that computes `dense(normalisation(x))` as at inference. The given ones are not changed."""
    factor = 1.0 / np.sqrt(np.asarray(normalisation.moving_variance, np.float64) + normalisation.epsilon)
    if normalisation.scale:
        factor = factor * np.asarray(normalisation.gamma, np.float64)
    shift = -np.asarray(normalisation.moving_mean, np.float64) * factor
    if normalisation.center:
        shift = shift + np.asarray(normalisation.beta, np.float64)
    kernel = np.asarray(dense.kernel, np.float64)
    new: Any = copy_operation(dense, {"dtype": "float32", "use_bias": True})
    new.build((None, kernel.shape[0]))
    new.kernel.assign(factor[:, None] * kernel)
    new.bias.assign(shift @ kernel + (np.asarray(dense.bias, np.float64) if dense.use_bias else 0.0))
    return new
