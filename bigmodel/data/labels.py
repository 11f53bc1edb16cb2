"""What a model's loss asks of the labels."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import keras
import numpy as np

from bigmodel.data.elements import named_leaves
from bigmodel.data.inputs import declared
from bigmodel.errors import DataError

Shape = tuple[int | None, ...]


@dataclasses.dataclass(frozen=True)
class Target:
    """One output of a model and the loss on it.

    Args:
        keys: Names under which a dict of labels may carry it.
        shape: Shape of the output with its batch axis; `None` if the model does not declare it.
        loss: What the caller compiled: a name, a function, a `keras.losses.Loss` or `None`.
    """

    keys: tuple[str, ...]
    shape: Shape | None
    loss: Any


def needs_labels(model: Any) -> bool:
    """Says whether the model is compiled with a loss on its outputs."""
    return any(loss is not None for loss in keras.tree.flatten(getattr(model, "loss", None)))


def targets(model: Any) -> list[Target]:
    """Returns the model's outputs with their losses; a subclassed model counts as one output of unknown shape."""
    loss = getattr(model, "loss", None)
    output = declared(model, "output")
    if output is None:
        return [] if isinstance(loss, (dict, list, tuple)) else [Target((), None, loss)]
    tensors = keras.tree.flatten(output)
    names = list(getattr(model, "output_names", None) or [tensor.name for tensor in tensors])
    keys: list[tuple[str, ...]] = [(name,) for name in names]
    if isinstance(output, dict):
        paths = [path[0] for path, _ in keras.tree.flatten_with_path(output)]
        keys = [(str(path), name) for path, name in zip(paths, names, strict=True)]
    found = []
    for i, tensor in enumerate(tensors):
        own = loss
        if isinstance(loss, dict):
            own = next((loss[key] for key in keys[i] if key in loss), None)
        elif isinstance(loss, (list, tuple)):
            own = loss[i] if i < len(loss) else None
        found.append(Target(keys[i], tuple(tensor.shape), own))
    return found


def check_labels(y: Any, wanted: list[Target], name: str) -> None:
    """Checks labels against the model's outputs and losses.

    Args:
        y: Structure of NumPy arrays, a batch.
        wanted: `targets` of the model.
        name: The split's name.

    Raises:
        DataError: Labels are missing, of the wrong form for their loss, or outside the classes.
    """
    if not wanted:
        return
    for label, leaf, target in _match(y, wanted, name):
        if leaf.dtype.kind in "SUO":
            raise _error(label, "are text", f"{leaf.dtype}", "numbers", "Encode classes as integers from 0.")
        check = _CHECKS.get(loss_name(target.loss))
        if check is not None:
            check(leaf, target, label)


def loss_name(loss: Any) -> str:
    """Returns the name of a loss in snake case.

    Example:
        >>> loss_name(keras.losses.SparseCategoricalCrossentropy()), loss_name("mse")
        ('sparse_categorical_crossentropy', 'mse')
    """
    if loss is None:
        return ""
    text = loss if isinstance(loss, str) else getattr(loss, "__name__", type(loss).__name__)
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", text).lower()


def _match(y: Any, wanted: list[Target], name: str) -> list[tuple[str, np.ndarray, Target]]:
    leaves = [(f"{name} y{label[1:]}", leaf) for label, leaf in named_leaves((y,))]
    if isinstance(y, dict):
        by_key = dict(zip((path[0] for path, _ in keras.tree.flatten_with_path(y)), leaves, strict=True))
        pairs = [(next((by_key[k] for k in target.keys if k in by_key), None), target) for target in wanted]
        if all(leaf is not None or target.loss is None for leaf, target in pairs):
            return [(*leaf, target) for leaf, target in pairs if leaf is not None]
    elif len(leaves) == len(wanted):
        return [(*leaf, target) for leaf, target in zip(leaves, wanted, strict=True)]
    outputs = ", ".join(repr(target.keys[-1]) if target.keys else "one output" for target in wanted)
    raise DataError(
        f"{name} y does not hold labels for the outputs of the model.",
        received=f"a dict with {sorted(map(str, y))}" if isinstance(y, dict) else f"{len(leaves)} arrays",
        expected=f"labels for {outputs}",
        fix="Pass a dict with one array per output name, or a tuple in the order of model.outputs.",
    )


def _error(label: str, problem: str, received: str, expected: str, fix: str) -> DataError:
    return DataError(f"{label}: the labels {problem}.", received=received, expected=expected, fix=fix)


def _check_sparse(y: np.ndarray, target: Target, label: str) -> None:
    if target.shape is not None:
        rank, units = len(target.shape), target.shape[-1]
        if y.ndim == rank and y.shape[-1] == units and y.shape[-1] > 1:
            raise _error(
                label,
                "are one-hot, but the loss is sparse_categorical_crossentropy",
                f"shape {y.shape}",
                f"integers of shape {(None, *target.shape[1:-1])}",
                "Use loss='categorical_crossentropy', or pass y.argmax(-1).",
            )
        _check_shape(y, target.shape, [target.shape[:-1], (*target.shape[:-1], 1)], label)
    values = y[y != ignored] if (ignored := getattr(target.loss, "ignore_class", None)) is not None else y
    if not values.size:
        return
    if values.dtype.kind not in "biu" and (values != np.floor(values)).any():
        raise _error(
            label,
            "are fractions, but the loss is sparse_categorical_crossentropy",
            f"{y.dtype} with values such as {values[values != np.floor(values)][0]}",
            "integers from 0",
            "Use a regression loss, or pass the classes as integers.",
        )
    units = None if target.shape is None else target.shape[-1]
    if values.min() < 0 or (units is not None and values.max() >= units):
        raise _error(
            label,
            "are outside the classes",
            f"values from {values.min()} to {values.max()}",
            "integers from 0" + (f" to {units - 1}: the output has {units} units" if units is not None else ""),
            "Count the classes from 0, or give the model one output unit per class.",
        )


def _check_categorical(y: np.ndarray, target: Target, label: str) -> None:
    if target.shape is None or target.shape[-1] is None:
        return
    rank, units = len(target.shape), target.shape[-1]
    if units > 1 and (y.ndim == rank - 1 or (y.ndim == rank and y.shape[-1] == 1)):
        raise _error(
            label,
            f"are integers, but the loss is {loss_name(target.loss)}",
            f"{y.dtype} of shape {y.shape}",
            f"one-hot labels of shape {target.shape}",
            "Use loss='sparse_categorical_crossentropy', or pass keras.utils.to_categorical(y, num_classes).",
        )
    _check_shape(y, target.shape, [target.shape], label)
    _check_range(y, label, loss_name(target.loss))


def _check_binary(y: np.ndarray, target: Target, label: str) -> None:
    if target.shape is not None:
        allowed = [target.shape, target.shape[:-1]] if target.shape[-1] == 1 else [target.shape]
        _check_shape(y, target.shape, allowed, label)
    _check_range(y, label, loss_name(target.loss))


def _check_shape(y: np.ndarray, output: Shape, allowed: list[Shape], label: str) -> None:
    for shape in allowed:
        axes = zip(shape[1:], y.shape[1:], strict=False)
        if len(shape) == y.ndim and all(want in (None, have) for want, have in axes):
            return
    raise _error(
        label,
        "do not have the shape of the output",
        f"shape {y.shape}",
        " or ".join(map(str, allowed)),
        f"Reshape y, or change the output, whose shape is {output}.",
    )


def _check_range(y: np.ndarray, label: str, loss: str) -> None:
    if y.size and (y.min() < 0 or y.max() > 1):
        raise _error(
            label,
            f"are not probabilities, but the loss is {loss}",
            f"values from {y.min()} to {y.max()}",
            "values from 0 to 1",
            "Map the labels to 0 and 1.",
        )


_CHECKS = {
    "sparse_categorical_crossentropy": _check_sparse,
    "categorical_crossentropy": _check_categorical,
    "categorical_focal_crossentropy": _check_categorical,
    "binary_crossentropy": _check_binary,
    "binary_focal_crossentropy": _check_binary,
}
