"""The graph of a tf_keras model, walked call by call."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from bigmodel.errors import ModelError, describe
from bigmodel.legacy.loading import load_tf_keras


class Call(NamedTuple):
    """One call of a layer.

    Args:
        layer: The layer.
        args: Its positional arguments, with symbolic tensors.
        kwargs: Its keyword arguments.
        outputs: The structure of symbolic tensors that it returned.
    """

    layer: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: Any


def check_graph(model: Any) -> None:
    """Checks that a tf_keras model is a graph of layers.

    Raises:
        ModelError: It is subclassed, or not built.
    """
    if not getattr(model, "_is_graph_network", False) or not model.inputs:
        raise ModelError(
            "This tf_keras model has no graph of layers.",
            received=describe(model),
            expected="a functional model, or a Sequential one that is built",
            fix="Call model.build(input_shape) on a Sequential model; write a subclassed one with tf_keras.Input.",
        )


def check_precision(model: Any) -> None:
    """Checks that a tf_keras model computes in float32: the toolkit and the files know nothing else.

    Raises:
        ModelError: A layer computes in 16 bits.
    """
    reduced = {layer.compute_dtype for layer in all_layers(model)} & {"float16", "bfloat16"}
    if reduced:
        raise ModelError(
            "This tf_keras model computes in reduced precision.",
            received=f"layers that compute in {', '.join(sorted(reduced))}",
            expected="a model that computes in float32",
            fix="Build it again under tf_keras.mixed_precision.set_global_policy('float32'), and give it the weights, "
            "which are float32 under a mixed policy: new.set_weights(model.get_weights()).",
        )


def check_configs(model: Any) -> None:
    """Checks that every layer of a tf_keras model can be made again, which is how the steps make a new model.

    Raises:
        ModelError: One can't; the error names it.
    """
    for layer in all_layers(model):
        try:
            type(layer).from_config(layer.get_config())
        except Exception as error:  # of the caller's own code
            raise ModelError(
                "A layer of this tf_keras model can't be made again.",
                received=f"{layer.name!r} ({type(layer).__name__}): {' '.join(str(error).split())[:200]}",
                expected="a layer whose from_config takes what its get_config gives",
                fix=f"Write {type(layer).__name__}.get_config() with all arguments of __init__, or replace the layer.",
            ) from error


def own_classes(model: Any) -> dict[str, Any]:
    """Returns the classes in a tf_keras model that are the caller's own, by name."""
    foreign = ("tf_keras", "tensorflow_model_optimization")
    kinds = [type(part) for part in model._flatten_layers()]
    return {kind.__name__: kind for kind in kinds if kind.__module__.partition(".")[0] not in foreign}


def is_network(layer: Any) -> bool:
    """Says whether a layer is itself a graph of layers."""
    return bool(getattr(layer, "_is_graph_network", False))


def calls(model: Any) -> Iterator[Call]:
    """Yields the calls of a model in an order in which they can be done again, input layers left out."""
    keras2 = load_tf_keras()
    for depth in sorted(model._nodes_by_depth, reverse=True):
        for node in model._nodes_by_depth[depth]:
            if not isinstance(node.layer, keras2.layers.InputLayer):
                args = node.call_args if isinstance(node.call_args, tuple) else tuple(node.call_args)
                yield Call(node.layer, args, dict(node.call_kwargs), node.outputs)


def replay(model: Any, inputs: list[Any], call: Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]) -> Any:
    """Does the calls of a model again on other tensors, and returns the outputs in the model's structure.

    Args:
        model: The model; it is not changed.
        inputs: One tensor for each of its inputs.
        call: `(layer, args, kwargs) -> outputs` with the tensors replaced.
    """
    import tensorflow as tf

    tensors: dict[int, Any] = dict(zip(map(id, model.inputs), inputs, strict=True))

    def replaced(structure: Any) -> Any:
        return tf.nest.map_structure(lambda value: tensors.get(id(value), value), structure)

    for step in calls(model):
        outputs = call(step.layer, replaced(step.args), replaced(step.kwargs))
        tensors.update(zip(map(id, tf.nest.flatten(step.outputs)), tf.nest.flatten(outputs), strict=True))
    return replaced(model._nested_outputs)


def all_layers(model: Any) -> Iterator[Any]:
    """Yields all layers of a model, those of nested models in their place."""
    for layer in model.layers:
        if is_network(layer):
            yield from all_layers(layer)
        else:
            yield layer


def free_name(name: str, taken: set[str]) -> str:
    """Returns a name that is not taken, with a number behind it where it has to be, and takes it."""
    numbered = (f"{name}_{number}" for number in itertools.count(1))
    free = next(n for n in itertools.chain([name], numbered) if n not in taken)
    taken.add(free)
    return free
