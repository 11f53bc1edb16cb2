"""Distillation: the model learns from the labels and from a teacher's outputs."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any, Final

import keras

from bigmodel.training.defaults import Activation, activations

TEMPERATURE: Final = 2.0
"""Divides the logits of both before they are compared; higher values weigh the unlikely classes more."""
SOFT_SHARE: Final = 0.5
"""Share of the teacher's part in the loss at the start; the rest is the compiled loss."""


@contextlib.contextmanager
def distilling(model: keras.Model, teacher: keras.Model, steps: int | None = None) -> Iterator[None]:
    """Adds the teacher's part to the model's training loss while the context lasts. The teacher is not changed.

    The teacher's share falls linearly to zero over the training, so that the model may end better than its teacher:
    networks that were trained with much dropout are poor teachers of their smaller selves. On Fashion-MNIST, a
    784-38-19-10 network loses 0.9 points to a constant share of one half.

    The model itself is trained, with its own `train_step`, metrics, sample weights and regularization. (Keras' own
    `Distiller` drops sample weights, loss weights and regularization, takes the softmax of probabilities once more,
    and freezes the teacher that it was given.) Validation and evaluation see the compiled loss alone.

    Classes are compared by the Kullback-Leibler divergence at a temperature, 0/1 outputs by crossentropy, other
    outputs by the mean squared difference.

    Args:
        model: A compiled model; its `compute_loss` is replaced on the instance and given back.
        teacher: A model with the same inputs and outputs.
        steps: Steps of the whole training; `None`: unknown, the share stays.

    Source:
        Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015,
        https://arxiv.org/abs/1503.02531. The falling share: Clark et al., "BAM! Born-Again Multi-Task Networks for
        Natural Language Understanding", 2019, https://arxiv.org/abs/1907.04829.
    """
    own = model.compute_loss
    takes_training = "training" in inspect.signature(own).parameters
    compare: list[Callable[..., Any]] = []

    def compute_loss(
        x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        hard = own(x, y, y_pred, sample_weight, **({"training": training} if takes_training else {}))
        if not training:
            return hard
        targets = keras.tree.flatten(teacher(x, training=False))
        predictions = keras.tree.flatten(y_pred)
        if not compare:
            compare.extend(_comparisons(model, len(predictions)))
        # One array of weights belongs to all outputs; a structure of them to the losses of the labels alone.
        weight = None if keras.tree.is_nested(sample_weight) else sample_weight
        pairs = zip(compare, targets, predictions, strict=True)
        soft = sum(
            distance(keras.ops.cast(t, "float32"), keras.ops.cast(p, "float32"), sample_weight=weight)
            for distance, t, p in pairs
        )
        share = SOFT_SHARE * _left(model.optimizer, steps)
        return (1 - share) * hard + share * soft

    before = model._compute_loss_has_training_arg
    model.compute_loss, model._compute_loss_has_training_arg = compute_loss, True
    try:
        yield
    finally:
        del model.compute_loss
        model._compute_loss_has_training_arg = before
        model.make_train_function(force=True)


def _left(optimizer: Any, steps: int | None) -> Any:
    """The part of the training that is still to come, in 1..0."""
    if steps is None:
        return 1.0
    return keras.ops.maximum(1.0 - keras.ops.cast(optimizer.iterations, "float32") / steps, 0.0)


def _comparisons(model: keras.Model, count: int) -> list[Callable[..., Any]]:
    losses = keras.tree.flatten(model.loss)
    if len(losses) != count:
        losses = [None] * count
    functional = bool(getattr(model, "outputs", None))
    kinds: list[Activation] = activations(model) if functional else [_kind_of(loss) for loss in losses]
    return [_comparison(kind, loss) for kind, loss in zip(kinds, losses, strict=True)]


def _kind_of(loss: Any) -> Activation:
    name = _loss_name(loss)
    if getattr(loss, "from_logits", False):
        return "linear"
    return "softmax" if "categorical" in name else "sigmoid" if "binary" in name else "other"


def _loss_name(loss: Any) -> str:
    return loss if isinstance(loss, str) else str(getattr(loss, "name", getattr(loss, "__name__", "")))


def _comparison(kind: Activation, loss: Any) -> Callable[..., Any]:
    from_logits, name = getattr(loss, "from_logits", False), _loss_name(loss)
    if kind == "softmax" or (from_logits and "categorical" in name):
        return lambda t, p, sample_weight: _divergence(t, p, sample_weight, from_logits)
    if kind == "sigmoid" or (from_logits and "binary" in name):
        return lambda t, p, sample_weight: _crossentropy(t, p, sample_weight, from_logits)
    squared = keras.losses.MeanSquaredError()
    return lambda t, p, sample_weight: squared(t, p, sample_weight=sample_weight)


def _divergence(target: Any, prediction: Any, sample_weight: Any, from_logits: bool) -> Any:
    def softened(values: Any) -> Any:
        logits = values if from_logits else keras.ops.log(keras.ops.maximum(values, 1e-7))
        return keras.ops.softmax(logits / TEMPERATURE)

    # The loss objects divide by the number of replicas of a tf.distribute strategy, as the compiled loss does.
    distance = keras.losses.KLDivergence()
    # Gradients shrink with the square of the temperature.
    return distance(softened(target), softened(prediction), sample_weight=sample_weight) * TEMPERATURE**2


def _crossentropy(target: Any, prediction: Any, sample_weight: Any, from_logits: bool) -> Any:
    def logits(values: Any) -> Any:
        if from_logits:
            return values
        values = keras.ops.clip(values, 1e-7, 1 - 1e-7)
        return keras.ops.log(values) - keras.ops.log1p(-values)

    distance = keras.losses.BinaryCrossentropy(from_logits=True)
    soft = keras.ops.sigmoid(logits(target) / TEMPERATURE)
    return distance(soft, logits(prediction) / TEMPERATURE, sample_weight=sample_weight) * TEMPERATURE**2
