"""Bias correction: takes the mean error that rounded weights make out of a layer's outputs."""

from __future__ import annotations

import numpy as np


def corrected_bias(
    bias: np.ndarray,
    weights: np.ndarray,
    rounded: np.ndarray,
    float_mean: np.ndarray,
    mean: np.ndarray,
) -> np.ndarray:
    """Returns the bias with which a layer's mean outputs are those of the float network (Nagel et al., 2019, sec. 4.2).

    Rounding shifts a channel's mean by the error of its weights times the mean input, which is not zero after a ReLU.
    The means are those seen on calibration data: `W E[x] - W' E[x']` before the activation, where x' is what the
    quantized layers before give. So what they shifted is made up for too.

    Args:
        bias: Shape (channels,), float.
        weights: The float weights, of shape (groups, outputs, inputs); channels are groups times outputs.
        rounded: What stands for them in the file, of the same shape.
        float_mean: Mean of each input in the float network, of shape (groups, inputs).
        mean: Mean of each input as the quantized layer sees it, of the same shape.

    Example:
        A weight of 0.4 becomes 0 where inputs are 2 on average: the bias takes what is missing.

        >>> corrected_bias(np.zeros(1), np.array([[[0.4]]]), np.array([[[0.0]]]), np.array([[2.0]]), np.array([[2.0]]))
        array([0.8])
    """
    shift = np.einsum("goi,gi->go", weights, float_mean) - np.einsum("goi,gi->go", rounded, mean)
    return bias + shift.reshape(-1)
