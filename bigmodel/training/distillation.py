"""Distillation: the model learns from the labels and from a teacher's outputs."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any, Final

import keras

from bigmodel.errors import ModelError, check_argument, number
from bigmodel.training.defaults import Activation, activations

TEMPERATURE: Final = 2.0
"""Divides the logits of both before they are compared, where nobody says another."""
SOFT_SHARE: Final = 0.5
"""Share of the teacher's part in the loss at the start where nobody says another; the rest is the compiled loss."""


class Distillation(keras.callbacks.Callback):
    """Trains a model on its labels and on a teacher's outputs. The teacher is not changed.

    The teacher's share falls linearly to zero over the training, so that the model may end better than its teacher:
    networks that were trained with much dropout are poor teachers of their smaller selves. On Fashion-MNIST, a
    784-38-19-10 network loses 0.9 points to a constant share of one half. Where a stream does not know its length,
    the share stays.

    The model itself is trained, with its own `train_step`, metrics, sample weights and regularization. (Keras' own
    `Distiller` drops sample weights, loss weights and regularization, takes the softmax of probabilities once more,
    and freezes the teacher that it was given.) Validation and evaluation see the compiled loss alone.

    Classes are compared by the Kullback-Leibler divergence at a temperature, 0/1 outputs by crossentropy, other
    outputs by the mean squared difference; a subclass may say otherwise in `soft_loss`.

    Args:
        teacher: A model with the same inputs and outputs.
        share: Of the teacher's part in the loss at the start, 0..1; the rest is the compiled loss.
        temperature: Divides the logits of both before they are compared; higher values weigh the unlikely classes
            more.

    Raises:
        ArgumentError: The teacher is no model, or a number is out of range.
        ModelError: When training begins: the teacher is the model itself, or its outputs have other shapes.

    Source:
        Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015,
        https://arxiv.org/abs/1503.02531. The falling share: Clark et al., "BAM! Born-Again Multi-Task Networks for
        Natural Language Understanding", 2019, https://arxiv.org/abs/1907.04829.

    Example:
        `smaller.fit(x, y, epochs=5, callbacks=[bm.callbacks.Distillation(model)])`
    """

    def __init__(self, teacher: keras.Model, share: float = SOFT_SHARE, temperature: float = TEMPERATURE) -> None:
        super().__init__()
        check_argument("Distillation", "teacher", teacher, lambda t: isinstance(t, keras.Model), "a Keras model")
        check_argument("Distillation", "share", share, number(lambda s: 0 <= s <= 1), "a number from 0 to 1")
        check_argument(
            "Distillation", "temperature", temperature, number(lambda t: 0 < t < math.inf), "a number above 0"
        )
        self.teacher, self.share, self.temperature = teacher, share, temperature
        self._student: keras.Model | None = None
        self._detach: Callable[[], None] = lambda: None
        self._compare: list[Callable[..., Any]] = []
        self._begin, self._length = 0, 0

    def soft_loss(self, targets: Sequence[Any], predictions: Sequence[Any], sample_weight: Any) -> Any:
        """Returns the teacher's part of the loss, a scalar.

        Args:
            targets: The teacher's outputs of a batch, in the order of `keras.tree.flatten`, in float32.
            predictions: Those of the model.
            sample_weight: An array of one weight for each sample, or `None`.
        """
        if not self._compare:
            self._compare = _comparisons(self.model, len(predictions), self.temperature)
        pairs = zip(self._compare, targets, predictions, strict=True)
        return sum(distance(t, p, sample_weight=sample_weight) for distance, t, p in pairs)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self.release()
        _check_teacher(self.teacher, self.model)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if self._student is not None:
            return
        # A run that goes on begins at a later epoch, and its optimizer knows the steps of those before.
        optimizer, steps = self.model.optimizer, self.params.get("steps") or 0
        parts = optimizer.gradient_accumulation_steps or 1
        self._begin = int(optimizer.iterations) - steps * epoch // parts
        self._length = steps * self.params["epochs"] // parts
        self._attach(self.model)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        self.release()

    def release(self) -> None:
        """Gives the model its own loss back; of use after a training that an exception ended."""
        if self._student is not None:
            self._detach()
            self._student, self._compare = None, []

    def _attach(self, model: keras.Model) -> None:
        own, was_replaced = model.compute_loss, "compute_loss" in vars(model)
        takes_training = "training" in inspect.signature(own).parameters
        told_before = model._compute_loss_has_training_arg

        def compute_loss(
            x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
        ) -> Any:
            hard = own(x, y, y_pred, sample_weight, **({"training": training} if takes_training else {}))
            if not training or self._student is None:
                return hard
            outputs = (self.teacher(x, training=False), y_pred)
            targets, predictions = (
                [keras.ops.cast(part, "float32") for part in keras.tree.flatten(output)] for output in outputs
            )
            # One array of weights belongs to all outputs; a structure of them to the losses of the labels alone.
            weight = None if keras.tree.is_nested(sample_weight) else sample_weight
            share = self.share * self._left(model.optimizer)
            return (1 - share) * hard + share * self.soft_loss(targets, predictions, weight)

        def detach() -> None:
            if vars(model).get("compute_loss") is compute_loss:  # else somebody replaced it in turn
                if was_replaced:
                    model.compute_loss = own
                else:
                    del model.compute_loss
                model._compute_loss_has_training_arg = told_before
            model.make_train_function(force=True)

        model.compute_loss, model._compute_loss_has_training_arg = compute_loss, True
        model.make_train_function(force=True)
        self._student, self._detach = model, detach

    def _left(self, optimizer: Any) -> Any:
        """The part of the training that is still to come, in 1..0."""
        if not self._length:
            return 1.0
        done = keras.ops.cast(optimizer.iterations, "float32") - self._begin
        return keras.ops.maximum(1.0 - done / self._length, 0.0)

    def __deepcopy__(self, memo: dict[int, Any]) -> Distillation:
        # Tuners copy callbacks. A copy has the settings and the same teacher, and nothing of a fit that is under way.
        clone = copy.copy(self)
        clone._model, clone.params = None, None
        clone._student, clone._detach, clone._compare = None, lambda: None, []
        return clone


def _check_teacher(teacher: keras.Model, model: keras.Model) -> None:
    if teacher is model:
        raise ModelError(
            "A model can't learn from itself.",
            received=f"{model.name} as its own teacher",
            expected="another model with the same inputs and outputs",
            fix="Pass the trained model as the teacher of its smaller or quantized version.",
        )
    shapes = [[tuple(part.shape[1:]) for part in getattr(m, "outputs", None) or []] for m in (teacher, model)]
    if all(shapes) and not _may_be_equal(*shapes):
        raise ModelError(
            "The teacher's outputs don't fit the model's.",
            received=f"outputs of {teacher.name}, of each sample: {shapes[0]}",
            expected=f"those of {model.name}: {shapes[1]}",
            fix="Take a teacher with the same outputs, or cut it: keras.Model(teacher.inputs, ...).",
        )


def _may_be_equal(shapes: list[tuple[Any, ...]], others: list[tuple[Any, ...]]) -> bool:
    """Says whether outputs fit; a size that is not known fits any."""
    return [len(shape) for shape in shapes] == [len(other) for other in others] and all(
        None in (a, b) or a == b
        for shape, other in zip(shapes, others, strict=True)
        for a, b in zip(shape, other, strict=True)
    )


def _comparisons(model: keras.Model, count: int, temperature: float) -> list[Callable[..., Any]]:
    losses = keras.tree.flatten(model.loss)
    if len(losses) != count:
        losses = [None] * count
    functional = bool(getattr(model, "outputs", None))
    kinds: list[Activation] = activations(model) if functional else [_kind_of(loss) for loss in losses]
    return [_comparison(kind, loss, temperature) for kind, loss in zip(kinds, losses, strict=True)]


def _kind_of(loss: Any) -> Activation:
    name = _loss_name(loss)
    if getattr(loss, "from_logits", False):
        return "linear"
    return "softmax" if "categorical" in name else "sigmoid" if "binary" in name else "other"


def _loss_name(loss: Any) -> str:
    return loss if isinstance(loss, str) else str(getattr(loss, "name", getattr(loss, "__name__", "")))


def _comparison(kind: Activation, loss: Any, temperature: float) -> Callable[..., Any]:
    from_logits, name = getattr(loss, "from_logits", False), _loss_name(loss)
    if kind == "softmax" or (from_logits and "categorical" in name):
        return lambda t, p, sample_weight: _divergence(t, p, sample_weight, from_logits, temperature)
    if kind == "sigmoid" or (from_logits and "binary" in name):
        return lambda t, p, sample_weight: _crossentropy(t, p, sample_weight, from_logits, temperature)
    squared = keras.losses.MeanSquaredError()
    return lambda t, p, sample_weight: squared(t, p, sample_weight=sample_weight)


def _divergence(target: Any, prediction: Any, sample_weight: Any, from_logits: bool, temperature: float) -> Any:
    def softened(values: Any) -> Any:
        logits = values if from_logits else keras.ops.log(keras.ops.maximum(values, 1e-7))
        return keras.ops.softmax(logits / temperature)

    # The loss objects divide by the number of replicas of a tf.distribute strategy, as the compiled loss does.
    distance = keras.losses.KLDivergence()
    # Gradients shrink with the square of the temperature.
    return distance(softened(target), softened(prediction), sample_weight=sample_weight) * temperature**2


def _crossentropy(target: Any, prediction: Any, sample_weight: Any, from_logits: bool, temperature: float) -> Any:
    def logits(values: Any) -> Any:
        if from_logits:
            return values
        values = keras.ops.clip(values, 1e-7, 1 - 1e-7)
        return keras.ops.log(values) - keras.ops.log1p(-values)

    distance = keras.losses.BinaryCrossentropy(from_logits=True)
    soft = keras.ops.sigmoid(logits(target) / temperature)
    return distance(soft, logits(prediction) / temperature, sample_weight=sample_weight) * temperature**2
