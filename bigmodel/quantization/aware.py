"""Quantization-aware training."""

from __future__ import annotations

import os
from collections.abc import Sequence

import keras

from bigmodel.config import QuantizeConfig, TrainConfig
from bigmodel.data import Data
from bigmodel.own_parts import check_training
from bigmodel.quantization.files import in_place
from bigmodel.quantization.simulation import Skipped, quantized_layers, range_layers, simulated
from bigmodel.training import compile_like, fit, peak_learning_rate

# Peak learning rate of the training, as a share of the compiled one, by the bits of the weights. At 8 bits the grid
# hardly moves a trained weight; at 4 bits a weight has to cross half a step, a fourteenth of its channel's largest. On
# Fashion-MNIST, 784-38-19-10 at 4 bits, six epochs give 0.849 at a tenth of the rate and 0.859 at the rate itself.
_SHARE_OF_RATE = {8: 0.1, 4: 1.0}
# Momentum of the moving range of an activation in training, per step (Jacob et al., 2018, use 0.99 and more).
_MOMENTUM = 0.99


def quantize_aware(
    model: keras.Model,
    data: Data,
    config: QuantizeConfig,
    *,
    train: TrainConfig,
    seed: int = 0,
    verbose: int = 0,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    checkpoint: str | os.PathLike[str] | None = None,
) -> tuple[keras.Model, tuple[Skipped, ...]]:
    """Quantizes a model by quantization-aware training. The caller's model, data and configs are not changed.

    The forward pass computes as the file will, the backward pass goes straight through the rounding (Jacob et al.,
    2018). Scales follow the weights' min-max and are fixed at the end; ranges of static activations follow a moving
    average.

    Args:
        model: A compiled functional or built Sequential model.
        data: Data from `as_data`.
        config: Bits, activations and layers.
        train: How to train.
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
    simulation, skipped = simulated(model, config)
    if config.activations == "static":
        simulation = in_place(simulation, data, momentum=_MOMENTUM)
    compile_like(simulation, model)
    rate = _SHARE_OF_RATE[config.bits] * peak_learning_rate(simulation)
    fit(
        simulation,
        data,
        train,
        learning_rate=rate,
        callbacks=callbacks,
        seed=seed,
        checkpoint=checkpoint,
        verbose=verbose,
    )
    for layer in quantized_layers(simulation):
        layer.fix_scales()
    for layer in range_layers(simulation).values():
        layer.momentum = None
    return simulation, skipped
