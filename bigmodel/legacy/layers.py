"""A tf_keras layer -> the Keras 3 layer that computes the same: its config translated, its weights copied."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from bigmodel.errors import ModelError, describe
from bigmodel.legacy.activations import keras2_hard_sigmoid

# What Keras 3 calls otherwise.
_RENAMED = {
    "LeakyReLU": {"alpha": "negative_slope"},
    "InputLayer": {"batch_input_shape": "batch_shape"},
}
# What Keras 3 does not have, with the values at which that changes nothing; `...` stands for any value.
_DROPPED: dict[str, tuple[Any, ...]] = {
    "activity_regularizer": (None,),
    "batch_input_shape": (...,),
    "count": (...,),
    "dynamic": (False,),
    "fused": (...,),
    "groups": (1,),
    "implementation": (...,),
    "input_length": (...,),
    "kernel_constraint": (None,),
    "kernel_initializer": (...,),
    "kernel_regularizer": (None,),
    "key_shape": (...,),
    "optional": (False,),
    "query_shape": (...,),
    "ragged": (False,),
    "renorm": (False,),
    "robust_masking": (...,),
    "softmax_robust_masking": (...,),
    "sparse": (False,),
    "time_major": (False,),
    "value_shape": (...,),
    "virtual_batch_size": (None,),
}
_PARTS = (keras.initializers, keras.regularizers, keras.constraints, keras.layers)
_RECURRENT = ("RNN", "LSTM", "GRU", "SimpleRNN", "Bidirectional", "ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D")


def translated(layer: Any, own: Mapping[str, Any]) -> keras.layers.Layer:
    """Makes the Keras 3 layer, not built, from a tf_keras one, which is not changed.

    Args:
        layer: The layer.
        own: The caller's Keras 3 classes and functions, by class name, or by the layer's name.

    Raises:
        ModelError: There is no such layer in Keras 3, or an argument has no counterpart there.
    """
    if layer.name in own:
        made = own[layer.name]
        return made if isinstance(made, keras.layers.Layer) else _made(made, type(layer).__name__, layer, own)
    name = type(layer).__name__
    return _made(_class_of(layer, own), name, layer, own)


def _class_of(layer: Any, own: Mapping[str, Any]) -> Any:
    name = type(layer).__name__
    if name in own:
        return own[name]
    is_own = type(layer).__module__.partition(".")[0] != "tf_keras"
    if ".applications." in type(layer).__module__ and not is_own:
        found = _of_applications(type(layer))
    else:
        found = None if is_own or name == "Lambda" else getattr(keras.layers, name, None)
    if found is None:
        raise ModelError(
            "A layer of the model has no counterpart in Keras 3.",
            received=f"layer {layer.name!r}: {type(layer).__module__}.{name}",
            expected="layers that Keras 3 has, or custom_objects that name one",
            fix=f"Write it for Keras 3 and pass from_legacy(model, custom_objects={{{name!r}: the class}}), or "
            f"{{{layer.name!r}: a layer}}.",
        )
    return found


def _of_applications(kind: type) -> Any:
    """Blocks of Keras' own architectures have classes that are not public; both Keras have them in one place."""
    import importlib

    module = importlib.import_module(kind.__module__.replace("tf_keras.src", "keras.src"))
    return getattr(module, kind.__name__, None)


def _made(kind: Any, name: str, layer: Any, own: Mapping[str, Any]) -> keras.layers.Layer:
    config = {key: _value(value, own, layer) for key, value in _config_of(layer).items()}
    config |= {"dtype": _policy(layer), "name": layer.name.replace("/", "_")}
    return kind(**_fitted(kind, name, config, layer.name))


def _config_of(layer: Any) -> dict[str, Any]:
    config = dict(layer.get_config())
    config.pop("build_config", None)
    if type(layer).__name__ == "Normalization" and config.get("mean") is None:
        config["mean"], config["variance"] = None, None
    if type(layer).__name__ == "BatchNormalization" and isinstance(config["axis"], (list, tuple)):
        (config["axis"],) = config["axis"]
    return config


def _policy(layer: Any) -> str:
    policy = getattr(layer, "_dtype_policy", None)
    name = policy.name if policy is not None else layer.dtype
    return "float32" if name in (None, "_infer") else str(name)


def _fitted(kind: Any, name: str, config: dict[str, Any], layer_name: str) -> dict[str, Any]:
    """The arguments under Keras 3's names, without those that it lacks."""
    renamed = _RENAMED.get(name, {})
    config = {renamed.get(key, key): value for key, value in config.items()}
    known = _arguments(kind)
    lost = {key: value for key, value in config.items() if key not in known}
    for key, value in lost.items():
        neutral = _DROPPED.get(key, ())
        if ... not in neutral and not any(value is n or (value == n and type(value) is type(n)) for n in neutral):
            raise ModelError(
                "An argument of a layer has no counterpart in Keras 3.",
                received=f"layer {layer_name!r}: {name}({key}={describe(value)})",
                expected="arguments of Keras 3: " + ", ".join(sorted(known - {"name", "dtype", "trainable"})),
                fix=f"Pass from_legacy(model, custom_objects={{{layer_name!r}: a Keras 3 layer that does the same}}).",
            )
    return {key: value for key, value in config.items() if key in known}


def _arguments(kind: Any) -> set[str]:
    """The names that a class, or a base to which it passes on what it does not know, takes."""
    names = {"name", "dtype", "trainable"}
    for base in inspect.getmro(kind) if inspect.isclass(kind) else (kind,):
        if base is keras.layers.Layer:
            return names | {"activity_regularizer"}
        taken = inspect.signature(base.__init__ if inspect.isclass(base) else base).parameters
        names |= set(taken) - {"self", "args", "kwargs"}
        if not any(p.kind is p.VAR_KEYWORD for p in taken.values()):
            break
    return names


def _value(value: Any, own: Mapping[str, Any], layer: Any) -> Any:
    """A value of a config: objects made, functions found, all else as it is."""
    if isinstance(value, Mapping) and {"class_name", "config"} <= set(value):
        return _object(value["class_name"], value["config"], own, layer)
    if isinstance(value, str) and value == "hard_sigmoid":
        return keras2_hard_sigmoid
    if isinstance(value, str) and value in own:
        return own[value]
    if type(value).__name__ == "TensorShape":
        return tuple(value.as_list())
    if isinstance(value, (list, tuple)):  # tf_keras wraps lists to track them
        parts = [_value(part, own, layer) for part in value]
        return tuple(parts) if isinstance(value, tuple) else parts
    return value


def _object(name: str, config: Any, own: Mapping[str, Any], layer: Any) -> Any:
    if name == "function":
        return _value(config, own, layer)
    if name in ("Policy", "DTypePolicy"):
        return config["name"]
    for inner in _inner_layers(layer):
        if type(inner).__name__ == name and inner.name == config.get("name"):
            return translated(inner, own)
    kind = own.get(name) or next((getattr(part, name) for part in _PARTS if hasattr(part, name)), None)
    if kind is None:
        raise ModelError(
            "A part of a layer has no counterpart in Keras 3.",
            received=f"layer {layer.name!r}: {name}",
            expected="initializers, regularizers, constraints and layers that Keras 3 has",
            fix=f"Pass from_legacy(model, custom_objects={{{name!r}: the Keras 3 class}}).",
        )
    arguments = {key: _value(value, own, layer) for key, value in config.items()}
    return kind(**_fitted(kind, name, arguments, layer.name))


def _inner_layers(layer: Any) -> list[Any]:
    """The layers that a wrapper or a recurrent layer holds, as objects: their configs lose what is in them."""
    inner = [getattr(layer, name, None) for name in ("layer", "forward_layer", "backward_layer", "cell")]
    cells = list(getattr(getattr(layer, "cell", None), "cells", []))
    return [part for part in [*inner, *cells] if part is not None]


def call_like(layer: keras.layers.Layer, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Calls a Keras 3 layer as the tf_keras one was called."""
    told = {key: value for key, value in kwargs.items() if value is not None}
    if type(layer).__name__ in _RECURRENT and args and isinstance(args[0], (list, tuple)):
        # tf_keras hands the initial states over in one list with the input.
        (first, *states), *rest = args
        return layer(first, *rest, **{**told, "initial_state": list(states)})
    return layer(*args, **told)


def copy_weights(old: Any, new: keras.layers.Layer) -> None:
    """Copies the weights of a tf_keras layer to its translation, in place.

    Raises:
        ModelError: They are not the same in number or shape.
    """
    values = {w.name: w.numpy() for w in old.weights if "StateVar" not in w.name}
    if type(new).__name__ == "Normalization":
        _copy_statistics(values, new)
        return
    given = list(values.values()) if len(values) == len(old.weights) else [w.numpy() for w in old.weights]
    taken = [w for w in new.weights if "seed_generator" not in w.path]
    if [v.shape for v in given] != [tuple(w.shape) for w in taken]:
        raise ModelError(
            "The weights of a layer do not fit its Keras 3 counterpart.",
            received=f"layer {old.name!r}: shapes {[v.shape for v in given]}",
            expected=f"shapes {[tuple(w.shape) for w in taken]}",
            fix=f"Pass from_legacy(model, custom_objects={{{old.name!r}: a Keras 3 layer that does the same}}).",
        )
    for variable, value in zip(taken, given, strict=True):
        variable.assign(value)


def _copy_statistics(values: Mapping[str, np.ndarray], new: keras.layers.Layer) -> None:
    """`Normalization` keeps what it learned in weights that do their work only after `finalize_state`."""
    named = {name.split("/")[-1].split(":")[0]: value for name, value in values.items()}
    if "mean" in named:
        new.adapt_mean.assign(named["mean"])
        new.adapt_variance.assign(named["variance"])
        new.finalize_state()
