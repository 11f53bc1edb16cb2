"""Shapes that a converted file computes for its RESHAPE ops, as constants wherever they are known but for one size.

Keras writes a batch of free size as `(shape(x)[0], 784)`, and `Dense` on sequences as a product of matrices between
two reshapes: four and ten ops with their tensors, for a size that the number of elements gives away. The converter
folds the same shapes where they are constants from the start, and FULLY_CONNECTED flattens its input by itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from bigmodel.export.rewriting import add_constant, code_of

Sizes = list[int | None]
"""Elements of a vector of sizes, or the one of a scalar; `None` for what is known only when the file runs."""

_Builtin = schema.BuiltinOperator


def infer_shapes(model: Any) -> None:
    """Gives every RESHAPE a constant shape, -1 in the place of the one size that is free, and drops what computed it.

    In place. A RESHAPE with more than one free size stays as it is, and one that flattens for FULLY_CONNECTED goes. The
    tensors that nothing reads any more stay, for `bigmodel.export.lean`.

    Args:
        model: A file as the converter wrote it: its tensors have a `shapeSignature` where a size is free.
    """
    for graph in model.subgraphs:
        known = _known_sizes(model, graph)
        for op in graph.operators:
            if code_of(model, op) != _Builtin.RESHAPE or len(op.inputs) < 2 or _constant(model, graph, op.inputs[1]):
                continue
            sizes = known.get(op.inputs[1], [None, None])
            if sizes.count(None) <= 1 and all(size is None or size > 0 for size in sizes):
                shape = np.array([-1 if size is None else size for size in sizes], np.int32)
                op.inputs = [op.inputs[0], add_constant(model, graph, shape, graph.tensors[op.inputs[1]].name)]
        _flatten_by_products(model, graph)
        _drop_unread(model, graph)


def _known_sizes(model: Any, graph: Any) -> dict[int, Sizes]:
    """What is known of each tensor of sizes before the file runs, by the tensor's index."""
    known: dict[int, Sizes] = {}
    for index, tensor in enumerate(graph.tensors):
        if tensor.type == schema.TensorType.INT32 and (values := _constant(model, graph, index)):
            known[index] = list(values)
    for op in graph.operators:
        rule = _RULES.get(code_of(model, op))
        sizes = rule(op, graph, known) if rule is not None else None
        if sizes is not None:
            known[op.outputs[0]] = sizes
    return known


def _constant(model: Any, graph: Any, index: int) -> list[int]:
    """The values of a constant of integers of at most one axis; empty where it is not one."""
    tensor = graph.tensors[index]
    data = model.buffers[tensor.buffer].data
    is_vector = tensor.type == schema.TensorType.INT32 and len(() if tensor.shape is None else tensor.shape) < 2
    return np.asarray(data, np.uint8).view(np.int32).tolist() if is_vector and data is not None and len(data) else []


# --- the ops that compute sizes: each rule returns what it knows of the result, or `None` ---------------------------

Rule = Callable[[Any, Any, Mapping[int, Sizes]], "Sizes | None"]


def _shape(op: Any, graph: Any, known: Mapping[int, Sizes]) -> Sizes | None:
    tensor = graph.tensors[op.inputs[0]]
    signature = tensor.shape if tensor.shapeSignature is None else tensor.shapeSignature
    if signature is None or not len(signature) or graph.tensors[op.outputs[0]].type != schema.TensorType.INT32:
        return None
    return [None if size < 0 else int(size) for size in signature]


def _strided_slice(op: Any, graph: Any, known: Mapping[int, Sizes]) -> Sizes | None:
    source, *places = [known.get(index) for index in op.inputs]
    options = op.builtinOptions
    if source is None or any(place is None or len(place) != 1 or None in place for place in places):
        return None
    if options.ellipsisMask or options.newAxisMask or options.offset:
        return None
    (begin,), (end,), (step,) = places  # type: ignore[misc]
    if options.shrinkAxisMask:
        return [source[begin]]  # type: ignore[index]
    return source[None if options.beginMask else begin : None if options.endMask else end : step]


def _gather(op: Any, graph: Any, known: Mapping[int, Sizes]) -> Sizes | None:
    source, places = (known.get(index) for index in op.inputs)
    return None if source is None or places is None or None in places else [source[place] for place in places]  # type: ignore[index]


def _concatenation(op: Any, graph: Any, known: Mapping[int, Sizes]) -> Sizes | None:
    parts = [known.get(index) for index in op.inputs]
    is_whole = op.builtinOptions.fusedActivationFunction == schema.ActivationFunctionType.NONE
    return [size for part in parts for size in part] if is_whole and None not in parts else None  # type: ignore[union-attr]


def _pack(op: Any, graph: Any, known: Mapping[int, Sizes]) -> Sizes | None:
    """A scalar of which nothing is known is one free size."""
    if graph.tensors[op.outputs[0]].type != schema.TensorType.INT32 or _axes(graph, op.inputs) != {0}:
        return None
    return [known.get(index, [None])[0] for index in op.inputs]


def _axes(graph: Any, tensors: Sequence[int]) -> set[int]:
    return {len(() if graph.tensors[i].shape is None else graph.tensors[i].shape) for i in tensors}


def _product(op: Any, graph: Any, known: Mapping[int, Sizes]) -> Sizes | None:
    source = known.get(op.inputs[0])
    if source is None or op.builtinOptions.keepDims:
        return None
    return [None if None in source else math.prod(source)]  # type: ignore[arg-type]


_RULES: dict[int, Rule] = {
    _Builtin.SHAPE: _shape,
    _Builtin.STRIDED_SLICE: _strided_slice,
    _Builtin.GATHER: _gather,
    _Builtin.CONCATENATION: _concatenation,
    _Builtin.PACK: _pack,
    _Builtin.REDUCE_PROD: _product,
}
_WITH_EFFECTS = (_Builtin.CUSTOM, _Builtin.IF, _Builtin.WHILE, _Builtin.CALL_ONCE, _Builtin.VAR_HANDLE)


# --- changes --------------------------------------------------------------------------------------------------------


def _flatten_by_products(model: Any, graph: Any) -> None:
    """Lets FULLY_CONNECTED take what a RESHAPE to rows of its weights' width takes: it makes the same rows of it."""
    shapes = {
        op.outputs[0]: (op.inputs[0], _constant(model, graph, op.inputs[1]))
        for op in graph.operators
        if code_of(model, op) == _Builtin.RESHAPE and len(op.inputs) == 2
    }
    for op in graph.operators:
        if (
            code_of(model, op) != _Builtin.FULLY_CONNECTED
            or op.inputs[0] not in shapes
            or op.builtinOptions.keepNumDims
        ):
            continue
        source, shape = shapes[op.inputs[0]]
        if len(shape) == 2 and shape[1] == graph.tensors[op.inputs[1]].shape[1]:
            op.inputs = [source, *op.inputs[1:]]


def _drop_unread(model: Any, graph: Any) -> None:
    """Removes the ops whose results nothing reads: those that computed sizes, and those that had only such readers."""
    read, kept = set(graph.outputs), []
    for op in reversed(graph.operators):
        has_effects = len(op.outputs) == 0 or code_of(model, op) in _WITH_EFFECTS
        if not has_effects and not read & set(op.outputs):
            continue
        kept.append(op)
        read |= set(op.inputs)
    graph.operators = kept[::-1]
