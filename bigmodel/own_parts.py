"""The classes and functions in a model that are the caller's own: Keras knows them only if it is told."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any

import keras
from keras.src.saving.serialization_lib import SafeModeScope  # in public, safe mode can only be left for good

from bigmodel.errors import ModelError


@contextlib.contextmanager
def own_parts_of(model: keras.Model) -> Iterator[None]:
    """Lets Keras make the model's parts again from their configs, also what is the caller's own and not registered."""
    with keras.saving.custom_object_scope(custom_objects_of(model)):
        if has_lambda(model):
            with SafeModeScope(False):
                yield
        else:
            yield


def custom_objects_of(model: keras.Model) -> dict[str, Any]:
    """Returns the classes and functions in a model that are not Keras' own, by name. The model is not changed.

    Args:
        model: Any model; layers are searched with their activations, initializers, regularizers and constraints.

    Raises:
        ModelError: Two different ones have the same name.

    Example:
        >>> def half(x):
        ...     return x / 2
        >>> sorted(custom_objects_of(keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, activation=half)])))
        ['half']
    """
    found: dict[str, Any] = {}
    for layer in model._flatten_layers():
        # What shadows a method is that method, wrapped by Keras.
        parts = [value for name, value in vars(layer).items() if not hasattr(type(layer), name)]
        for value in (layer, *parts):
            named = value if inspect.isfunction(value) else type(value) if isinstance(value, _KERAS_OBJECTS) else None
            if named is None or named.__module__.split(".")[0] == "keras" or named.__name__ == "<lambda>":
                continue
            if found.setdefault(named.__name__, named) is not named:
                raise ModelError(
                    "Two things of the model have the same name.",
                    received=f"{found[named.__name__]} and {named}",
                    expected="one class or function for a name: Keras knows them by it",
                    fix=f"Rename one {named.__name__}.",
                )
    return found


def has_lambda(model: keras.Model) -> bool:
    """Says whether a model has `Lambda` layers, whose functions Keras keeps as code."""
    return any(isinstance(layer, keras.layers.Lambda) for layer in model._flatten_layers())


_KERAS_OBJECTS = (
    keras.layers.Layer,
    keras.initializers.Initializer,
    keras.regularizers.Regularizer,
    keras.constraints.Constraint,
)


def own_training(model: keras.Model) -> list[str]:
    """Returns the names of the parts of training that a model's class has written anew."""
    names = ("train_step", "compute_loss", "compile", "fit")
    return [name for name in names if getattr(type(model), name) is not getattr(keras.Model, name)]


def check_training(model: keras.Model) -> None:
    """Checks that a model trains as Keras does, so that one rebuilt from its layers trains as it does.

    Raises:
        ModelError: The model's class has a `train_step`, or another part of training, of its own.
    """
    own = own_training(model)
    if own:
        raise ModelError(
            "A model with a training of its own can't be trained with quantization.",
            received=f"{type(model).__name__} with its own {', '.join(own)}",
            expected="a model that trains as keras.Model does",
            fix="Pass quantize=bm.QuantizeConfig(method='post_training'), or the functional model inside.",
        )
