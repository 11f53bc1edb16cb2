"""Adaptive rounding: codes that change a layer's output least, where the nearest ones change its weights least.

Layers are solved one by one as least-squares problems on calibration data. For one output channel with weights `w`,
codes `q` and scale `s` the error is `(w - s q) G (w - s q)'` with the Gram matrix `G = X'X` of the inputs, whatever the
labels. The codes come from the column-wise elimination of GPTQ (Frantar et al., 2023), then from coordinate descent,
which only ever lowers the error.
"""

from __future__ import annotations

import numpy as np

from bigmodel.quantization.fake import largest_code

# Share of the mean input energy that is added to each input's: GPTQ's default, which keeps the problem well posed.
DAMPING = 0.01
# Passes of coordinate descent; later ones hardly change a code.
_PASSES = 4


def damped(gram: np.ndarray) -> np.ndarray:
    """Returns Gram matrices with a share of their mean energy added to the diagonal.

    Args:
        gram: Shape (groups, inputs, inputs).
    """
    size = gram.shape[-1]
    energy = np.trace(gram, axis1=1, axis2=2) / size
    return gram + (DAMPING * np.where(energy > 0, energy, 1.0))[:, None, None] * np.eye(size)


def output_error(weights: np.ndarray, rounded: np.ndarray, gram: np.ndarray) -> np.ndarray:
    """Returns the squared change of each output over the rows of a Gram matrix, of shape (groups, outputs).

    Args:
        weights: Shape (groups, outputs, inputs).
        rounded: What stands for them, of the same shape.
        gram: Shape (groups, inputs, inputs).
    """
    error = weights - rounded
    return np.sum((error @ gram) * error, axis=-1)


def shifted_target(weights: np.ndarray, gram: np.ndarray, cross: np.ndarray) -> np.ndarray:
    """Returns the weights that, on the inputs that a quantized prefix gives, come closest to the float outputs.

    The least-squares solution `W C G^-1` (Li et al., 2025, GPTAQ): rounding towards it makes up for part of what the
    layers before have lost.

    Args:
        weights: The float weights, of shape (groups, outputs, inputs).
        gram: Damped Gram matrices of the quantized prefix's inputs, of shape (groups, inputs, inputs).
        cross: `X'Y` of float inputs X and quantized inputs Y, of the same shape, damped likewise.
    """
    return weights + np.linalg.solve(gram, np.swapaxes(weights @ (cross - gram), 1, 2)).swapaxes(1, 2)


def nearest_codes(weights: np.ndarray, scale: np.ndarray, bits: int) -> np.ndarray:
    """Returns the codes nearest to `weights / scale`: `fake.weight_codes` of arrays, without a detour by tensors."""
    if bits == 1:
        return np.where(weights < 0, -1.0, 1.0)
    return np.clip(np.rint(weights / scale), -largest_code(bits), largest_code(bits))


def adaptive_codes(
    weights: np.ndarray, scale: np.ndarray, gram: np.ndarray, bits: int, *, zeros: np.ndarray | None = None
) -> np.ndarray:
    """Returns the codes of a layer's weights that change its output least.

    Never worse than the nearest codes: each output channel starts from the better of those and GPTQ's.

    Args:
        weights: Shape (groups, outputs, inputs).
        scale: Scales of the output channels, of shape (groups, outputs, 1).
        gram: Gram matrices of the inputs, of shape (groups, inputs, inputs), positive definite (`damped`).
        bits: Bits of a code.
        zeros: Where codes have to be zero: the weights that were pruned.

    Example:
        Two equal inputs: rounding 0.4 and 0.4 down loses 0.8 of each output, one up and one down only 0.2.

        >>> gram = damped(np.ones((1, 2, 2)))
        >>> adaptive_codes(np.full((1, 1, 2), 0.4), np.ones((1, 1, 1)), gram, 7).sum()
        np.float64(1.0)
    """
    free = np.ones(weights.shape, bool) if zeros is None else ~zeros
    nearest = nearest_codes(weights, scale, bits) * free
    eliminated = _eliminate(weights, scale, gram, bits, free)
    better = output_error(weights, scale * eliminated, gram) < output_error(weights, scale * nearest, gram)
    return _descend(np.where(better[..., None], eliminated, nearest), weights, scale, gram, bits, free)


def _eliminate(weights: np.ndarray, scale: np.ndarray, gram: np.ndarray, bits: int, free: np.ndarray) -> np.ndarray:
    """GPTQ: rounds input by input, the strongest first, and lets the inputs still to come make up for each error."""
    order = np.argsort(-np.diagonal(gram, axis1=1, axis2=2), axis=1, kind="stable")
    taken = np.take_along_axis
    sorted_gram = taken(taken(gram, order[:, :, None], 1), order[:, None, :], 2)
    upper = np.linalg.cholesky(np.linalg.inv(sorted_gram)).swapaxes(1, 2)
    left, allowed = taken(weights, order[:, None, :], 2).copy(), taken(free, order[:, None, :], 2)
    codes = np.zeros_like(left)
    for i in range(left.shape[-1]):
        codes[..., i] = nearest_codes(left[..., i], scale[..., 0], bits) * allowed[..., i]
        error = (left[..., i] - scale[..., 0] * codes[..., i]) / upper[:, i, i, None]
        left[..., i + 1 :] -= error[..., None] * upper[:, None, i, i + 1 :]
    return taken(codes, np.argsort(order, axis=1)[:, None, :], 2)


def _descend(
    codes: np.ndarray, weights: np.ndarray, scale: np.ndarray, gram: np.ndarray, bits: int, free: np.ndarray
) -> np.ndarray:
    """Coordinate descent: gives each code in turn its best value, the others as they are, until none changes."""
    codes = codes.copy()
    pull = (weights - scale * codes) @ gram
    for _ in range(_PASSES):
        changed = False
        for i in range(codes.shape[-1]):
            best = scale[..., 0] * codes[..., i] + pull[..., i] / gram[:, i, i, None]
            step = nearest_codes(best, scale[..., 0], bits) * free[..., i] - codes[..., i]
            if step.any():
                changed = True
                codes[..., i] += step
                pull -= (scale[..., 0] * step)[..., None] * gram[:, None, i, :]
        if not changed:
            break
    return codes
