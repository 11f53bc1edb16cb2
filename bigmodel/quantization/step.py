"""The quantization step: post-training, or by quantization-aware training."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import keras

from bigmodel.config import QuantizeConfig, TrainConfig
from bigmodel.data import Data
from bigmodel.errors import ConversionError, ModelError
from bigmodel.export.formats import format_of
from bigmodel.own_parts import check_training
from bigmodel.quantization.files import deploy
from bigmodel.quantization.simulation import Skipped, quantized_layers, range_layers, simulate
from bigmodel.training import compile_like, fit, peak_learning_rate

# Peak learning rate of the training, as a share of the compiled one, by the bits of the weights. At 8 bits the grid
# hardly moves a trained weight; at 4 bits a weight has to cross half a step, a fourteenth of its channel's largest. On
# Fashion-MNIST, 784-38-19-10 at 4 bits, six epochs give 0.849 at a tenth of the rate and 0.859 at the rate itself.
_SHARE_OF_RATE = {8: 0.1, 4: 1.0}
# Momentum of the moving range of an activation in training, per step (Jacob et al., 2018, use 0.99 and more).
_MOMENTUM = 0.99


def quantize_post_training(
    model: keras.Model, data: Data | None, config: QuantizeConfig
) -> tuple[keras.Model, tuple[Skipped, ...]]:
    """Quantizes a trained model without training. The caller's model, data and config are not changed.

    Weights take the min-max grid of each channel. Static ranges are those seen on the calibration samples.

    Args:
        model: A functional or built Sequential model.
        data: Data from `as_data`; only its calibration samples are read, labels are not needed, and `None` does where
            activations are not static.
        config: Bits, activations and layers.

    Returns:
        The simulation, compiled like the model where that was compiled, and what stays otherwise than asked.

    Raises:
        ModelError: The model can't be rebuilt layer by layer, or has no layer to quantize.
        ConversionError: For static activations: the file that tells their places could not be written.
    """
    simulation, skipped = _simulated(model, config)
    for layer in quantized_layers(simulation):
        layer.fix_scales()
    if config.activations == "static":
        assert data is not None
        simulation = _in_place(simulation, data)
    if model.compiled:
        compile_like(simulation, model)
    return simulation, skipped


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
    simulation, skipped = _simulated(model, config)
    if config.activations == "static":
        simulation = _in_place(simulation, data, momentum=_MOMENTUM)
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


def _simulated(model: keras.Model, config: QuantizeConfig) -> tuple[keras.Model, tuple[Skipped, ...]]:
    simulation, skipped = simulate(model, config)
    if not quantized_layers(simulation):
        raise ModelError(
            f"Model {model.name!r} has no layer to quantize.",
            received=", ".join(f"{s.layer}: {s.reason}" for s in skipped) or "no layer with a kernel",
            expected="at least one layer with weights that the runtime holds quantized",
            fix="See the table of layers in the documentation, or widen `where`.",
        )
    return simulation, skipped


def _in_place(simulation: keras.Model, data: Data, *, momentum: float | None = None) -> keras.Model:
    """Returns the simulation with a range at every tensor that a static file keeps in 8 bits: a file tells which."""
    assert data.calibration is not None
    samples, _, _ = data.calibration.arrays()
    with tempfile.TemporaryDirectory(prefix="bigmodel-place-") as folder:
        order = (format_of(8, "static"), Path(folder, "static.tflite"))
        (deployed,) = deploy(simulation, [order], samples)
    if isinstance(deployed, ConversionError):
        raise deployed
    for layer in range_layers(deployed.simulation).values():
        layer.momentum = momentum
    return deployed.simulation
