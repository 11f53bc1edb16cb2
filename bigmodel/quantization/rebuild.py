"""Rebuilds a model with chains of layers in place of layers, and names its tensors."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from typing import Any

import keras

from bigmodel import graph
from bigmodel.export.saved_model import input_structure
from bigmodel.training.cloning import clone_uncompiled


@dataclasses.dataclass(frozen=True)
class Point:
    """A tensor of a model: output `output` of the `call`-th call of a layer or operation called `name`."""

    name: str
    call: int
    output: int

    @property
    def layer_name(self) -> str:
        """The name of the `FakeQuantize` layer at this point."""
        return "_".join([self.name, "range", *(str(i) for i in (self.call, self.output) if i)])


Replace = Callable[[Any], "list[Any]"]
"""Maps an operation to the chain of new ones that stand for it; an empty chain passes the first argument on."""

After = Callable[[Point, Any], Any]
"""Maps the tensor at a point to the tensor that its consumers see."""


def rebuild(model: keras.Model, replace: Replace, after: After | None = None) -> keras.Model:
    """Returns a new functional model in which each operation is replaced by a chain. The given model is not changed.

    Names of inputs, outputs and untouched layers stay, shared layers stay shared, nested models are rebuilt too.

    Args:
        model: A functional or built Sequential model.
        replace: Gives the new operations for an operation, once for each.
        after: Sees every input and every output of every new operation's call, and gives the tensor to go on with.

    Raises:
        ModelError: The model is subclassed or not built.
    """
    calls: Counter[str] = Counter()

    def seen(name: str, outputs: Any) -> Any:
        if after is None:
            return outputs
        call = calls[name]
        calls[name] += 1
        flat = [after(Point(name, call, i), tensor) for i, tensor in enumerate(keras.tree.flatten(outputs))]
        return keras.tree.pack_sequence_as(outputs, flat)

    def chain(operation: Any) -> Callable[..., Any] | None:
        if isinstance(operation, keras.layers.InputLayer) or graph.is_graph(operation):
            return None
        links = replace(operation)

        def run(*args: Any, **kwargs: Any) -> Any:
            if not links:
                return args[0]
            # Another layer in the place of one need not know what that may be told (a mask), and was not.
            told = {key: value for key, value in kwargs.items() if value is not None}
            outputs = seen(links[0].name, links[0](*args, **told))
            for link in links[1:]:
                outputs = seen(link.name, link(outputs))
            return outputs

        return run

    def after_input(call: graph.Call, outputs: Any) -> Any:
        is_input = isinstance(call.operation, keras.layers.InputLayer)
        return seen(call.operation.name, outputs) if is_input else outputs

    return graph.rebuild(model, chain, after_input)


def as_graph(model: keras.Model) -> keras.Model:
    """Returns a functional model that calls a subclassed one as its only layer; one that has a graph as it is.

    Neither is changed. What is inside the subclassed model is quantized where it is: see `Quantized`.

    Args:
        model: A built model. A subclassed one needs a `get_config` that it can be made from.

    Raises:
        ModelError: The model is not built, or can't be made again.
    """
    if graph.is_graph(model):
        return model

    def entry(tensor: Any) -> Any:
        return keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=tensor.name)

    inputs = keras.tree.map_structure(entry, input_structure(model))
    return keras.Model(inputs, copy_layer(model)(inputs), name=model.name)


def copy_layer(layer: keras.layers.Layer, **changes: Any) -> keras.layers.Layer:
    """Returns a new layer of the same class, config (but for `changes`) and variables, that computes in float32.

    A simulation computes in float32 whatever policy the caller trained with.
    """
    if isinstance(layer, keras.Model) and not graph.is_graph(layer):
        return _copy_subclassed(layer, changes.get("name", layer.name))
    own = layer.get_config()
    precision = {"dtype": "float32"} if "dtype" in own else {}
    new: Any = graph.copy_operation(layer, {**precision, **changes})
    if layer.built and not new.built:
        new.build_from_config(layer.get_build_config() or {})
    for source, target in zip(layer.variables, new.variables, strict=True):
        target.assign(source)
    _name_alike(layer, new)
    return new


def _name_alike(layer: keras.layers.Layer, new: keras.layers.Layer) -> None:
    """Gives the layers inside a copy their names: Keras numbers anew what has none in the config."""
    inside = (part._flatten_layers(include_self=False) for part in (layer, new))
    for source, target in zip(*inside, strict=False):
        target.name = source.name


def _copy_subclassed(model: keras.Model, name: str) -> keras.Model:
    new = clone_uncompiled(model)
    new.built = True  # Keras builds it by running it, and does not note that
    for source, layer in zip(model._flatten_layers(), new._flatten_layers(), strict=True):
        layer.name = source.name  # Keras numbers anew what has no name in the config; the caller knows it by this one
        if not isinstance(layer.dtype_policy, keras.dtype_policies.DTypePolicyMap):
            layer.dtype_policy = "float32"
    new.name = name
    return new
