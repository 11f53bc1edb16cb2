"""Absorbs a normalisation into the layer before it, as the converter does: its shift becomes a bias to work with."""

from __future__ import annotations

from collections import Counter
from typing import Any

import keras
import numpy as np

from bigmodel.graph import copy_operation, trace
from bigmodel.quantization.folding import affine_of
from bigmodel.quantization.kernels import has_matrix
from bigmodel.quantization.rebuild import copy_layer, rebuild


def absorbed(model: keras.Model) -> keras.Model:
    """Returns an equal model without the normalisations that alone read a linear layer. The given one is not changed.

    Args:
        model: A functional or built Sequential float model.
    """
    pairs = find_absorptions(model)
    by_layer = {id(layer): normalisation for layer, normalisation in pairs}
    gone = {id(normalisation) for _, normalisation in pairs}

    def replace(operation: Any) -> list[Any]:
        if id(operation) in gone:
            return []
        if id(operation) in by_layer:
            return [_with(operation, by_layer[id(operation)])]
        return [copy_layer(operation) if isinstance(operation, keras.layers.Layer) else operation]

    return rebuild(model, replace)


def find_absorptions(model: keras.Model) -> list[tuple[keras.layers.Layer, keras.layers.BatchNormalization]]:
    """Returns each linear layer that only a normalisation of its channels reads, with that normalisation."""
    graph = trace(model, flatten=True)
    called = Counter(id(call.operation) for call in graph)
    readers = Counter(id(tensor) for call in graph for tensor in call.inputs)
    readers.update(id(tensor) for tensor in keras.tree.flatten(graph.outputs))
    before = {id(call.outputs): call for call in graph if has_matrix(call.operation)}
    found = []
    for call in graph:
        normalisation = call.operation
        if type(normalisation) is not keras.layers.BatchNormalization or id(call.inputs[0]) not in before:
            continue
        source = before[id(call.inputs[0])]
        layer: Any = source.operation
        alone = called[id(normalisation)] == called[id(layer)] == readers[id(source.outputs)] == 1
        rank = len(source.outputs.shape)
        is_by_channel = normalisation.axis % rank == channel_axis(layer, source.outputs)
        if alone and is_by_channel and layer.activation is keras.activations.linear and source.path == call.path:
            found.append((layer, normalisation))
    return found


def channel_axis(layer: keras.layers.Layer, outputs: Any) -> int:
    """Returns the axis of a layer's outputs on which its channels lie."""
    return 1 if getattr(layer, "data_format", "") == "channels_first" else len(outputs.shape) - 1


def _with(layer: keras.layers.Layer, normalisation: keras.layers.BatchNormalization) -> keras.layers.Layer:
    factor, shift = affine_of(normalisation)
    new: Any = copy_operation(layer, {"dtype": "float32", "use_bias": True})
    new.build_from_config(layer.get_build_config())
    kernel = np.asarray(layer.kernel, np.float64)
    depthwise = kernel.shape[-2:] if kernel.shape[-1] != len(factor) else (len(factor),)
    new.kernel.assign(kernel * factor.reshape(depthwise))
    new.bias.assign(shift + (factor * np.asarray(layer.bias, np.float64) if layer.use_bias else 0.0))
    return new
