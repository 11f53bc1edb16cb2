"""Walk a functional or Sequential model as a list of calls, and rebuild it call by call.

Everything goes through `keras.models.clone_model`, whose `call_function` sees every call with its tensors; no private
attribute of a graph is read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, overload

import keras

from bigmodel.errors import ModelError, describe


@dataclasses.dataclass(frozen=True, eq=False)
class Call:
    """One call of an operation on symbolic tensors.

    Args:
        operation: The caller's own `keras.layers.Layer` or op node (`keras.ops.add`, indexing and the arithmetic
            operators are op nodes too). An input of the model is the call of its `InputLayer`, without arguments.
        args: Positional arguments: structures of tensors and plain values.
        kwargs: Keyword arguments, likewise; masks that Keras passes along are among them.
        outputs: The structure of tensors that came out.
        path: Names of the nested models around the call, outermost first; empty unless the graph was flattened.
    """

    operation: keras.Operation
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    outputs: Any
    path: tuple[str, ...] = ()

    @property
    def inputs(self) -> tuple[keras.KerasTensor, ...]:
        """All tensors among the arguments, in order."""
        return tuple(x for x in keras.tree.flatten((self.args, dict(self.kwargs))) if isinstance(x, keras.KerasTensor))


class Graph(Sequence[Call]):
    """The calls of a model in topological order, with its `inputs` and `outputs` (structures of tensors)."""

    def __init__(self, calls: Sequence[Call], inputs: Any, outputs: Any) -> None:
        self.calls = tuple(calls)
        self.inputs = inputs
        self.outputs = outputs

    @overload
    def __getitem__(self, index: int) -> Call: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Call, ...]: ...
    def __getitem__(self, index: int | slice) -> Call | tuple[Call, ...]:
        return self.calls[index]

    def __len__(self) -> int:
        return len(self.calls)


def is_graph(operation: object) -> bool:
    """Says whether this is a model whose calls can be walked: functional, or Sequential and built.

    Example:
        >>> is_graph(keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]))
        True
    """
    if isinstance(operation, keras.Sequential):
        return operation.built and bool(operation.layers)
    return isinstance(operation, keras.Model) and hasattr(operation, "operations")


def walk(model: keras.Model) -> Iterator[keras.layers.Layer]:
    """Yields every layer of a model once, those of nested models in place of the nested models.

    Wrappers (`TimeDistributed`, `Bidirectional`) are yielded as one layer.
    """
    seen: set[int] = set()
    for layer in model.layers:
        for leaf in walk(layer) if isinstance(layer, keras.Model) and layer.layers else (layer,):
            if id(leaf) not in seen:
                seen.add(id(leaf))
                yield leaf


def trace(model: keras.Model, *, flatten: bool = False) -> Graph:
    """Returns the calls of a functional or Sequential model in topological order.

    The model is not changed. The tensors are fresh ones, not those of the model.

    Args:
        model: A functional model, or a built Sequential one.
        flatten: Whether a nested model appears as its own calls (with its name in their `path`) and not as one call.

    Returns:
        The graph: a sequence of `Call`, with `inputs` and `outputs` structured as the model's.

    Raises:
        ModelError: The model has no graph: it is subclassed, or not built.

    Example:
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="a"), keras.layers.ReLU(name="b")])
        >>> [call.operation.name for call in trace(model)][1:]
        ['a', 'b']
    """
    plain = _plain(model)
    calls: list[Call] = []

    def record(operation: keras.Operation, *args: Any, **kwargs: Any) -> Any:
        outputs = _Spec(operation)(*args, **kwargs)
        calls.append(Call(operation, args, kwargs, outputs))
        return outputs

    traced = keras.models.clone_model(plain, clone_function=lambda operation: operation, call_function=record)
    layers = {id(layer.output): layer for layer in plain.layers if isinstance(layer, keras.layers.InputLayer)}
    inputs = [Call(layers[id(own)], (), {}, tensor) for own, tensor in zip(plain.inputs, traced.inputs, strict=True)]
    graph = Graph([*inputs, *calls], traced.input, traced.output)
    return _inline(graph) if flatten else graph


def rebuild(
    model: keras.Model,
    replace: Callable[[keras.Operation], keras.Operation | None] | None = None,
    after: Callable[[Call, Any], Any] | None = None,
    *,
    before: Callable[[Call, tuple[Any, ...], dict[str, Any]], tuple[tuple[Any, ...], dict[str, Any]]] | None = None,
    copy_weights: bool = False,
) -> keras.Model:
    """Builds a new functional model from a model, call by call.

    The model is not changed and shares nothing with the new one, which is not compiled. Names, the structure of inputs
    and outputs, shared layers and nested models stay as they are; layers inside nested models go through the same two
    functions.

    Args:
        model: A functional model, or a built Sequential one (the new one is functional).
        replace: `replace(operation) -> operation | None`, called once for each distinct operation, nested models and
            inputs included; `None` keeps it: a copy from its config. A replacement takes the calls of the original, so
            it has to accept their arguments.
        after: `after(call, outputs) -> outputs`, called after every call (of the original; inputs are calls of their
            `InputLayer`) with the new outputs; what it returns is used in their place.
        before: `before(call, args, kwargs) -> (args, kwargs)`, called before every call but those of inputs, with the
            new arguments; what it returns is used in their place.
        copy_weights: Whether kept layers also keep their variables' values. Replacements keep their own.

    Returns:
        The new model, of the original's class where that class has Keras' own constructor.

    Raises:
        ModelError: The model has no graph, or a layer can't be made again from its config.

    Example:
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="a")])
        >>> relu = keras.layers.ReLU(name="b")
        >>> rebuild(model, after=lambda call, y: relu(y) if call.operation.name == "a" else y).layers[-1]
        <ReLU name=b, built=True>
    """
    made: dict[int, keras.Operation] = {}
    copies: list[tuple[keras.Operation, keras.Operation]] = []

    def renew(call: Call, fed: Any = None) -> keras.Operation:
        operation = call.operation
        if id(operation) not in made:
            new = replace(operation) if replace else None
            if new is None and is_graph(operation):
                new = build(operation, list(zip(fed, _fed(call.args, call.kwargs), strict=True)))
            elif new is None:
                new = copy_operation(operation)
                copies.append((operation, new))
            made[id(operation)] = new
        return made[id(operation)]

    def build(model: keras.Model, fed: list[tuple[Any, Any]] | None = None) -> keras.Model:
        graph = trace(model)
        tensors: dict[int, Any] = {}
        entries: dict[int, Any] = {}
        for index, call in enumerate(graph):
            args, kwargs = substitute((call.args, dict(call.kwargs)), tensors)
            if not isinstance(call.operation, keras.layers.InputLayer):
                args, kwargs = before(call, args, kwargs) if before else (args, kwargs)
                outputs = renew(call, _fed(args, kwargs))(*args, **kwargs)
            elif fed is None:
                outputs = renew(call).output
            else:
                outputs = _resized(call, *fed[index]).output
            if not call.args and not call.kwargs:
                entries[id(call.outputs)] = outputs
            outputs = after(call, outputs) if after else outputs
            tensors.update(zip(map(id, keras.tree.flatten(call.outputs)), keras.tree.flatten(outputs), strict=True))
        return _assemble(model, substitute(graph.inputs, entries), substitute(graph.outputs, tensors))

    new_model = build(model)
    if copy_weights:
        for old, new in copies:
            set_variables(new, getattr(old, "variables", ()))
    return new_model


def copy_operation(operation: keras.Operation, changes: Mapping[str, Any] | None = None) -> keras.Operation:
    """Makes a layer or op node again from its config, not built, with some values of the config changed.

    Raises:
        ModelError: Its class can't be made from its config.
    """
    try:
        return type(operation).from_config({**operation.get_config(), **(changes or {})})
    except (TypeError, ValueError, NotImplementedError) as error:
        raise ModelError(
            f"{operation.name!r} can't be made again from its config.",
            received=describe(operation),
            expected="a layer whose `from_config(get_config())` gives an equal layer",
            fix="Give the class a `get_config` with all arguments of its constructor, and register its custom "
            "functions with `keras.saving.register_keras_serializable`.",
        ) from error


def set_variables(operation: keras.Operation, values: Iterable[Any]) -> None:
    """Assigns all variables of a layer, in place, with what it derives from them (`Normalization`)."""
    for variable, value in zip(getattr(operation, "variables", ()), values, strict=True):
        variable.assign(value)
    if hasattr(operation, "finalize_state"):
        operation.finalize_state()


def substitute(structure: Any, tensors: Mapping[int, Any]) -> Any:
    """Returns the structure with every tensor `t` replaced by `tensors[id(t)]`, where there is one."""
    return keras.tree.map_structure(lambda x: tensors.get(id(x), x), structure)


class _Spec(keras.Operation):
    """Stands in for an operation, so that tracing adds no call to the caller's own."""

    def __init__(self, operation: keras.Operation) -> None:
        super().__init__()
        self._operation = operation

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
        return self._operation.compute_output_spec(*args, **kwargs)


def _plain(model: keras.Model) -> keras.Model:
    """The same graph as an uncompiled functional model: what `clone_model` needs, and nothing to compile again."""
    if not is_graph(model):
        raise ModelError(
            "This model has no graph of layers to walk.",
            received=describe(model),
            expected="a functional model, or a Sequential one that is built",
            fix="Call `model.build(input_shape)` on a Sequential model; write a subclassed one with `keras.Input`.",
        )
    if isinstance(model, keras.Sequential):
        return keras.Model(model.inputs[0], model.outputs[0], name=model.name)
    return keras.Model(model.input, model.output, name=model.name)


def _inline(graph: Graph) -> Graph:
    tensors: dict[int, Any] = {}
    calls: list[Call] = []
    for call in graph:
        args, kwargs = substitute((call.args, dict(call.kwargs)), tensors)
        if not is_graph(call.operation):
            calls.append(Call(call.operation, args, kwargs, call.outputs, call.path))
            continue
        inner = trace(call.operation, flatten=True)
        bound = dict(zip(map(id, keras.tree.flatten(inner.inputs)), _fed(args, kwargs), strict=True))
        for step in inner:
            if not isinstance(step.operation, keras.layers.InputLayer):
                step_args, step_kwargs = substitute((step.args, dict(step.kwargs)), bound)
                path = (*call.path, call.operation.name, *step.path)
                calls.append(Call(step.operation, step_args, step_kwargs, step.outputs, path))
        results = keras.tree.flatten(substitute(inner.outputs, bound))
        tensors.update(zip(map(id, keras.tree.flatten(call.outputs)), results, strict=True))
    return Graph(calls, graph.inputs, substitute(graph.outputs, tensors))


def _fed(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Any]:
    """The tensors that a nested model's inputs are bound to in a call of it."""
    return keras.tree.flatten(args[0] if args else kwargs.get("inputs"))


def _resized(call: Call, new: Any, old: Any) -> keras.layers.InputLayer:
    """A nested model's input, with the sizes that differ between its new call and the original one."""
    shape = call.outputs.shape
    if len(shape) == len(old.shape) == len(new.shape):
        shape = tuple(own if a == b else a for own, a, b in zip(shape, new.shape, old.shape, strict=True))
    return copy_operation(call.operation, {"batch_shape": shape})


def _assemble(model: keras.Model, inputs: Any, outputs: Any) -> keras.Model:
    new_model = keras.Model(inputs, outputs, name=model.name)
    if not isinstance(model, keras.Sequential) and type(model).__init__ is type(new_model).__init__:
        new_model = type(model)(inputs, outputs, name=model.name)
    if not model.trainable:
        new_model.trainable = False
    return new_model
