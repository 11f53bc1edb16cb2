"""Regularisation shrinks with capacity: a network with fewer connections overfits less."""

from __future__ import annotations

import math

import keras

from bigmodel.graph import walk

_RANDOM = (
    keras.layers.Dropout,
    keras.layers.SpatialDropout1D,
    keras.layers.SpatialDropout2D,
    keras.layers.SpatialDropout3D,
    keras.layers.AlphaDropout,
    keras.layers.GaussianDropout,
)


def scale_dropout(model: keras.Model, density: float) -> dict[str, float]:
    """Lowers the rates of a model's dropout layers, in place, by the square root of the share of connections that stay.

    Args:
        model: A model of the step's own, not yet traced.
        density: Share of the connections that stay, above 0 and at most 1.

    Returns:
        The new rate of each changed layer, by name.

    Source:
        S. Han et al., Learning both Weights and Connections for Efficient Neural Networks, NeurIPS 2015, section 3.2.

    Example:
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2), keras.layers.Dropout(0.5, name="drop")])
        >>> scale_dropout(model, 0.25)
        {'drop': 0.25}
    """
    rates = {}
    for layer in walk(model):
        if isinstance(layer, _RANDOM) and layer.rate > 0 and density < 1:
            layer.rate = layer.rate * math.sqrt(density)
            rates[layer.name] = layer.rate
    return rates
