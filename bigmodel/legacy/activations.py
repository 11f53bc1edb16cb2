"""Activations of Keras 2 that Keras 3 computes otherwise. Registered, so that files with them load."""

from __future__ import annotations

from typing import Any

import keras


@keras.saving.register_keras_serializable("bigmodel")
def keras2_hard_sigmoid(x: Any) -> Any:
    """`clip(0.2 x + 0.5, 0, 1)`: Keras 3's own hard sigmoid has the slope 1/6.

    Args:
        x: A tensor.

    Example:
        >>> keras.ops.convert_to_numpy(keras2_hard_sigmoid(keras.ops.array([-3.0, 0.0, 1.0]))).tolist()
        [0.0, 0.5, 0.699999988079071]
    """
    return keras.ops.clip(0.2 * x + 0.5, 0.0, 1.0)
