"""What holds weights inside the compiled training step: constraints of the variables, masks first of all."""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from bigmodel.errors import ModelError


class StepConstraint(keras.constraints.Constraint):
    """Acts on a variable after the constraint that it already had.

    Args:
        inner: The variable's own constraint, or `None`.
        fit: Stands for the `fit` that it was made for; tells a living sibling from what a broken `fit` left behind.
    """

    def __init__(self, inner: Any, fit: object) -> None:
        self.inner = inner
        self.fit = fit

    @abc.abstractmethod
    def act(self, value: Any) -> Any:
        """What becomes of an updated value."""

    def __call__(self, w: Any) -> Any:
        return self.act(w if self.inner is None else self.inner(w))


class Held(abc.ABC):
    """Constraints on some variables of a model, from when they are made until `release()`.

    The optimizer applies a constraint right after each update within the compiled step, so that nothing runs eagerly.
    The step that was traced before does not know the constraints, and the one traced with them keeps them: it is traced
    again at both ends.

    Args:
        model: A compiled model.
        variables: Which of its variables.
        fit: Any object that all constraints of one `fit` share, and no other `fit` has.

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
            self._constraints: list[Any] = [
                self._constraint(index, _own_constraint(variable, fit), fit)
                for index, variable in enumerate(self.variables)
            ]
        for variable, constraint in zip(self.variables, self._constraints, strict=True):
            variable.constraint = constraint
        model.make_train_function(force=True)

    @abc.abstractmethod
    def _constraint(self, index: int, inner: Any, fit: object) -> StepConstraint:
        """The constraint of one variable."""

    @abc.abstractmethod
    def apply(self) -> None:
        """Does what the constraints do, outside of a training step."""

    def release(self) -> None:
        """Gives the variables their own constraints back; the weights stay as they are."""
        for variable, constraint in zip(self.variables, self._constraints, strict=True):
            _remove(variable, constraint)
        self._model.make_train_function(force=True)


class MaskConstraint(StepConstraint):
    """Zeroes the masked weights.

    Args:
        mask: Boolean variable of the shape of the weights, `False` where a weight is zero.
        inner: See `StepConstraint`; so is `fit`.
        fit: See `StepConstraint`.
    """

    def __init__(self, mask: keras.Variable, inner: Any, fit: object) -> None:
        super().__init__(inner, fit)
        self.mask = mask

    def act(self, value: Any) -> Any:
        # A product, which costs half of what a selection does; it leaves zeros of either sign until the fit ends.
        return value * keras.ops.cast(self.mask, value.dtype)


class Masks(Held):
    """Masks on some variables of a model; a masked weight never leaves zero. They keep everything at first.

    Args:
        model: See `Held`; so are the others.
        variables: See `Held`.
        fit: See `Held`.
    """

    def __init__(self, model: keras.Model, variables: Iterable[keras.Variable], *, fit: object) -> None:
        variables = list(variables)
        # The masks once more, on the host, where they are computed.
        self.kept = [np.ones(variable.shape, dtype=bool) for variable in variables]
        super().__init__(model, variables, fit=fit)

    def _constraint(self, index: int, inner: Any, fit: object) -> StepConstraint:
        mask = keras.Variable(self.kept[index], dtype="bool", trainable=False, name="mask")
        return MaskConstraint(mask, inner, fit)

    def values(self) -> list[NDArray[Any]]:
        """The masked weights as arrays of their own."""
        weights = map(np.asarray, self.variables)
        return [np.where(mask, w, w.dtype.type(0)) for w, mask in zip(weights, self.kept, strict=True)]

    def update(self, choose: Callable[[list[NDArray[Any]]], list[NDArray[np.bool_]]]) -> None:
        """Sets the masks that `choose` makes of the masked weights, and zeroes what they drop at once."""
        values = self.values()
        self.kept = choose(values)
        for constraint, mask in zip(self._constraints, self.kept, strict=True):
            constraint.mask.assign(mask)
        self._write(values)

    def apply(self) -> None:
        """Zeroes what the masks drop, outside of a training step."""
        self._write(self.values())

    def _write(self, values: list[NDArray[Any]]) -> None:
        for variable, weights, mask in zip(self.variables, values, self.kept, strict=True):
            weights[~mask] = 0
            variable.assign(weights)


def _own_constraint(variable: keras.Variable, fit: object) -> Any:
    constraint = variable.constraint
    # A `fit` that raised never reached its end: its constraint must not be composed into the next one.
    while isinstance(constraint, StepConstraint) and constraint.fit is not fit:
        constraint = constraint.inner
    return constraint


def _remove(variable: keras.Variable, constraint: StepConstraint) -> None:
    if variable.constraint is constraint:
        variable.constraint = constraint.inner
        return
    # A sibling's came on top of ours: take ours out from below it.
    outer = variable.constraint
    while isinstance(outer, StepConstraint) and outer.inner is not constraint:
        outer = outer.inner
    if isinstance(outer, StepConstraint):
        outer.inner = constraint.inner
