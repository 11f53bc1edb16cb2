"""Masks that act inside the compiled training step, as constraints of the variables."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from bigmodel.errors import ModelError


class MaskConstraint(keras.constraints.Constraint):
    """Zeroes the masked weights, after the constraint that the variable already had.

    Args:
        mask: Boolean variable of the shape of the weights, `False` where a weight is zero.
        inner: The variable's own constraint, or `None`.
        fit: Stands for the `fit` that it was made for; tells a living sibling from what a broken `fit` left behind.
    """

    def __init__(self, mask: keras.Variable, inner: Any, fit: object) -> None:
        self.mask = mask
        self.inner = inner
        self.fit = fit

    def __call__(self, w: Any) -> Any:
        value = w if self.inner is None else self.inner(w)
        return keras.ops.where(self.mask, value, keras.ops.zeros_like(value))


class Masks:
    """Masks on some variables of a model, from `Masks(...)` until `release()`.

    The optimizer applies a constraint right after each update within the compiled step, so that a masked weight never
    leaves zero and nothing runs eagerly. The step that was traced before does not know the constraints, and the one
    traced with them keeps them: it is traced again at both ends.

    Args:
        model: A compiled model.
        variables: Which of its variables; their masks keep everything at first.
        fit: Any object that all masks of one `fit` share, and no other `fit` has.

    Raises:
        ModelError: Keras runs on another backend than TensorFlow.
    """

    def __init__(self, model: keras.Model, variables: Iterable[keras.Variable], *, fit: object) -> None:
        if keras.backend.backend() != "tensorflow":
            raise ModelError(
                "Masks need a training step that reads variables.",
                received=f"the {keras.backend.backend()} backend",
                expected="the tensorflow backend",
                fix="Set KERAS_BACKEND=tensorflow before Keras is imported.",
            )
        self._model = model
        self.variables = list(variables)
        # Under a tf.distribute strategy a variable lives where the model's do only if it is made in its scope.
        strategy = getattr(model, "distribute_strategy", None)
        with strategy.scope() if strategy is not None else contextlib.nullcontext():
            self._constraints = [
                MaskConstraint(
                    keras.Variable(np.ones(v.shape, dtype=bool), dtype="bool", trainable=False, name="mask"),
                    _own_constraint(v, fit),
                    fit,
                )
                for v in self.variables
            ]
        for variable, constraint in zip(self.variables, self._constraints, strict=True):
            variable.constraint = constraint
        model.make_train_function(force=True)

    def values(self) -> list[NDArray[Any]]:
        """The masked weights as arrays."""
        pairs = zip(self.variables, self._constraints, strict=True)
        arrays = [(np.asarray(v), np.asarray(c.mask)) for v, c in pairs]
        return [np.where(mask, weights, np.zeros_like(weights)) for weights, mask in arrays]

    def assign(self, masks: Sequence[NDArray[np.bool_] | None]) -> None:
        """Sets the masks (`None` leaves one as it is) and zeroes the weights that all of them drop, at once."""
        for constraint, mask in zip(self._constraints, masks, strict=True):
            if mask is not None:
                constraint.mask.assign(mask)
        self.apply()

    def apply(self) -> None:
        """Zeroes what the masks drop, outside of a training step."""
        for variable, constraint in zip(self.variables, self._constraints, strict=True):
            variable.assign(keras.ops.where(constraint.mask, variable, keras.ops.zeros_like(variable)))

    def release(self) -> None:
        """Gives the variables their own constraints back; the weights stay as they are."""
        for variable, constraint in zip(self.variables, self._constraints, strict=True):
            _remove(variable, constraint)
        self._model.make_train_function(force=True)


def _own_constraint(variable: keras.Variable, fit: object) -> Any:
    constraint = variable.constraint
    # A `fit` that raised never reached its end: its mask must not be composed into the next one.
    while isinstance(constraint, MaskConstraint) and constraint.fit is not fit:
        constraint = constraint.inner
    return constraint


def _remove(variable: keras.Variable, constraint: MaskConstraint) -> None:
    if variable.constraint is constraint:
        variable.constraint = constraint.inner
        return
    # A sibling's mask came on top of ours: take ours out from below it.
    outer = variable.constraint
    while isinstance(outer, MaskConstraint) and outer.inner is not constraint:
        outer = outer.inner
    if isinstance(outer, MaskConstraint):
        outer.inner = constraint.inner
