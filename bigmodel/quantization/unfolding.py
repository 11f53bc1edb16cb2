"""Keeps the factors of a normalisation out of the kernels after it.

The converter multiplies factors that stand right before a fully connected kernel into its rows, which takes a kernel
that lies on its grid off it. Of normalisations that concerns the one that has factors and no shift, `RMSNormalization`.
Its two multiplications, by the factors and by the reciprocal of the root mean square, may come in the other order.
"""

from __future__ import annotations

from typing import Any

import keras


def multiply_factors_first(network: keras.Model) -> None:
    """Lets each `RMSNormalization`, in place, multiply by its factors before it divides by the root mean square.

    The call of the instance is replaced. Its class, config and weights stay.

    Args:
        network: A model that is nobody else's; layers inside of layers are changed too.
    """
    for layer in network._flatten_layers():
        if type(layer).call is keras.layers.RMSNormalization.call:
            layer.call = _factors_first(layer)


def _factors_first(layer: Any) -> Any:
    ops = keras.ops

    def call(x: Any) -> Any:
        values = ops.cast(x, "float32")
        power = ops.mean(ops.square(values), axis=layer.axis, keepdims=True)
        scaled = values * ops.cast(layer.scale, "float32")
        return ops.cast(scaled * ops.rsqrt(power + layer.epsilon), x.dtype)

    return call
