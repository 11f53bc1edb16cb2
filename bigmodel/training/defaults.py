"""Loss and metrics for a model that came without: read off its outputs and the labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import keras
import numpy as np

from bigmodel.data import Data, as_data
from bigmodel.errors import DataError, describe
from bigmodel.training.cloning import clone

Activation = Literal["softmax", "sigmoid", "linear", "other"]


@dataclasses.dataclass(frozen=True)
class _Choice:
    loss: Any
    metrics: tuple[Any, ...]
    reason: str

    @property
    def loss_name(self) -> str:
        return self.loss if isinstance(self.loss, str) else self.loss.name + " (from logits)"


def ensure_compiled(model: keras.Model, data: Data | Any) -> tuple[keras.Model, tuple[str, ...]]:
    """Gives a model a loss and metrics if it has none. The caller's model is not changed.

    Args:
        model: A built model, compiled or not.
        data: The data it will be trained on, in any form that `as_data` takes; a few of its labels are read.

    Returns:
        A compiled model with its notes, as is if it was compiled; else a compiled clone, and notes that name what was
        chosen for each output and why.

    Raises:
        DataError: The data has no labels, or the labels fit no loss for the outputs.

    Example:
        >>> import numpy as np
        >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, "softmax", name="kind")])
        >>> data = (np.zeros((40, 3), "float32"), np.arange(40) % 4)
        >>> ensure_compiled(model, data)[1]
        ('kind: sparse_categorical_crossentropy and accuracy, from softmax and whole-number labels; optimizer Adam',)
    """
    if model.compiled:
        return model, ()
    batch = next(iter(as_data(data, model=model).train.batches(256)))
    if len(batch) < 2:
        raise DataError(
            "The model is not compiled and the data has no labels to choose a loss from.",
            received=f"a data set of {type(batch[0]).__name__} inputs alone",
            expected="inputs with labels",
            fix="Pass (x, y), or compile the model with a loss of its own.",
        )
    x, y = keras.tree.map_structure(np.asarray, batch[0]), keras.tree.map_structure(np.asarray, batch[1])
    outputs = model(x, training=False)
    names, labels = _paired(model, outputs, y)
    kinds = activations(model, outputs)
    arrays = [np.asarray(output) for output in keras.tree.flatten(outputs)]
    choices = [_choose(*row) for row in zip(names, kinds, labels, arrays, strict=True)]
    second = clone(model)
    second.compile(
        optimizer=keras.optimizers.Adam(),
        loss=keras.tree.pack_sequence_as(outputs, [choice.loss for choice in choices]),
        metrics=_metrics(outputs, choices),
    )
    return second, tuple(_note(name, choice) for name, choice in zip(names, choices, strict=True))


def activations(model: keras.Model, outputs: Any = None) -> list[Activation]:
    """The activation behind each output, in the order of `keras.tree.flatten`.

    Args:
        model: Any model. Of functional ones the layer behind the output tells.
        outputs: Example outputs, which tell for subclassed models: rows of shares, numbers in 0..1, or any.
    """
    if not getattr(model, "outputs", None):
        return [_probed(np.asarray(output)) for output in keras.tree.flatten(outputs)]
    return [_named(output._keras_history.operation) for output in keras.tree.flatten(model.outputs)]


def _named(operation: Any) -> Activation:
    while isinstance(operation, keras.Model) and getattr(operation, "outputs", None):
        operation = operation.outputs[0]._keras_history.operation
    if isinstance(operation, keras.layers.Softmax):
        return "softmax"
    name = getattr(getattr(operation, "activation", None), "__name__", type(operation).__name__.lower())
    known: dict[str, Activation] = {"softmax": "softmax", "sigmoid": "sigmoid", "linear": "linear"}
    # Layers that pass values on: what comes out is as unbounded as what a linear layer gives.
    passing = ("add", "reshape", "flatten", "dropout", "rescaling", "averagepooling", "globalaveragepooling")
    return known.get(name, "linear" if name.rstrip("123d").rstrip("_") in passing else "other")


def _probed(output: np.ndarray) -> Activation:
    if output.min() < 0 or output.max() > 1:
        return "linear"
    is_shares = output.ndim > 1 and output.shape[-1] > 1 and np.allclose(output.sum(axis=-1), 1, atol=1e-2)
    return "softmax" if is_shares else "sigmoid"


def output_names(model: keras.Model, outputs: Any) -> list[str]:
    """The names of a model's outputs, in the order of `keras.tree.flatten`.

    Args:
        model: Any model.
        outputs: Its outputs, as it structures them.
    """
    if isinstance(outputs, dict):
        return sorted(outputs)
    layers = [
        output._keras_history.operation.name for output in keras.tree.flatten(getattr(model, "outputs", None) or [])
    ]
    unnamed = [f"output_{i}" for i in range(len(keras.tree.flatten(outputs)))]
    return list(getattr(model, "output_names", None) or (layers if len(layers) == len(unnamed) else unnamed))


def _paired(model: keras.Model, outputs: Any, y: Any) -> tuple[list[str], list[np.ndarray]]:
    names = output_names(model, outputs)
    if isinstance(outputs, dict):
        labels = [y[name] for name in names] if isinstance(y, dict) and set(y) >= set(names) else keras.tree.flatten(y)
    elif isinstance(y, dict) and set(y) >= set(names):
        labels = [y[name] for name in names]
    else:
        labels = keras.tree.flatten(y)
    if len(labels) != len(names):
        raise DataError(
            "The model has another number of outputs than there are labels.",
            received=f"{len(labels)} sets of labels",
            expected=f"{len(names)}: {', '.join(names)}",
            fix="Pass the labels as a list or dict with one entry for each output.",
        )
    return names, labels


def _choose(name: str, kind: Activation, labels: np.ndarray, output: np.ndarray) -> _Choice:
    units = output.shape[-1] if output.ndim > 1 else 1
    same = labels.shape == output.shape or (units == 1 and labels.size == output.size)
    sparse = labels.shape == output.shape[:-1] or labels.shape == (*output.shape[:-1], 1)
    whole = labels.dtype.kind in "iub"
    if units > 1 and sparse and (whole or (kind == "softmax" and bool(np.all(labels == np.round(labels))))):
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        is_logits = kind in ("linear", "other")
        return _Choice(
            loss if is_logits else "sparse_categorical_crossentropy", ("accuracy",), f"{kind} and whole-number labels"
        )
    if not same:
        raise DataError(
            f"No loss fits output {name!r} and its labels.",
            received=f"labels: {describe(labels)}",
            expected=f"class numbers of shape {output.shape[:-1]}, or values of the output's shape {output.shape}",
            fix="Bring the labels into one of these shapes, or compile the model with a loss of its own.",
        )
    zero_one = bool(np.isin(labels, (0, 1)).all())
    if units > 1 and kind == "softmax":
        return _Choice("categorical_crossentropy", ("accuracy",), "softmax and one-hot labels")
    if kind == "sigmoid" and bool(((labels >= 0) & (labels <= 1)).all()):
        return _Choice("binary_crossentropy", ("accuracy",), "sigmoid and labels in 0..1")
    if kind == "linear" and whole and zero_one:
        if units > 1 and bool((labels.sum(axis=-1) == 1).all()):
            loss = keras.losses.CategoricalCrossentropy(from_logits=True)
            return _Choice(loss, ("accuracy",), "logits and one-hot labels")
        # Logits: the border between the classes lies at 0.
        metric = keras.metrics.BinaryAccuracy(name="accuracy", threshold=0.0)
        return _Choice(keras.losses.BinaryCrossentropy(from_logits=True), (metric,), "logits and 0/1 labels")
    return _Choice("mse", ("mae",), f"{kind} and {labels.dtype} targets")


def _metrics(outputs: Any, choices: Sequence[_Choice]) -> Any:
    metrics = [list(choice.metrics) for choice in choices]
    if isinstance(outputs, dict):
        return dict(zip(sorted(outputs), metrics, strict=True))
    return metrics if len(metrics) > 1 else metrics[0]


def _note(name: str, choice: _Choice) -> str:
    metrics = " and ".join(metric if isinstance(metric, str) else metric.name for metric in choice.metrics)
    return f"{name}: {choice.loss_name} and {metrics}, from {choice.reason}; optimizer Adam"
