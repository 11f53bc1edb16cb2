"""When in a training quantization starts, and when its ranges and the normalisation statistics come to rest."""

from __future__ import annotations

import abc
import copy
import math
from collections.abc import Callable
from typing import Any

import keras

from bigmodel.data.elements import in_batches
from bigmodel.errors import check_argument, whole_from
from bigmodel.graph import walk
from bigmodel.quantization.layers import FakeQuantize, Quantized

# Share of a training after which ranges and statistics rest.
_RESTS_AFTER = 0.75
# Samples of a batch from which ranges are taken.
_BATCH = 64


class _Turn(keras.callbacks.Callback):
    """Something that changes at one step of a training. The step is traced again there, and costs nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self._step = self._seen = self._resumed = 0
        self._total: float = math.inf
        self._turned = False

    @abc.abstractmethod
    def _turns_at(self) -> float:
        """The step of the turn, counted from the start of `fit`; infinity where it is not known yet."""

    @abc.abstractmethod
    def _turn(self) -> None:
        """Makes the change."""

    def get_state(self) -> dict[str, Any]:
        """What a checkpoint has to hold."""
        return {"step": self._step}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on where `get_state` was called."""
        self._resumed = int(state["step"])

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._step, self._seen, self._resumed = self._resumed, 0, 0
        self._turned, self._total = False, math.inf

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        # A stream of unknown length has told it in the epoch before.
        steps = self.params.get("steps") or self._seen or math.inf
        self._total = self._step + steps * (self.params["epochs"] - epoch)
        self._look(self._step)

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self._seen = batch + 1
        self._look(self._step + batch)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._step += self.params.get("steps") or self._seen

    def _look(self, step: int) -> None:
        if not self._turned and step >= self._turns_at():
            self._turned = True
            self._turn()
            self._trace_again()

    def __deepcopy__(self, memo: dict[int, Any]) -> _Turn:
        # Tuners copy callbacks. A copy takes the settings, not the model.
        clone = copy.copy(self)
        clone._model, clone.params = None, None
        return clone

    def _trace_again(self) -> None:
        for make in (self.model.make_train_function, self.model.make_test_function, self.model.make_predict_function):
            make(force=True)


class QuantizationDelay(_Turn):
    """Trains a simulation in float for the first steps, then with its weights and activations quantized.

    Ranges of static activations already follow what they see. A training that ends earlier ends quantized. `settled`
    is false until quantization starts: up to then a validation metric is that of the float network.

    Args:
        steps: Training steps in float, counted from the start of `fit`.

    Raises:
        ArgumentError: `steps` is negative.

    Source:
        Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
        2018, https://arxiv.org/abs/1712.05877, section 3.1.

    Example:
        `simulation.fit(x, y, callbacks=[bm.callbacks.QuantizationDelay(steps=500)])`
    """

    def __init__(self, steps: int) -> None:
        super().__init__()
        check_argument("QuantizationDelay", "steps", steps, whole_from(0), "a whole number of steps of at least 0")
        self.steps = steps

    @property
    def settled(self) -> bool:
        """Whether the network is quantized."""
        return self._turned

    def _turns_at(self) -> float:
        return self.steps

    def _turn(self) -> None:
        for layer in _layers(self.model):
            was_delayed, layer.delayed = layer.delayed, False
            if was_delayed and isinstance(layer, Quantized) and layer.learned and not layer.fixed:
                layer.start_learning()  # where the weights are now

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        super().on_train_begin(logs)
        if self._step < self.steps:
            for layer in _layers(self.model):
                layer.delayed = True
            self._trace_again()
        else:
            self._turned = True

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        self._look(self.steps)


class FreezeRanges(_Turn):
    """Brings ranges and statistics to rest for the end of a training, as they are in the file.

    From its step on, ranges of static activations neither move nor are trained, and `BatchNormalization` computes with
    its moving statistics instead of those of the batch, so that the weights learn to live with what is shipped. Ranges
    rest for good; normalisations get their statistics back when the training ends.

    Ranges that follow the activations of a training follow what dropout, for one, makes of them: values that the file
    never meets, and for which it would keep codes. With `samples` they are taken again at inference, as the mean over
    batches of the least and the largest value: before each validation, and before they rest.

    Args:
        step: The step, counted from the start of `fit`; `None`: after three quarters of the training.
        samples: Input samples in the structure that the model takes, arrays of shape (samples, ...); `None`: ranges
            stay as the training left them.

    Raises:
        ArgumentError: `step` is negative.

    Source:
        Krishnamoorthi, "Quantizing deep convolutional networks for efficient inference", 2018,
        https://arxiv.org/abs/1806.08342, section 3.3.

    Example:
        `simulation.fit(x, y, callbacks=[bm.callbacks.FreezeRanges(samples=x[:500])])`
    """

    def __init__(self, step: int | None = None, samples: Any = None) -> None:
        super().__init__()
        if step is not None:
            check_argument(
                "FreezeRanges", "step", step, whole_from(0), "None, or a whole number of steps of at least 0"
            )
        self.step, self.samples = step, samples
        self._own: list[tuple[keras.layers.Layer, Callable[..., Any]]] = []

    def _turns_at(self) -> float:
        return self.step if self.step is not None else _RESTS_AFTER * self._total

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        if self.samples is not None and not self._turned:
            _calibrate(self.model, self.samples)

    def _turn(self) -> None:
        if self.samples is not None:
            _calibrate(self.model, self.samples)
        for layer in walk(self.model):
            if isinstance(layer, FakeQuantize):
                layer.fix_range()
            elif isinstance(layer, keras.layers.BatchNormalization):
                self._own.append((layer, layer.call))
                layer.call = _at_inference(layer.call)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        if self._own:
            for layer, _ in self._own:
                del layer.call
            self._own = []
            self._trace_again()


def _calibrate(simulation: keras.Model, samples: Any) -> None:
    """Takes the ranges that follow the activations from samples, at inference."""
    moving = [layer for layer in _layers(simulation) if isinstance(layer, FakeQuantize) and layer.moves]
    if not moving:
        return
    try:
        for layer in moving:
            layer.seen = 0
        for batch in in_batches(samples, _BATCH):
            simulation(batch, training=False)
    finally:
        for layer in moving:
            layer.seen = None


def _at_inference(call: Callable[..., Any]) -> Callable[..., Any]:
    def run(inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        return call(inputs, training=False)

    return run


def _layers(model: keras.Model) -> list[Any]:
    return [layer for layer in walk(model) if isinstance(layer, (Quantized, FakeQuantize))]
