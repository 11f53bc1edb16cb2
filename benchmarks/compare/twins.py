"""A network of Keras 3 as its tf_keras twin with the same weights: what tfmot's users would have trained."""

from __future__ import annotations

import inspect
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import tf_keras


def twin(path: Path) -> Any:
    """Returns the tf_keras model of a saved functional or Sequential Keras 3 model of layers that both have.

    Args:
        path: A .keras file.

    Raises:
        ValueError: A layer exists in Keras 3 only.
    """
    import keras

    source = keras.models.load_model(path, compile=False)
    with zipfile.ZipFile(path) as file:
        config = json.loads(file.read("config.json"))["config"]
    if "output_layers" not in config:  # Sequential
        model = tf_keras.Sequential([tf_keras.Input(source.input_shape[1:])], name=source.name)
        for layer in source.layers:
            model.add(_layer(layer))
    else:
        model = _functional(source)
    for layer in source.layers:
        if layer.weights:
            model.get_layer(layer.name).set_weights([np.asarray(w) for w in layer.weights])
    return model


def _functional(source: Any) -> Any:
    import keras

    from bigmodel.graph import substitute, trace

    graph = trace(source)
    tensors: dict[int, Any] = {}
    layers: dict[int, Any] = {}
    inputs = []
    for call in graph:
        if isinstance(call.operation, keras.layers.InputLayer):
            outputs = tf_keras.Input(call.operation.batch_shape[1:], dtype=call.operation.dtype)
            inputs.append(outputs)
        elif not isinstance(call.operation, keras.layers.Layer):  # the addition: the one operator in these networks
            first, second = substitute(call.args, tensors)
            outputs = first + second
        else:
            layer = layers.setdefault(id(call.operation), _layer(call.operation))
            args, kwargs = substitute((call.args, dict(call.kwargs)), tensors)
            outputs = layer(*args, **{key: value for key, value in kwargs.items() if value is not None})
        pairs = zip(keras.tree.flatten(call.outputs), tf_keras_flatten(outputs), strict=True)
        tensors.update((id(old), new) for old, new in pairs)
    return tf_keras.Model(inputs, substitute(graph.outputs, tensors), name=source.name)


def tf_keras_flatten(outputs: Any) -> list[Any]:
    return list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]


def _layer(layer: Any) -> Any:
    name = type(layer).__name__
    made = getattr(tf_keras.layers, name, None)
    if made is None:
        raise ValueError(f"tf_keras has no layer {name}")
    known = inspect.signature(made.__init__).parameters
    config = {
        key: value
        for key, value in layer.get_config().items()
        if key in known and (value is None or isinstance(value, (str, int, float, bool, list, tuple)))
    }
    config.pop("dtype", None)
    return made(**config, name=layer.name)
