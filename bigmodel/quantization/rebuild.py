"""From a float model to its simulation and back, layer by layer, with public Keras API only."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import keras

from bigmodel.errors import ModelError

@dataclasses.dataclass(frozen=True)
class Point:
    """A tensor of a model: output `output` of the `call`-th call of the layer or operation `name`."""

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


def as_functional(model: keras.Model) -> keras.Model:
    """Returns an uncompiled functional model that shares the given one's layers. The given model is not changed.

    Raises:
        ModelError: The model has no graph of layers: it is subclassed, or not built.
    """
    try:
        return keras.Model(model.input, model.output, name=model.name)
    except (AttributeError, ValueError) as error:
        raise ModelError(
            f"Model {getattr(model, 'name', model)!r} can't be rebuilt layer by layer.",
            received=f"{type(model).__module__}.{type(model).__qualname__} without a graph of layers",
            expected="a functional model, or a Sequential model that has been built",
            fix="Build the model with keras.Input(...), or call it once on data if it is Sequential.",
        ) from error


def rebuild(model: keras.Model, replace: Replace, after: After | None = None) -> keras.Model:
    """Returns a new functional model in which each operation is replaced by a chain. The given model is not changed.

    Names of inputs, outputs and untouched layers stay, shared layers stay shared, nested models are rebuilt too.

    Args:
        model: A functional or built Sequential model.
        replace: Gives the new operations for an operation, once for each.
        after: Sees every input and every output of every call, and gives the tensor to go on with; it must give the
            same tensor when it sees the same input again.
    """
    chains: dict[int, list[Any]] = {}
    calls: dict[str, int] = {}
    produced: set[int] = set()
    entered: dict[int, Any] = {}

    def clone(operation: Any) -> Any:
        chain = replace(operation)
        head = chain[0] if chain else operation
        chains[id(head)] = chain
        return head

    def enter(tensor: Any) -> Any:
        # A symbolic tensor that no call has produced is an input of the model.
        if after is None or not isinstance(tensor, keras.KerasTensor) or id(tensor) in produced:
            return tensor
        if id(tensor) not in entered:
            entered[id(tensor)] = after(Point(tensor.name, 0, 0), tensor)
        return entered[id(tensor)]

    def leave(name: str, outputs: Any) -> Any:
        if after is None:
            return outputs
        call = calls.get(name, 0)
        calls[name] = call + 1
        seen = [after(Point(name, call, i), tensor) for i, tensor in enumerate(keras.tree.flatten(outputs))]
        produced.update(id(tensor) for tensor in seen)
        return keras.tree.pack_sequence_as(outputs, seen)

    def call(operation: Any, *args: Any, **kwargs: Any) -> Any:
        args, kwargs = keras.tree.map_structure(enter, (args, kwargs))
        chain = chains.get(id(operation), [operation])
        if not chain:
            return args[0]
        outputs = leave(chain[0].name, chain[0](*args, **kwargs))
        for link in chain[1:]:
            outputs = leave(link.name, link(outputs))
        return outputs

    return keras.models.clone_model(as_functional(model), clone_function=clone, call_function=call, recursive=True)


def copy_layer(layer: keras.layers.Layer, **changes: Any) -> keras.layers.Layer:
    """Returns a new layer of the same class, config (but for `changes`), dtype float32 and weights."""
    config = layer.get_config()
    # A simulation computes in float32, whatever policy the caller trained with.
    if "dtype" in config:
        config["dtype"] = "float32"
    new = type(layer).from_config({**config, **changes})
    copy_state(layer, new)
    return new


def copy_state(layer: keras.layers.Layer, new: keras.layers.Layer) -> None:
    """Builds `new` as `layer` was built and copies its variables, seeds included."""
    if layer.built and not new.built:
        new.build_from_config(layer.get_build_config() or {})
    for source, target in zip(layer.variables, new.variables, strict=True):
        target.assign(source)
