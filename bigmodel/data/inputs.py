"""What a model's inputs ask of x, and the fitting of x to it."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from bigmodel.data.elements import named_leaves
from bigmodel.errors import DataError

Shape = tuple[int | None, ...]


@dataclasses.dataclass(frozen=True)
class Form:
    """Shape and dtype of one input of a model.

    Args:
        name: The input's name.
        shape: Its shape with the batch axis, `None` where an axis is free.
        dtype: Its dtype.
    """

    name: str
    shape: Shape
    dtype: str

    def fit_shape(self, shape: Shape) -> Shape | None:
        """Returns the shape that the input takes, a last axis of one added or dropped as Keras does; `None`: none fits.

        Example:
            >>> Form("image", (None, 28, 28, 1), "float32").fit_shape((5, 28, 28))
            (5, 28, 28, 1)
        """
        missing = len(self.shape) - len(shape)
        if missing == 1 and self.shape[-1] == 1:
            shape = (*shape, 1)
        elif missing == -1 and shape[-1] == 1:
            shape = shape[:-1]
        fits = len(shape) == len(self.shape) and all(
            want is None or have in (None, want) for want, have in zip(self.shape[1:], shape[1:], strict=True)
        )
        return shape if fits else None

    def fit_array(self, array: np.ndarray) -> np.ndarray:
        """Returns the array in the input's shape and dtype; no copy is made where it has both."""
        missing = len(self.shape) - array.ndim
        if missing:
            array = array[..., np.newaxis] if missing > 0 else array.squeeze(-1)
        return array if self.dtype == "string" else array.astype(tf.as_dtype(self.dtype).as_numpy_dtype, copy=False)

    def fit_tensor(self, tensor: tf.Tensor) -> tf.Tensor:
        """Returns the tensor in the input's shape and dtype."""
        missing = len(self.shape) - tensor.shape.rank
        if missing:
            tensor = tensor[..., tf.newaxis] if missing > 0 else tf.squeeze(tensor, -1)
        return tf.ensure_shape(tf.cast(tensor, self.dtype), (None, *self.shape[1:]))


def declared(model: Any, side: str) -> Any:
    """Returns the structure of the model's symbolic inputs or outputs; `None` if it declares none.

    Args:
        model: A Keras model.
        side: "input" or "output".
    """
    try:
        tensors = getattr(model, f"{side}s")
    except (AttributeError, ValueError):
        return None
    if not tensors:
        return None
    # `Sequential.input` is that of its last call as a layer, if any.
    is_functional = any(base.__name__ == "Functional" for base in type(model).__mro__)
    return getattr(model, side) if is_functional else list(tensors)


def input_forms(model: Any) -> Any:
    """Returns the model's inputs as a structure of `Form`; `None` if the model does not declare them.

    Subclassed models and Sequential models without an input shape do not.
    """
    inputs = declared(model, "input")
    if inputs is None:
        return None
    return keras.tree.map_structure(
        lambda t: Form(t.name, tuple(t.shape), keras.backend.standardize_dtype(t.dtype)), inputs
    )


def check_inputs(x: Any, forms: Any, name: str) -> list[Form | None]:
    """Checks x against the model's inputs.

    Args:
        x: Structure of NumPy arrays, a batch.
        forms: `input_forms` of the model.
        name: The split's name.

    Returns:
        The form of every leaf of x, in `keras.tree.flatten` order; `None` for one that the model does not take.

    Raises:
        DataError: An input is missing, or has another rank, shape or dtype.
    """
    matched = _match(x, forms, name)
    for (label, leaf), form in zip(named_leaves((x,)), matched, strict=True):
        if form is None:
            continue
        if form.fit_shape(leaf.shape) is None:
            raise DataError(
                f"{name} {label} has another shape than the model's input '{form.name}'.",
                received=f"samples of shape {leaf.shape[1:]} (batch {leaf.shape})",
                expected=f"samples of shape {form.shape[1:]} (batch {form.shape})",
                fix="Reshape or resize x, or batch an unbatched stream.",
            )
        problem = _dtype_problem(leaf, form.dtype)
        if problem:
            raise DataError(
                f"{name} {label} has another dtype than the model's input '{form.name}'.",
                received=f"{leaf.dtype}{problem}",
                expected=form.dtype,
                fix=f"Convert x with .astype('{form.dtype}') if that keeps its meaning, or encode it.",
            )
    return matched


def _match(x: Any, forms: Any, name: str) -> list[Form | None]:
    flat = keras.tree.flatten(forms)
    leaves = keras.tree.flatten(x)
    if isinstance(x, dict):
        by_name = dict(forms) if isinstance(forms, dict) else {form.name: form for form in flat}
        if set(by_name) <= set(x) and len(leaves) == len(x):
            order = [path[0] for path, _ in keras.tree.flatten_with_path(x)]
            return [by_name.get(key) for key in order]
    elif len(leaves) == len(flat):
        return flat
    received = f"a dict with {sorted(map(str, x))}" if isinstance(x, dict) else f"{len(leaves)} arrays"
    raise DataError(
        f"{name} x does not hold the inputs of the model.",
        received=received,
        expected=f"{len(flat)} inputs: {', '.join(repr(form.name) for form in flat)}",
        fix="Pass a dict with one array per input name, or a tuple in the order of model.inputs.",
    )


def _dtype_problem(leaf: np.ndarray, dtype: str) -> str | None:
    if (leaf.dtype.kind in "SUO") != (dtype == "string"):
        return ""
    if dtype == "string" or "float" in dtype:
        return None
    if leaf.dtype.kind not in "biu":
        return ", whose fractions a cast would cut off"
    if dtype != "bool" and leaf.size:
        bounds = np.iinfo(dtype)
        if leaf.min() < bounds.min or leaf.max() > bounds.max:
            return f" with values from {leaf.min()} to {leaf.max()}"
    return None
