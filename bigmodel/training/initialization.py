"""New weights for a model whose architecture stays."""

from __future__ import annotations

from typing import Any, Final, Literal, get_args

import keras
import numpy as np

from bigmodel.config import Where
from bigmodel.errors import ArgumentError, describe
from bigmodel.graph import walk
from bigmodel.training.cloning import fresh, match_compilation

Initialization = Literal[
    "zeros",
    "ones",
    "uniform",
    "normal",
    "he_normal",
    "he_uniform",
    "glorot_normal",
    "glorot_uniform",
    "lecun_normal",
    "lecun_uniform",
    "orthogonal",
]
INITIALIZATIONS: Final[tuple[Initialization, ...]] = get_args(Initialization)

_NAMED: Final[dict[str, Any]] = {
    "zeros": keras.initializers.Zeros,
    "ones": keras.initializers.Ones,
    "uniform": keras.initializers.RandomUniform,
    "normal": keras.initializers.RandomNormal,
    "he_normal": keras.initializers.HeNormal,
    "he_uniform": keras.initializers.HeUniform,
    "glorot_normal": keras.initializers.GlorotNormal,
    "glorot_uniform": keras.initializers.GlorotUniform,
    "lecun_normal": keras.initializers.LecunNormal,
    "lecun_uniform": keras.initializers.LecunUniform,
    "orthogonal": keras.initializers.Orthogonal,
}
_KERNELS = ("kernel", "embeddings")


def initialize(
    model: keras.Model,
    method: Initialization = "glorot_uniform",
    *,
    scale: float = 1.0,
    where: Where | None = None,
    seed: int = 0,
) -> keras.Model:
    """Starts a model's weights anew, in the same architecture. The caller's model is not changed.

    Kernels, embeddings and whatever else a layer draws at random are drawn by `method`; biases, scales and moving
    statistics start as their layers start them. What a `Normalization` layer has learnt of the data stays.

    Args:
        model: A built model, compiled or not.
        method: One of `INITIALIZATIONS`; "uniform" is from -0.05 to 0.05, "normal" has a deviation of 0.05.
        scale: Factor on the values that are drawn.
        where: Says for each layer whether it starts anew; `None`: all do.
        seed: Same seed, same weights.

    Returns:
        A new model, compiled like the caller's.

    Raises:
        ArgumentError: The method is unknown.
        ModelError: The model can't be made again from its config.

    Source:
        X. Glorot and Y. Bengio, AISTATS 2010; K. He et al., ICCV 2015; Y. LeCun et al., Efficient BackProp, 1998;
        A. Saxe et al., ICLR 2014 (orthogonal).

    Example:
        >>> model = keras.Sequential([keras.Input((300,)), keras.layers.Dense(200)])
        >>> round(float(np.std(initialize(model, "he_normal").get_weights()[0])) * (300 / 2) ** 0.5, 1)
        1.0
    """
    if method not in INITIALIZATIONS:
        raise ArgumentError(
            "This initialisation is not known.",
            received=describe(method),
            expected=", ".join(INITIALIZATIONS),
            fix="Pass one of these names.",
        )
    second = fresh(model)
    kept = {
        id(variable)
        for layer in walk(model)
        if isinstance(layer, keras.layers.Normalization) or (where is not None and not where(layer))
        for variable in layer.weights
    }
    for position, (old, new) in enumerate(zip(model.weights, second.weights, strict=True)):
        if id(old) in kept:
            new.assign(np.asarray(old))
        elif _is_drawn(new):
            new.assign(_drawn(method, tuple(new.shape), scale, seed, position))
    for layer in walk(second):
        if hasattr(layer, "finalize_state"):
            layer.finalize_state()
    return match_compilation(second, model)


def _is_drawn(variable: keras.Variable) -> bool:
    if any(name in variable.name for name in _KERNELS):
        return True
    if "bias" in variable.name:  # that of an LSTM starts with ones for the forget gate
        return False
    # A layer of the caller's own: what came out constant is a start like that of a bias or a scale.
    values = np.asarray(variable)
    return values.dtype.kind == "f" and values.size > 1 and bool((values != values.flat[0]).any())


def _drawn(method: str, shape: tuple[int, ...], scale: float, seed: int, position: int) -> np.ndarray:
    if method in ("zeros", "ones"):
        return scale * np.asarray(_NAMED[method]()(shape))
    if method == "orthogonal" and len(shape) < 2:
        method = "lecun_normal"  # A vector is orthogonal to nothing; its length is kept.
    own = int(np.random.default_rng((seed, position)).integers(2**31))
    return scale * np.asarray(_NAMED[method](seed=own)(shape))
