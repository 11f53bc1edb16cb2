"""TensorFlow functions that tf_keras keeps as layers (`TFOpLambda`), as functions of `keras.ops`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
from keras import ops

from bigmodel.errors import ModelError


def _reduction(function: Callable[..., Any]) -> Callable[..., Any]:
    def reduce(input_tensor: Any, axis: Any = None, keepdims: bool = False) -> Any:
        return function(input_tensor, axis=axis, keepdims=keepdims)

    return reduce


def _matmul(a: Any, b: Any, transpose_a: bool = False, transpose_b: bool = False) -> Any:
    a, b = (ops.swapaxes(x, -1, -2) if turned else x for x, turned in ((a, transpose_a), (b, transpose_b)))
    return ops.matmul(a, b)


def _cast(x: Any, dtype: Any) -> Any:
    return ops.cast(x, getattr(dtype, "name", dtype))


def _split(value: Any, num_or_size_splits: Any, axis: int = 0) -> Any:
    if isinstance(num_or_size_splits, int):
        return ops.split(value, num_or_size_splits, axis=axis)
    ends = [sum(num_or_size_splits[: i + 1]) for i in range(len(num_or_size_splits) - 1)]
    return ops.split(value, ends, axis=axis)


def _normalize(x: Any, axis: Any = None, epsilon: float = 1e-12) -> Any:
    total = ops.sum(ops.square(x), axis=axis, keepdims=True)
    return x * ops.rsqrt(ops.maximum(total, epsilon))


def _getitem(x: Any, key: Any) -> Any:
    def part(one: Any) -> Any:
        return slice(one["start"], one["stop"], one["step"]) if isinstance(one, Mapping) else one

    return x[tuple(map(part, key)) if isinstance(key, (list, tuple)) else part(key)]


def _unary(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(x: Any) -> Any:
        return function(x)

    return call


def _binary(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(x: Any, y: Any) -> Any:
        return function(x, y)

    return call


OPERATORS: dict[str, Callable[..., Any]] = {
    **{
        name: _binary(function)
        for function, names in (
            (ops.add, ("__operators__.add", "math.add")),
            (ops.subtract, ("math.subtract",)),
            (ops.multiply, ("math.multiply",)),
            (ops.true_divide, ("math.truediv", "math.divide")),
            (ops.floor_divide, ("math.floordiv",)),
            (ops.power, ("math.pow",)),
            (ops.maximum, ("math.maximum",)),
            (ops.minimum, ("math.minimum",)),
            (ops.equal, ("math.equal", "__operators__.eq")),
            (ops.not_equal, ("math.not_equal", "__operators__.ne")),
            (ops.greater, ("math.greater",)),
            (ops.greater_equal, ("math.greater_equal",)),
            (ops.less, ("math.less",)),
            (ops.less_equal, ("math.less_equal",)),
            (ops.logical_and, ("math.logical_and",)),
            (ops.logical_or, ("math.logical_or",)),
        )
        for name in names
    },
    **{
        name: _unary(function)
        for function, names in (
            (ops.relu6, ("nn.relu6",)),
            (ops.relu, ("nn.relu",)),
            (ops.silu, ("nn.silu",)),
            (ops.sigmoid, ("math.sigmoid", "nn.sigmoid")),
            (ops.tanh, ("math.tanh", "nn.tanh")),
            (ops.elu, ("nn.elu",)),
            (ops.softplus, ("math.softplus", "nn.softplus")),
            (ops.abs, ("math.abs",)),
            (ops.negative, ("math.negative",)),
            (ops.square, ("math.square",)),
            (ops.sqrt, ("math.sqrt",)),
            (ops.rsqrt, ("math.rsqrt",)),
            (ops.exp, ("math.exp",)),
            (ops.log, ("math.log",)),
            (ops.erf, ("math.erf",)),
            (ops.sin, ("math.sin",)),
            (ops.cos, ("math.cos",)),
            (ops.logical_not, ("math.logical_not",)),
            (ops.copy, ("identity",)),
            (ops.stop_gradient, ("stop_gradient",)),
            (ops.zeros_like, ("zeros_like",)),
            (ops.ones_like, ("ones_like",)),
        )
        for name in names
    },
    **{
        f"math.reduce_{name}": _reduction(function)
        for name, function in (("mean", ops.mean), ("sum", ops.sum), ("max", ops.max), ("min", ops.min))
    },
    "nn.softmax": lambda logits, axis=-1: ops.softmax(logits, axis=axis),
    "nn.gelu": lambda features, approximate=False: ops.gelu(features, approximate=approximate),
    "nn.leaky_relu": lambda features, alpha=0.2: ops.leaky_relu(features, negative_slope=alpha),
    "concat": lambda values, axis: ops.concatenate(values, axis=axis),
    "stack": lambda values, axis=0: ops.stack(values, axis=axis),
    "split": _split,
    "reshape": lambda tensor, shape: ops.reshape(tensor, shape),
    "transpose": lambda a, perm=None: ops.transpose(a, perm),
    "expand_dims": lambda input, axis: ops.expand_dims(input, axis),
    "squeeze": lambda input, axis=None: ops.squeeze(input, axis),
    "tile": lambda input, multiples: ops.tile(input, multiples),
    "shape": lambda input: ops.shape(input),
    "cast": _cast,
    "linalg.matmul": _matmul,
    "math.l2_normalize": _normalize,
    "clip_by_value": lambda t, clip_value_min, clip_value_max: ops.clip(t, clip_value_min, clip_value_max),
    "where": lambda condition, x, y: ops.where(condition, x, y),
    "__operators__.getitem": _getitem,
}
"""TensorFlow's name of a function -> the same in `keras.ops`, with TensorFlow's names of the arguments."""

# Arguments that say nothing where they have these values.
_NEUTRAL = {"name": None, "training": None, "mask": None, "adjoint_a": False, "adjoint_b": False, "num": None}


def call_operator(layer: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], own: Mapping[str, Any]) -> Any:
    """Calls on Keras 3 tensors what a `TFOpLambda` layer calls on TensorFlow's.

    Args:
        layer: The layer.
        args: Its arguments, tensors replaced.
        kwargs: Its keyword arguments, tensors replaced.
        own: The caller's functions by TensorFlow's name; they count before ours.

    Raises:
        ModelError: There is no translation of the function, or not with these arguments.
    """
    symbol = layer.get_config()["function"]
    function = own.get(symbol) or own.get(layer.name) or OPERATORS.get(symbol)
    told = {k: v for k, v in kwargs.items() if not (k in _NEUTRAL and v is _NEUTRAL[k])}
    if function is None:
        raise _untranslated(layer, symbol, "no translation")
    try:
        return function(*map(_constant, args), **{k: _constant(v) for k, v in told.items()})
    except TypeError as error:
        raise _untranslated(layer, symbol, str(error)) from error


def _constant(value: Any) -> Any:
    """TensorFlow's constants as arrays; all else as it is."""
    return keras.tree.map_structure(lambda v: v.numpy() if hasattr(v, "numpy") else v, value)


def _untranslated(layer: Any, symbol: str, reason: str) -> ModelError:
    return ModelError(
        "A TensorFlow function in the model has no Keras 3 translation.",
        received=f"layer {layer.name!r}: tf.{symbol} ({reason})",
        expected="functions of " + ", ".join(f"tf.{name}" for name in sorted(OPERATORS) if "__" not in name),
        fix=f"Pass from_legacy(model, custom_objects={{{symbol!r}: a function of Keras tensors}}).",
    )
