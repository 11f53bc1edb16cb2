"""Quantization-aware training."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence

import keras
import numpy as np

from bigmodel.config import QuantizeConfig, TrainConfig
from bigmodel.data import Data
from bigmodel.graph import walk
from bigmodel.own_parts import check_training
from bigmodel.quantization.allocation import with_allotted_bits
from bigmodel.quantization.callbacks import FreezeRanges, QuantizationDelay
from bigmodel.quantization.clipping import mse_scale
from bigmodel.quantization.files import in_place
from bigmodel.quantization.layers import FakeQuantize
from bigmodel.quantization.rebuild import copy_layer, rebuild
from bigmodel.quantization.simulation import Skipped, quantized_layers, range_layers, simulated
from bigmodel.training import compile_like, fit, peak_learning_rate

# Peak learning rate of the training, as a share of the compiled one, by the least bits of the weights. At 8 bits the
# grid hardly moves a trained weight: on Fashion-MNIST, three epochs of 784-256-128-64-10 give 0.855 at a tenth of the
# rate and 0.856 at two or four tenths, of a ResNet-8 0.9193 at one and 0.9194 at three. At 4 bits it has to cross half
# a step, a fourteenth of its channel's largest: 784-38-19-10, six epochs, gives 0.849 at a tenth, 0.859 at the whole.
_SHARE_OF_RATE = {8: 0.3, 4: 1.0, 2: 1.0, 1: 1.0}
# Momentum of the moving range of an activation in training, per step (Jacob et al., 2018, use 0.99 and more).
_MOMENTUM = 0.99


def quantize_aware(
    model: keras.Model,
    data: Data,
    config: QuantizeConfig,
    *,
    train: TrainConfig,
    teacher: keras.Model | None = None,
    seed: int = 0,
    verbose: int = 0,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    checkpoint: str | os.PathLike[str] | None = None,
) -> tuple[keras.Model, tuple[Skipped, ...]]:
    """Quantizes a model by quantization-aware training. The caller's model, data and configs are not changed.

    The forward pass computes as the file will, the backward pass goes straight through the rounding (Jacob et al.,
    2018). Scales follow the weights, or are learned, and are fixed at the end; ranges of static activations follow a
    moving average, and are taken from the calibration samples wherever the network is validated, or are learned.
    Towards the end ranges and the statistics of normalisations rest.

    Args:
        model: A compiled functional or built Sequential model.
        data: Data from `as_data`.
        config: Bits, activations and layers, and how grids are found.
        train: How to train.
        teacher: Whose outputs are learned next to the labels where `train.distillation` gives them a share; `None`: the
            model's own, before it was quantized. It is not changed.
        seed: Same seed, same result.
        verbose: As in Keras' `fit`.
        callbacks: Further Keras callbacks; `KeepZeros` keeps a pruned model pruned.
        checkpoint: Path prefix from which an interrupted training goes on.

    Returns:
        The trained simulation, compiled like the model, and what stays otherwise than asked.

    Raises:
        ModelError: The model can't be rebuilt layer by layer, has no layer to quantize, or trains in a way of its own.
        ConversionError: For static activations: the file that tells their places could not be written.
    """
    check_training(model)
    config = _decided(with_allotted_bits(model, data, config))
    simulation, skipped = simulated(model, config)
    _start_scales(simulation, config)
    if config.activations == "static":
        simulation = _with_ranges(simulation, data, config)
    compile_like(simulation, model)
    fit(
        simulation,
        data,
        train,
        learning_rate=_SHARE_OF_RATE[least_bits(simulation)] * peak_learning_rate(simulation),
        teacher=model if teacher is None else teacher,
        callbacks=[*callbacks, *_turns(simulation, data, config)],
        seed=seed,
        checkpoint=checkpoint,
        verbose=verbose,
    )
    for layer in quantized_layers(simulation):
        layer.fix_scales()
    for ranges in range_layers(simulation).values():
        ranges.fix_range()
    return simulation, skipped


def _decided(config: QuantizeConfig) -> QuantizeConfig:
    """The config with what it leaves to "auto" decided."""
    return dataclasses.replace(
        config,
        method="aware",
        # Measured at 4 bits, neither "mse" nor "learned" is better on all networks, and this never fell below float.
        clipping="min_max" if config.clipping == "auto" else config.clipping,
        observer="moving_average" if config.observer == "auto" else config.observer,
    )


def _start_scales(simulation: keras.Model, config: QuantizeConfig) -> None:
    if config.clipping == "min_max":  # scales follow the weights
        return
    for layer in quantized_layers(simulation):
        scales = [mse_scale(np.asarray(variable), quantization) for _, variable, quantization, _ in layer.grids()]
        if config.clipping == "learned":
            layer.start_learning(scales)
            continue
        layer.fix_scales()
        for stored, scale in zip(layer.scales, scales, strict=True):
            stored.assign(scale)


def _with_ranges(simulation: keras.Model, data: Data, config: QuantizeConfig) -> keras.Model:
    bits = config.activation_bits
    if config.observer == "moving_average":
        return in_place(simulation, data, activation_bits=bits, momentum=_MOMENTUM)
    if config.observer == "learned":
        return _with_learned_ranges(in_place(simulation, data, observer="mse"))
    return in_place(simulation, data, activation_bits=bits, observer=config.observer)


def _with_learned_ranges(simulation: keras.Model) -> keras.Model:
    def replace(operation: object) -> list[object]:
        if not isinstance(operation, FakeQuantize):
            return [copy_layer(operation) if isinstance(operation, keras.layers.Layer) else operation]
        layer = FakeQuantize(learned=True, halves=operation.halves, name=operation.name)
        layer.set_range(float(operation.low.value), float(operation.high.value))
        return [layer]

    return rebuild(simulation, replace)


def _turns(simulation: keras.Model, data: Data, config: QuantizeConfig) -> list[keras.callbacks.Callback]:
    delays = [QuantizationDelay(config.delay)] if config.delay else []
    rests = any(isinstance(layer, (FakeQuantize, keras.layers.BatchNormalization)) for layer in walk(simulation))
    samples = data.calibration.arrays()[0] if config.activations == "static" and data.calibration else None
    return [*delays, FreezeRanges(config.freeze, samples)] if rests else delays


def least_bits(simulation: keras.Model) -> int:
    """Returns the least bits that a weight of a simulation has."""
    return min(q.bits for layer in quantized_layers(simulation) for q in layer.quantized_weights.values())
