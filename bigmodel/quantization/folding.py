"""Folds a normalisation, or a bias, into the fully connected layers after it, before their weights get a grid.

The converter does the same on the way to the file. It multiplies the rows of the kernel, which takes a kernel that was
quantized before off its grid, and it carries what is added through the kernel, which then sees its input without. (A
normalisation *after* a layer is no such case: it multiplies whole channels.)
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
    """Returns what only fully connected layers of vectors read, with these layers, in the order in which to fold.

    These are normalisations, and fully connected layers with a bias and without an activation.

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

    folds: dict[keras.layers.Layer, tuple[keras.layers.Dense, ...]] = {}

    def ends(tensor: Any) -> list[Any]:
        """The operations that read a tensor's values, `None` for one that is not a fully connected layer."""
        found: list[Any] = [None] if id(tensor) in results else []
        for reader in readers.get(id(tensor), []):
            layer = reader.operation
            passes = isinstance(layer, PASSING) or type(layer) is keras.layers.Flatten or layer in folds
            if passes and type(layer) is not keras.layers.Dense and called[id(layer)] == 1:
                found += ends(reader.outputs)
            else:
                found.append(layer if type(layer) is keras.layers.Dense and called[id(layer)] == 1 else None)
        return found

    # A bias goes through the kernels as the normalisations have left them.
    for kind in (keras.layers.BatchNormalization, keras.layers.Dense):
        for call in graph:
            layer = call.operation
            if type(layer) is kind and called[id(layer)] == 1 and _shifts(layer) and len(call.outputs.shape) == 2:
                targets = ends(call.outputs)
                if targets and None not in targets:
                    folds[layer] = tuple(targets)
    for inner in {id(call.operation): call.operation for call in graph if is_graph(call.operation)}.values():
        folds.update(find_folds(inner))
    return folds


def _shifts(layer: Any) -> bool:
    if type(layer) is keras.layers.Dense:
        return bool(layer.use_bias) and layer.activation is keras.activations.linear
    return type(layer) is keras.layers.BatchNormalization


def fold(folds: Folds) -> dict[int, list[keras.layers.Layer]]:
    """Returns what to put in the places of layers so that all is folded: new layers, by the `id` of each.

    Together they compute as before at inference. The given ones are not changed.

    Args:
        folds: From `find_folds`.
    """
    changed: dict[int, Any] = {}
    for source, targets in folds.items():
        before = changed.get(id(source), source)
        for dense in targets:
            changed[id(dense)] = _folded(changed.get(id(dense), dense), before)
        changed[id(source)] = _without_bias(before) if isinstance(before, keras.layers.Dense) else None
    return {key: [layer] if layer is not None else [] for key, layer in changed.items()}


def _folded(dense: keras.layers.Dense, source: keras.layers.Layer) -> keras.layers.Dense:
    """A new layer that computes `dense` of what the source makes of its input, besides a kernel of its own."""
    factor, shift = _factor_and_shift(source)
    kernel = np.asarray(dense.kernel, np.float64)
    new: Any = copy_operation(dense, {"dtype": "float32", "use_bias": True})
    new.build((None, kernel.shape[0]))
    new.kernel.assign(factor[:, None] * kernel)
    new.bias.assign(shift @ kernel + (np.asarray(dense.bias, np.float64) if dense.use_bias else 0.0))
    return new


def _without_bias(dense: keras.layers.Dense) -> keras.layers.Dense:
    new: Any = copy_operation(dense, {"dtype": "float32", "use_bias": False})
    new.build((None, dense.kernel.shape[0]))
    new.kernel.assign(dense.kernel)
    return new


def affine_of(normalisation: keras.layers.BatchNormalization) -> tuple[np.ndarray, np.ndarray]:
    """Returns factor and shift of the channels, as at inference: `normalisation(x) = factor * x + shift`."""
    factor = 1.0 / np.sqrt(np.asarray(normalisation.moving_variance, np.float64) + normalisation.epsilon)
    if normalisation.scale:
        factor = factor * np.asarray(normalisation.gamma, np.float64)
    shift = -np.asarray(normalisation.moving_mean, np.float64) * factor
    if normalisation.center:
        shift = shift + np.asarray(normalisation.beta, np.float64)
    return factor, shift


def _factor_and_shift(source: Any) -> tuple[np.ndarray, np.ndarray]:
    if isinstance(source, keras.layers.Dense):
        bias = np.asarray(source.bias, np.float64)
        return np.ones(bias.shape), bias
    return affine_of(source)
