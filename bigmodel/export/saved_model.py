"""Keras model -> SavedModel: the parent's part of an export, where the caller's classes are known."""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from bigmodel.errors import ModelError, describe


class Names(NamedTuple):
    """Names of a model's inputs and outputs, in the order of its flattened structures."""

    inputs: list[str]
    outputs: list[str]


def save(model: keras.Model, folder: str | os.PathLike[str]) -> Names:
    """Writes a model's inference function as a SavedModel. The model is not changed.

    The function computes in float32, whatever the model's dtype policy, and takes batches of any size. Only a model
    with a loop inside (LSTM, GRU, any RNN) takes one sample at a time: the loop's buffers need a static shape, or the
    converter has no builtin operation for them. State that the model would assign (a stateful RNN's) stays as it is.

    Args:
        model: A built model: functional, Sequential or subclassed.
        folder: Where the SavedModel goes.

    Returns:
        The names that Keras has for the inputs and outputs, which the SavedModel calls input_0, ..., output_0, ...

    Raises:
        ModelError: The model is not built, has text inputs, or can't be traced.
    """
    structure = input_structure(model)
    try:
        with _computing_in_float32(model):
            function, outputs = _trace(model, structure, batch=None)
            if _has_loop(function):
                function, outputs = _trace(model, structure, batch=1)
    except Exception as error:  # whatever the caller's layers raise
        raise ModelError(
            f"Model {model.name!r} can't be traced for export.",
            received=f"{type(error).__name__}: {_summary(error)}",
            expected="a model that can be called on its input alone, with training=False",
            fix="Call model(x, training=False) inside a tf.function to see the whole error.",
        ) from error
    root = tf.Module()
    root.weights = list(function.variables)
    with _quiet():
        tf.saved_model.save(root, os.fspath(folder), signatures={"serving_default": function})
    return Names(_names(structure, "input"), outputs)


def input_names(model: keras.Model) -> list[str]:
    """Returns the names of a model's inputs in its file, in the order of the model's flattened input structure."""
    return _names(input_structure(model), "input")


def input_structure(model: keras.Model) -> Any:
    """Returns the structure of `keras.KerasTensor` that a built model takes.

    Raises:
        ModelError: The model is not built, or takes text.
    """
    if not model.built:
        raise ModelError(
            f"Model {model.name!r} has no weights yet.",
            received=describe(model),
            expected="a built model",
            fix="Call the model on a batch once, or give it a keras.Input.",
        )
    if isinstance(model, keras.Sequential):
        structure = model.inputs[0]
    elif hasattr(model, "operations"):  # functional
        structure = model.input
    else:
        structure = _from_shapes(model.get_build_config()["input_shape"])
    if any(tensor.dtype == "string" for tensor in keras.tree.flatten(structure)):
        raise ModelError(
            f"Model {model.name!r} takes text.",
            received="an input of dtype string",
            expected="numeric inputs: LiteRT has no text operations",
            fix="Split the text preprocessing from the model and export the rest.",
        )
    return structure


def _from_shapes(shapes: Any) -> Any:
    """Returns tensors for the shapes a subclassed model was built with."""
    if isinstance(shapes, dict):
        return {key: _from_shapes(value) for key, value in shapes.items()}
    if all(size is None or isinstance(size, int) for size in shapes):
        return keras.KerasTensor((None, *shapes[1:]), dtype="float32", name="inputs")
    return [_from_shapes(value) for value in shapes]


def _trace(model: keras.Model, structure: Any, batch: int | None) -> tuple[Any, list[str]]:
    """Returns the concrete function of inputs input_0, ... and the names of its outputs."""
    names: list[str] = []

    def serve(**inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        x = keras.tree.pack_sequence_as(structure, [inputs[f"input_{i}"] for i in range(len(inputs))])
        # The scope catches what a call leaves behind: assigned state and added losses stay out of the model.
        with keras.StatelessScope(state_mapping=[], collect_losses=True):
            y = model(x, training=False)
        names[:] = _output_names(model, y)
        return {f"output_{i}": tf.identity(value) for i, value in enumerate(keras.tree.flatten(y))}

    specs = {}
    for i, tensor in enumerate(keras.tree.flatten(structure)):
        dtype = "float32" if keras.backend.is_float_dtype(tensor.dtype) else tensor.dtype
        specs[f"input_{i}"] = tf.TensorSpec((batch, *tensor.shape[1:]), dtype, name=f"input_{i}")
    function = tf.function(serve, autograph=False).get_concrete_function(**specs)
    return function, names


def _has_loop(function: Any) -> bool:
    graph = function.graph.as_graph_def()
    nodes = [*graph.node, *(node for inner in graph.library.function for node in inner.node_def)]
    return any(node.op.startswith("TensorList") for node in nodes)


def _output_names(model: keras.Model, y: Any) -> list[str]:
    if not isinstance(y, dict) and hasattr(model, "output_names"):  # functional
        return _unique(model.output_names)
    if isinstance(model, keras.Sequential) and not keras.tree.is_nested(y):
        return [model.layers[-1].name]
    return _names(y, "output")


def _names(structure: Any, default: str) -> list[str]:
    """Returns a name per leaf: its path of dict keys, else the tensor's own name, else the default with a number."""
    names = []
    for path, leaf in keras.tree.flatten_with_path(structure):
        if any(isinstance(part, str) for part in path):
            names.append("_".join(map(str, path)))
        else:
            names.append(leaf.name if isinstance(leaf, keras.KerasTensor) else "_".join([default, *map(str, path)]))
    return _unique(names)


def _unique(names: Sequence[str]) -> list[str]:
    result: list[str] = []
    for name in names:
        taken = sum(name == other for other in names[: len(result)])
        result.append(f"{name}_{taken}" if taken else name)
    return result


def _summary(error: Exception) -> str:
    """Returns the first two lines of Keras' colourful message: which call, and what was wrong there."""
    lines = [re.sub(r"\x1b\[\d*m", "", line).strip() for line in str(error).splitlines()]
    return " ".join([line for line in lines if line][:2])


@contextlib.contextmanager
def _computing_in_float32(model: keras.Model) -> Iterator[None]:
    """Sets the layers' policies for the time of a trace, and back: a subclassed model can't be cloned to do it."""
    policies = [(layer, layer.dtype_policy) for layer in model._flatten_layers()]
    changed = [(layer, policy) for layer, policy in policies if _is_reduced(layer)]
    try:
        for layer, _ in changed:
            layer.dtype_policy = "float32"
        yield
    finally:
        for layer, policy in changed:
            layer.dtype_policy = policy


def _is_reduced(layer: keras.layers.Layer) -> bool:
    policy = layer.dtype_policy
    if isinstance(policy, keras.dtype_policies.DTypePolicyMap) or policy.quantization_mode is not None:
        return False
    return keras.backend.is_float_dtype(policy.compute_dtype) and policy.compute_dtype != "float32"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    logger = logging.getLogger("tensorflow")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
