"""tf_keras model -> Keras 3 model with equal outputs."""

from __future__ import annotations

import itertools
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras

from bigmodel.errors import ArgumentTypeError, ModelError, describe, summary
from bigmodel.legacy.compilation import settings_of
from bigmodel.legacy.layers import call_like, copy_weights, translated
from bigmodel.legacy.loading import is_tf_keras, load_tf_keras
from bigmodel.legacy.network import check_graph, is_network, replay
from bigmodel.legacy.operators import call_operator

_OPERATORS = ("TFOpLambda", "SlicingOpLambda")


def from_legacy(model_or_path: Any, *, custom_objects: Mapping[str, Any] | None = None) -> keras.Model:
    """Turns a tf_keras (Keras 2) model into a Keras 3 model with equal outputs. The given one is not changed.

    Layers are made again one by one from their configs, with their weights; nested and shared ones stay so. TensorFlow
    functions in the graph (`x * 2`, `tf.concat`, ...) become those of `keras.ops`. What the model was compiled with is
    carried over, with a fresh optimizer; a warning says so where that can't be done.

    Args:
        model_or_path: A functional or built Sequential tf_keras model, or the path of an `.h5` or `.keras` file or a
            SavedModel that Keras 2 wrote.
        custom_objects: Keras 3 classes for layers of one's own, by class name; layers or classes for single ones, by
            the layer's name; and functions of Keras tensors by the TensorFlow name of what they replace
            (`"image.resize"`).

    Returns:
        A Keras 3 model with the same names; a slash in one, which Keras 3 does not allow, is an underscore.

    Raises:
        ArgumentTypeError: It is neither a tf_keras model nor a path.
        DependencyError: tf_keras is not installed.
        ModelError: The file can't be read, or a part of the model has no counterpart in Keras 3; the message names it.

    Example:
        `bm.from_legacy("model.h5")`
    """
    model = _model_of(model_or_path)
    made = _Migration(dict(custom_objects or {})).model(model)
    try:
        settings = settings_of(model)
    except ModelError as error:
        warnings.warn(f"The model is not compiled: {error.problem} {error.received}", stacklevel=2)
        return made
    if settings is not None:
        made.compile(**settings)
    return made


def _model_of(model_or_path: Any) -> Any:
    if is_tf_keras(model_or_path):
        return model_or_path
    if not isinstance(model_or_path, (str, os.PathLike)):
        raise ArgumentTypeError(
            "This can't be turned into a Keras 3 model.",
            received=describe(model_or_path),
            expected="a tf_keras model, or the path of one that Keras 2 saved",
            fix="A Keras 3 model is one already; it needs no translation.",
        )
    path, keras2 = Path(model_or_path), load_tf_keras()
    if not path.exists():
        raise ModelError(
            "The file can't be read by tf_keras.",
            received=f"{path}: there is no such file",
            expected="an .h5 or .keras file or a SavedModel that Keras 2 wrote",
            fix="Check the path.",
        )
    try:
        return keras2.models.load_model(path)
    except Exception as error:  # tf_keras raises whatever its readers of three formats raise
        raise ModelError(
            "The file can't be read by tf_keras.",
            received=f"{path}: {summary(error)}",
            expected="an .h5 or .keras file or a SavedModel that Keras 2 wrote, without classes of one's own",
            fix="Load it with tf_keras.models.load_model(path, custom_objects=...) and pass the model.",
        ) from error


class _Migration:
    """One translation: what was made for each layer, so that shared ones stay shared."""

    def __init__(self, own: Mapping[str, Any]) -> None:
        self.own = own
        self.made: dict[int, Any] = {}

    def model(self, model: Any) -> keras.Model:
        if id(model) not in self.made:
            check_graph(model)
            is_chain = isinstance(model, load_tf_keras().Sequential)
            self.made[id(model)] = self._chain(model) if is_chain else self._graph(model)
            if not model.trainable:
                self.made[id(model)].trainable = False
        return self.made[id(model)]

    def _chain(self, model: Any) -> keras.Sequential:
        made = keras.Sequential([_input_like(model.inputs[0])], name=_name(model))
        for layer in model.layers:
            made.add(self._layer(layer))
            self._finish(layer)
        return made

    def _graph(self, model: Any) -> keras.Model:
        inputs = [_input_like(tensor) for tensor in model.inputs]
        outputs = replay(model, inputs, self._call)
        _name_operators(outputs, {layer.name for layer in model.layers})
        structure = model._nested_inputs
        packed = (
            inputs[0]
            if len(inputs) == 1 and not isinstance(structure, (dict, list, tuple))
            else (keras.tree.pack_sequence_as(_plain(structure), inputs))
        )
        return keras.Model(packed, _plain(outputs), name=_name(model))

    def _call(self, layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if type(layer).__name__ in _OPERATORS:
            return call_operator(layer, args, kwargs, self.own)
        outputs = call_like(self._layer(layer), args, kwargs)
        self._finish(layer)
        return outputs

    def _layer(self, layer: Any) -> keras.layers.Layer:
        if is_network(layer):
            return self.model(layer)
        if id(layer) not in self.made:
            inner = getattr(layer, "layer", None)
            if inner is not None and is_network(inner):  # TimeDistributed of a model
                self.made[id(layer)] = keras.layers.TimeDistributed(self.model(inner), name=_name(layer))
            else:
                self.made[id(layer)] = translated(layer, self.own)
        return self.made[id(layer)]

    def _finish(self, layer: Any) -> None:
        """Copies the weights once the translation is built."""
        if not is_network(layer) and not is_network(getattr(layer, "layer", None)):
            copy_weights(layer, self.made[id(layer)])


def _name(layer: Any) -> str:
    return str(layer.name).replace("/", "_")


def _input_like(tensor: Any) -> Any:
    return keras.Input(batch_shape=tuple(tensor.shape), dtype=tensor.dtype.name, name=_name(tensor).split(":")[0])


def _name_operators(outputs: Any, taken: set[str]) -> None:
    """Gives the operators between the layers names that no layer has: Keras counts both in one series."""
    pending, seen = list(keras.tree.flatten(outputs)), set()
    while pending:
        operation, index, _ = pending.pop()._keras_history
        if (id(operation), index) in seen:
            continue
        seen.add((id(operation), index))
        if not isinstance(operation, keras.layers.Layer) and operation.name in taken:
            operation.name = next(n for i in itertools.count() if (n := f"{operation.name}_op{i}") not in taken)
        taken.add(operation.name)
        pending += operation._inbound_nodes[index].input_tensors


def _plain(structure: Any) -> Any:
    """Lists and dicts as such: tf_keras wraps them to track them."""
    if isinstance(structure, dict):
        return {key: _plain(value) for key, value in structure.items()}
    return [_plain(value) for value in structure] if isinstance(structure, (list, tuple)) else structure
