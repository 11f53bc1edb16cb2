"""A second model like the first."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from bigmodel.errors import ModelError, describe
from bigmodel.own_parts import own_parts_of
from bigmodel.training.compilation import compile_like


def clone(model: keras.Model) -> keras.Model:
    """Makes a second model: same class, architecture and weights, compiled like the original, which is not changed.

    Args:
        model: A built model; functional, Sequential, or subclassed with a `get_config()` that it can be made from.

    Raises:
        ModelError: The model is not built, or can't be made again as what it is: a model that loses its own
            `train_step` would be trained in another way than its author wrote.

    Example:
        >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        >>> bool((clone(model).layers[0].kernel.numpy() == model.layers[0].kernel.numpy()).all())
        True
    """
    return match_compilation(clone_uncompiled(model), model)


def match_compilation(model: keras.Model, reference: keras.Model) -> keras.Model:
    """Compiles a model, in place, as another one was, if that one was, and returns it."""
    if reference.compiled:
        compile_like(model, reference)
    return model


def clone_uncompiled(model: keras.Model) -> keras.Model:
    """Makes a second model like `clone`, without compiling it."""
    second = fresh(model)
    copy_variables(model, second)
    return second


def fresh(model: keras.Model) -> keras.Model:
    """Makes a second model like `clone`, with the weights its layers start with, and without compiling it."""
    if not model.built:
        raise ModelError(
            "The model has no weights yet.",
            received=f"{type(model).__name__} {model.name!r}, not built",
            expected="a built model",
            fix="Start it with keras.Input(shape), or call model.build(input_shape).",
        )
    with own_parts_of(model):
        return _rebuilt(model)


def copy_variables(source: keras.Model, target: keras.Model) -> None:
    """Copies all variables, the seeds of random layers included, into a model of the same architecture."""
    for old, new in zip(source.variables, target.variables, strict=True):
        new.assign(np.asarray(old))


def _rebuilt(model: keras.Model) -> keras.Model:
    reasons: list[str] = []
    for second in _attempts(model, reasons):
        # Keras makes a plain Sequential from a subclass of it, without its train_step.
        if type(second) is not type(model):
            reasons.append(f"became a plain {type(second).__name__}")
        elif _shapes(second) != _shapes(model):
            reasons.append("came out with other weights")
        else:
            return second
    raise ModelError(
        "The model can't be made again from its configuration.",
        received=f"{describe(type(model).__name__)}: {'; '.join(reasons)}",
        expected="a functional or Sequential model, or a subclass whose get_config() gives back all its arguments",
        fix=f"Write get_config() in {type(model).__name__}, or rebuild the model with the functional API.",
    )


def _attempts(model: keras.Model, reasons: list[str]) -> Iterator[keras.Model]:
    # A class of the caller's own knows best how it is made; of Keras' own classes the graph can be copied as it is.
    is_builtin = type(model).__module__.split(".")[0] == "keras"
    takes_nothing = not inspect.signature(type(model)).parameters
    own_ways = ((lambda model: type(model)()) if takes_nothing else _from_config, _graph_copied)
    for make in (_graph_copied, _from_config) if is_builtin else own_ways:
        try:
            second = make(model)
            if not second.built:
                second.build_from_config(model.get_build_config())
        except Exception as error:  # Keras and the caller's own classes raise what they like.
            reasons.append(f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}")
        else:
            yield second


def _graph_copied(model: keras.Model) -> Any:
    # Without a clone_function Keras serializes the model with all that it was compiled with.
    return keras.models.clone_model(model, clone_function=_from_config, recursive=True)


def _from_config(layer: keras.Layer) -> Any:
    return type(layer).from_config(layer.get_config())


def _shapes(model: keras.Model) -> list[tuple[int, ...]]:
    return [tuple(variable.shape) for variable in model.variables]
