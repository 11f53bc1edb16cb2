"""A model's own outputs as labels: what stands in for a target where the data has none."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import keras
import numpy as np

from bigmodel.data import Data, with_labels
from bigmodel.data.labels import loss_name, targets
from bigmodel.training.cloning import clone_uncompiled
from bigmodel.training.compilation import Compilation
from bigmodel.training.defaults import Activation, activations, output_names

Kind = Literal["classes", "binary", "values"]

_NO_LABELS = (
    "there were no labels: the model's own outputs are the target, and every figure says how close to the model a "
    "file is, not how good"
)
_MEANING: dict[Kind, str] = {
    "classes": "the share of samples with the same top class",
    "binary": "the share of answers on the same side of the decision",
    "values": "1 where the values are the same, 0 where they are no better than their mean",
}


@dataclasses.dataclass(frozen=True)
class SelfLabel:
    """How one output is its own target.

    Args:
        name: The output's name.
        kind: Whether it chooses among classes, answers yes or no, or gives values.
        from_logits: Whether classes and answers are logits.
        rank: Number of axes of the output, the batch axis included.
    """

    name: str
    kind: Kind
    from_logits: bool
    rank: int

    def target(self, output: Any) -> Any:
        """The labels, float32 of the output's shape: shares of the classes, 0 and 1, or the values.

        A yes or no is hard, as Keras' own metrics want it; its certainty comes with distillation.
        """
        output = keras.ops.cast(output, "float32")
        if self.kind == "classes":
            return keras.ops.softmax(output) if self.from_logits else keras.ops.clip(output, 0.0, 1.0)
        if self.kind == "binary":
            return keras.ops.cast(output > self._border, "float32")
        return output

    def loss(self) -> keras.losses.Loss:
        """The loss of an output against its target."""
        if self.kind == "classes":
            return keras.losses.CategoricalCrossentropy(from_logits=self.from_logits)
        if self.kind == "binary":
            return keras.losses.BinaryCrossentropy(from_logits=self.from_logits)
        return keras.losses.MeanSquaredError()

    def metrics(self) -> list[keras.metrics.Metric]:
        """Agreement, 1 for the model itself; of values the mean absolute difference too, in their own units.

        An error alone could not be bounded: the float file's is next to nothing, and any other a huge rise of it.
        """
        if self.kind == "classes":
            return [keras.metrics.CategoricalAccuracy(name="agreement")]
        if self.kind == "binary":
            return [keras.metrics.BinaryAccuracy(name="agreement", threshold=self._border)]
        difference = keras.metrics.MeanAbsoluteError(name="mae")
        if self.rank == 2:
            return [keras.metrics.R2Score("variance_weighted_average", name="agreement"), difference]
        axes = tuple(range(1, self.rank))
        return [keras.metrics.ConcordanceCorrelation(axis=axes, name="agreement"), difference]

    @property
    def note(self) -> str:
        """What the metric means, for the report."""
        return f"{self.name}: agreement is {_MEANING[self.kind]}; trained by {loss_name(self.loss())}"

    @property
    def _border(self) -> float:
        return 0.0 if self.from_logits else 0.5


def self_labelled(
    model: keras.Model, data: Data, *, batch_size: int = 128
) -> tuple[keras.Model, Data, tuple[str, ...]]:
    """Makes a model's own outputs its labels. The caller's model and data are not changed.

    What an output is follows from the loss that the model was compiled with, else from the activation behind it: a
    linear output of a model that was not compiled gives values.

    Args:
        model: A built model that trains as `keras.Model` does, compiled or not.
        data: Splits without labels, from `as_data(..., model=model, labels=False)`.
        batch_size: Samples per prediction.

    Returns:
        A clone of the model with the caller's optimizer (else Adam), a loss that learns the outputs, and the metric
        "agreement"; the data with the outputs as labels; and notes that say so.

    Raises:
        ModelError: The model is not built or can't be cloned.

    Example:
        >>> from bigmodel.data import as_data
        >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, "softmax", name="kind")])
        >>> data = as_data(np.random.default_rng(0).random((40, 3), "float32"), model=model)
        >>> second, labelled, notes = self_labelled(model, data)
        >>> second.evaluate(labelled.test.batches(), verbose=0, return_dict=True)["agreement"]
        1.0
        >>> notes[1]
        'kind: agreement is the share of samples with the same top class; trained by categorical_crossentropy'
    """
    (x, *_) = next(iter(data.train.batches(batch_size)))
    outputs = model(x, training=False)
    own = _self_labels(model, outputs)

    def label(x: Any) -> Any:
        answers = model(x, training=False)
        made = [one.target(output) for one, output in zip(own, keras.tree.flatten(answers), strict=True)]
        packed = keras.tree.pack_sequence_as(answers, made)
        return tuple(packed) if isinstance(packed, list) else packed  # tf.data reads a list as one tensor

    second = clone_uncompiled(model)
    settings = {
        "loss": keras.tree.pack_sequence_as(outputs, [one.loss() for one in own]),
        "metrics": _packed(outputs, [one.metrics() for one in own]),
        "weighted_metrics": None,
    }
    if model.compiled:
        compilation = Compilation.of(model)
        dataclasses.replace(compilation, settings={**compilation.settings, **settings}).apply(second)
    else:
        second.compile(optimizer=keras.optimizers.Adam(), **settings)
    return second, with_labels(data, label, batch_size=batch_size), (_NO_LABELS, *(one.note for one in own))


def _self_labels(model: keras.Model, outputs: Any) -> list[SelfLabel]:
    flat = [np.asarray(output) for output in keras.tree.flatten(outputs)]
    losses = [target.loss for target in targets(model)]
    if len(losses) != len(flat):  # a subclassed model with losses for several outputs does not declare them
        losses = [None] * len(flat)
    rows = zip(output_names(model, outputs), losses, activations(model, outputs), flat, strict=True)
    return [SelfLabel(name, *_kind_of(loss, activation), output.ndim) for name, loss, activation, output in rows]


def _kind_of(loss: Any, activation: Activation) -> tuple[Kind, bool]:
    name, from_logits = loss_name(loss), bool(getattr(loss, "from_logits", False))
    if "crossentropy" in name and "categorical" in name:
        return "classes", from_logits
    if "crossentropy" in name and "binary" in name:
        return "binary", from_logits
    kinds: dict[Activation, Kind] = {"softmax": "classes", "sigmoid": "binary"}
    return kinds.get(activation, "values"), False


def _packed(outputs: Any, metrics: list[Any]) -> Any:
    if isinstance(outputs, dict):
        return dict(zip(sorted(outputs), metrics, strict=True))
    return metrics if len(metrics) > 1 else metrics[0]
