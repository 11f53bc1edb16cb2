"""What a call works on: a compiled model and checked splits, with labels or without."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import keras

from bigmodel.data import Data, as_data, has_labels
from bigmodel.own_parts import own_training
from bigmodel.training.compilation import compile_like
from bigmodel.training.defaults import ensure_compiled
from bigmodel.training.self_labels import self_labelled


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A model and data that steps can work on.

    Args:
        model: Compiled: the caller's model, or a clone of it with a loss and metrics that fit.
        data: The splits, with labels.
        given: The splits as they came; the same, unless the labels are the model's own outputs.
        notes: What was chosen for the caller.
        caller: The caller's model.
    """

    model: keras.Model
    data: Data
    given: Data
    notes: tuple[str, ...]
    caller: keras.Model

    def compiled_like_the_callers(self, made: keras.Model) -> keras.Model:
        """Returns what a step made, compiled as the caller's model was, where that one was compiled."""
        if self.caller.compiled and self.model is not self.caller:
            compile_like(made, self.caller)
        return made


def prepare(
    model: keras.Model, data: Any, *, seed: int = 0, test_fraction: float = 0.1, batch_size: int = 128
) -> Prepared:
    """Makes a caller's model and data ready. Neither is changed.

    Data without labels takes the model's own outputs as labels, unless the model trains in a way of its own.

    Args:
        model: A built model, compiled or not.
        data: Data in any form that `as_data` takes.
        seed: Seed of cuts and samples.
        test_fraction: Share of train for a missing test split.
        batch_size: Samples that are read, or labelled, at a time.

    Raises:
        DataError: The data does not fit the model, or some of it has labels but train has none.
        ModelError: The model can't be cloned where that is needed.
    """
    splits_of = partial(as_data, data, seed=seed, test_fraction=test_fraction, batch_size=batch_size)
    if has_labels(data) or own_training(model):
        compiled, notes = ensure_compiled(model, data)
        splits = splits_of(model=compiled)
        return Prepared(compiled, splits, splits, notes, model)
    given = splits_of(model=model, labels=False)
    compiled, splits, notes = self_labelled(model, given, batch_size=batch_size)
    return Prepared(compiled, splits, given, notes, model)
