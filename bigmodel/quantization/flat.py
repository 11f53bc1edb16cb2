"""Lays out nested models that are called more than once: each call has tensors, and ranges, of its own."""

from __future__ import annotations

from collections import Counter
from typing import Any

import keras

from bigmodel.graph import copy_operation, is_graph, substitute, trace
from bigmodel.quantization.rebuild import copy_layer


def laid_out(model: keras.Model) -> keras.Model:
    """Returns a model that calls the layers of nested models itself, if one of those is called twice.

    If none is, the given one comes back, which is not changed. Layers stay shared by the calls. One whose name is taken
    gets that of its model in front.

    Args:
        model: A functional or built Sequential model, or one without a graph, which comes back.
    """
    if not is_graph(model) or not _calls_again(model):
        return model
    graph = trace(model, flatten=True)
    copies: dict[int, Any] = {}
    tensors: dict[int, Any] = {}
    taken: set[str] = set()
    for call in graph:
        operation = call.operation
        if isinstance(operation, keras.layers.InputLayer):
            outputs = keras.Input(batch_shape=call.outputs.shape, dtype=call.outputs.dtype, name=operation.name)
        else:
            if id(operation) not in copies:
                copies[id(operation)] = _copy(operation, _free(operation.name, call.path, taken))
            args, kwargs = substitute((call.args, dict(call.kwargs)), tensors)
            outputs = copies[id(operation)](*args, **kwargs)
        taken.add(operation.name)
        tensors.update(zip(map(id, keras.tree.flatten(call.outputs)), keras.tree.flatten(outputs), strict=True))
    return keras.Model(substitute(graph.inputs, tensors), substitute(graph.outputs, tensors), name=model.name)


def _calls_again(model: keras.Model) -> bool:
    nested = [call.operation for call in trace(model) if is_graph(call.operation)]
    return max(Counter(map(id, nested)).values(), default=0) > 1 or any(_calls_again(inner) for inner in nested)


def _free(name: str, path: tuple[str, ...], taken: set[str]) -> str:
    return "_".join([*path, name]) if name in taken else name


def _copy(operation: Any, name: str) -> Any:
    changes = {} if name == operation.name else {"name": name}
    return (
        copy_layer(operation, **changes)
        if isinstance(operation, keras.layers.Layer)
        else copy_operation(operation, changes)
    )
