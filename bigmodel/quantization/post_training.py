"""Quantization of a trained model without training."""

from __future__ import annotations

import keras

from bigmodel.config import QuantizeConfig
from bigmodel.data import Data
from bigmodel.quantization.files import in_place
from bigmodel.quantization.simulation import Skipped, quantized_layers, simulated
from bigmodel.training import compile_like


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
    simulation, skipped = simulated(model, config)
    for layer in quantized_layers(simulation):
        layer.fix_scales()
    if config.activations == "static":
        assert data is not None
        simulation = in_place(simulation, data)
    if model.compiled:
        compile_like(simulation, model)
    return simulation, skipped
