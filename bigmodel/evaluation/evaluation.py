"""One way to measure a Keras model and a .tflite file: their predictions go through the same Keras metrics."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from bigmodel.errors import ArgumentError, DataError
from bigmodel.evaluation.metric import compiled_with, primary_metric
from bigmodel.evaluation.outputs import Kind, class_accuracy, join, kind_of, per_sample
from bigmodel.litert import Delegate, LiteModel

if TYPE_CHECKING:
    from bigmodel.data import Split


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
    """What a model or a file answered on a split, and how good that was.

    Args:
        metric: The primary metric; for several outputs the mean over those that carry a metric of its name.
        metrics: Everything Keras computed, by Keras' names. The loss is that of the predictions alone: penalties on
            weights are no property of a file.
        samples: Number of samples.
        per_class: Accuracy of each class by its index; `None` unless the model has one output and it decides.
        outputs: The predictions, in the structure of the model's output, first axis the sample.
        labels: The labels, in the structure the split gives.
        kinds: What each output answers, as `bigmodel.evaluation.outputs.kind_of` says.
        scores: The primary metric of each sample, where the metric is their mean; else `None`.
        resampled: Computes the primary metric of chosen samples (by index).
    """

    metric: float
    metrics: dict[str, float]
    samples: int
    per_class: dict[str, float] | None
    outputs: Any = dataclasses.field(repr=False)
    labels: Any = dataclasses.field(repr=False)
    kinds: tuple[Kind, ...] = ()
    scores: np.ndarray | None = dataclasses.field(default=None, repr=False)
    resampled: Callable[[np.ndarray], float] | None = dataclasses.field(default=None, repr=False)


def evaluate_model(
    model: keras.Model, split: Split, *, batch_size: int = 128, like: keras.Model | None = None
) -> Evaluation:
    """Evaluates a Keras model on all samples of a split. Neither is changed.

    Args:
        model: The model.
        split: The samples, with labels.
        batch_size: Samples per prediction; a batched stream keeps its own.
        like: The compiled model whose loss and metrics count; `None`: the model's own.

    Raises:
        ModelError: The model that counts is not compiled.
        DataError: The split has no labels, is empty, or its samples differ in shape.
    """
    return _evaluate(model.predict_on_batch, split, like=model if like is None else like, batch_size=batch_size)


def evaluate_file(
    path: str | os.PathLike[str],
    split: Split,
    *,
    like: keras.Model,
    threads: int = 1,
    delegate: Delegate = "xnnpack",
    batch_size: int = 128,
) -> Evaluation:
    """Evaluates a .tflite file on all samples of a split, by the loss and metrics of a Keras model. Nothing is changed.

    Inputs and outputs of the file are matched with the model's by name, else by order.

    Args:
        path: The file.
        split: The samples, with labels.
        like: The compiled model that the file was made from, or one with the same inputs and outputs.
        threads: CPU threads of the runtime.
        delegate: "xnnpack", or `None` for the built-in kernels.
        batch_size: Samples per call of the runtime.

    Raises:
        ArgumentError: There is no such file, or it has another number of outputs than the model.
        ConversionError: The file can't be run.
        ModelError: The model is not compiled.
        DataError: The split has no labels, is empty, or does not fit the file.
    """
    file = LiteModel(path, threads=threads, delegate=delegate)
    structure: list[Any] = []

    def predict(x: Any) -> Any:
        if not structure:  # the model's own answer on one sample shows the form of its outputs
            structure.append(like.predict_on_batch(keras.tree.map_structure(lambda a: a[:1], x)))
        return _like_model(file.predict(_by_name(x, file, like), batch_size=batch_size), structure[0], file, like)

    return _evaluate(predict, split, like=like, batch_size=batch_size)


def _evaluate(predict: Callable[[Any], Any], split: Split, *, like: keras.Model, batch_size: int) -> Evaluation:
    primary_metric(like)  # a model without loss and metrics fails here, before anything runs
    batches = []
    for batch in split.batches(batch_size):
        x, y, w = (*batch, None, None)[:3]
        if y is None:
            raise DataError(
                f"The {split.name} split has no labels.",
                received="samples only",
                expected="(x, y) or (x, y, sample_weight)",
                fix="Pass labels with the data; without them no metric can be computed.",
            )
        batches.append((_floats(predict(_arrays(x))), _arrays(y), None if w is None else _arrays(w)))
    if not batches:
        raise DataError(
            f"The {split.name} split is empty.",
            received="no samples",
            expected="at least one sample",
            fix="Check the data; a generator that was used up yields nothing.",
        )
    outputs, labels, weights = (list(column) for column in zip(*batches, strict=True))
    return _score(
        like,
        _joined(outputs, "predictions"),
        _joined(labels, "labels"),
        None if weights[0] is None else _joined(weights, "sample weights"),
    )


def _score(like: keras.Model, outputs: Any, labels: Any, weights: Any) -> Evaluation:
    probe = _probe(like)
    metrics = probe.evaluate(outputs, labels, sample_weight=weights, batch_size=1024, verbose=0, return_dict=True)
    flat_outputs, flat_labels = _pairs(outputs, labels)
    kinds = tuple(kind_of(out, label) for out, label in zip(flat_outputs, flat_labels, strict=True))
    resampled = _resampler(probe, outputs, labels, weights)
    metric, name = None, primary_metric(like).name
    if name == "loss":
        metric, scores = float(metrics["loss"]), _loss_scores(like, flat_outputs, flat_labels, weights)
    else:
        found = [m for m, _, _ in _named_metrics(probe, name)]
        metric = float(np.mean([float(m.result()) for m in found]))
        scores = _metric_scores(probe, name, outputs, labels)
    if scores is not None and not np.isclose(scores.mean(), metric, rtol=1e-4, atol=1e-6):
        scores = None  # not a mean over samples after all
    return Evaluation(
        metric=metric,
        metrics={key: float(value) for key, value in metrics.items()},
        samples=len(flat_outputs[0]),
        per_class=class_accuracy(flat_outputs[0], flat_labels[0], kinds[0]) if len(kinds) == 1 else None,
        outputs=outputs,
        labels=labels,
        kinds=kinds,
        scores=scores,
        resampled=resampled,
    )


class _Predictions(keras.Model):
    """Passes predictions through: compiled like a model, it is Keras' own machinery for predictions of any source."""

    def call(self, predictions: Any) -> Any:
        return predictions


def _probe(like: keras.Model) -> keras.Model:
    from bigmodel.training import compile_like

    probe = _Predictions(name="predictions", dtype="float32")
    if getattr(like, "output_names", None):
        probe.output_names = list(like.output_names)  # metrics and losses may be given by them
    compile_like(probe, like)
    return probe


def _compile_metrics(probe: keras.Model) -> Any:
    # Which output a compiled metric belongs to is nowhere public.
    return next((m for m in probe.metrics if hasattr(m, "_flat_metrics")), None)


def _named_metrics(probe: keras.Model, name: str) -> list[tuple[keras.metrics.Metric, int, bool]]:
    """Returns the metrics of that name with the place of their output and whether they take sample weights."""
    compiled = _compile_metrics(probe)
    for lists, weighted in ((compiled._flat_metrics, False), (compiled._flat_weighted_metrics, True)):
        found = [
            (metric, place, weighted)
            for place, entry in enumerate(lists)
            for metric in (entry.metrics if entry is not None else [])
            if metric.name == name
        ]
        if found:
            return found
    return [(compiled.metrics[0], 0, False)]


def _metric_scores(probe: keras.Model, name: str, outputs: Any, labels: Any) -> np.ndarray | None:
    """Returns the metric of every sample where Keras defines it as a mean over them, else `None`."""
    compiled = _compile_metrics(probe)
    flat_outputs, flat_labels = compiled._flatten_y(outputs), compiled._flatten_y(labels)
    scores = []
    for metric, place, weighted in _named_metrics(probe, name):
        function = getattr(metric, "_fn", None)  # of a MeanMetricWrapper
        if function is None or weighted:
            return None
        values = function(flat_labels[place], flat_outputs[place], **metric._fn_kwargs)
        values = keras.ops.convert_to_numpy(values)
        if values.ndim == 0 or len(values) != len(flat_outputs[place]):
            return None
        scores.append(per_sample(values))
    return np.mean(scores, axis=0)


def _loss_scores(
    like: keras.Model, outputs: list[np.ndarray], labels: list[np.ndarray | None], weights: Any
) -> np.ndarray | None:
    losses = [loss for loss in keras.tree.flatten(compiled_with(like)["loss"]) if loss is not None]
    label = labels[0]
    if len(outputs) != 1 or label is None or len(losses) != 1 or str(losses[0]).lower() in ("crossentropy", "ce"):
        return None
    loss = keras.losses.get(losses[0])
    call = loss.call if isinstance(loss, keras.losses.Loss) else loss
    label = label if label.ndim == outputs[0].ndim or outputs[0].shape[-1] > 1 else label[..., None]
    values = keras.ops.convert_to_numpy(call(label, outputs[0]))
    if values.ndim == 0 or len(values) != len(outputs[0]):
        return None
    scores = per_sample(values)
    flat_weights = [] if weights is None else keras.tree.flatten(weights)
    return scores if not flat_weights else scores * per_sample(flat_weights[0])


def _resampler(probe: keras.Model, outputs: Any, labels: Any, weights: Any) -> Callable[[np.ndarray], float]:
    name = primary_metric(probe).name

    def metric_of(index: np.ndarray) -> float:
        def pick(structure: Any) -> Any:
            return keras.tree.map_structure(lambda a: a[index], structure)

        if name == "loss":
            weight = None if weights is None else pick(weights)
            return float(probe.compute_loss(y=pick(labels), y_pred=pick(outputs), sample_weight=weight, training=False))
        compiled = _compile_metrics(probe)
        flat_outputs, flat_labels = compiled._flatten_y(pick(outputs)), compiled._flatten_y(pick(labels))
        values = []
        for metric, place, weighted in _named_metrics(probe, name):
            flat_weights = compiled._flatten_y(pick(weights)) if weighted and weights is not None else [None]
            metric.reset_state()
            metric.update_state(
                flat_labels[place], flat_outputs[place], flat_weights[min(place, len(flat_weights) - 1)]
            )
            values.append(float(metric.result()))
        return float(np.mean(values))

    return metric_of


def _pairs(outputs: Any, labels: Any) -> tuple[list[np.ndarray], list[np.ndarray | None]]:
    """Returns outputs and labels as lists in the same order."""
    if isinstance(outputs, dict) and isinstance(labels, dict):
        return [outputs[k] for k in sorted(outputs)], [labels.get(k) for k in sorted(outputs)]
    flat_outputs, flat_labels = keras.tree.flatten(outputs), keras.tree.flatten(labels)
    return flat_outputs, flat_labels if len(flat_labels) == len(flat_outputs) else [None] * len(flat_outputs)


def _by_name(x: Any, file: LiteModel, like: keras.Model) -> Any:
    """Returns the samples in the form the file takes: its names where the model has the same, else its order."""
    names = [info.name for info in file.inputs]
    leaves = keras.tree.flatten(x)
    if len(names) == 1 and len(leaves) == 1:
        return leaves[0]
    if isinstance(x, dict) and set(x) == set(names):
        return x
    own = [tensor.name for tensor in getattr(like, "inputs", None) or []]
    return dict(zip(own, leaves, strict=True)) if set(own) == set(names) and len(own) == len(leaves) else leaves


def _like_model(predicted: Any, structure: Any, file: LiteModel, like: keras.Model) -> Any:
    """Returns the file's outputs in the model's structure: by the model's names, else by order."""
    names = [info.name for info in file.outputs]
    leaves = [predicted] if len(names) == 1 else [predicted[name] for name in names]
    if isinstance(structure, dict) and set(structure) == set(names):
        return {name: leaves[names.index(name)] for name in structure}
    wanted = list(getattr(like, "output_names", None) or [])
    if len(wanted) == len(names) and set(wanted) == set(names):
        leaves = [leaves[names.index(name)] for name in wanted]
    expected = keras.tree.flatten(structure)
    if len(leaves) != len(expected) or any(a.shape[1:] != b.shape[1:] for a, b in zip(leaves, expected, strict=True)):
        raise ArgumentError(
            f"The outputs of {file.path.name} are not those of model {like.name!r}.",
            received=", ".join(f"{name}: {a.shape[1:]}" for name, a in zip(names, leaves, strict=True)),
            expected=", ".join(str(b.shape[1:]) for b in expected),
            fix="Pass the model that the file was made from as `like`.",
        )
    return keras.tree.pack_sequence_as(structure, leaves)


def _arrays(structure: Any) -> Any:
    return keras.tree.map_structure(np.asarray, structure)


def _floats(structure: Any) -> Any:
    """Returns predictions as arrays, half precision widened: metrics are summed in float32."""

    def widen(value: Any) -> np.ndarray:
        array = np.asarray(value)
        is_real = array.dtype.kind == "f" or array.dtype.name == "bfloat16"
        return array.astype(np.float32) if is_real else array

    return keras.tree.map_structure(widen, structure)


def _joined(batches: list[Any], what: str) -> Any:
    return keras.tree.map_structure(lambda *leaves: join(leaves, what), *batches)
