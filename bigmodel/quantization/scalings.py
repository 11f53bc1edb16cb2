"""Puts the numbers of a file's kernels into its simulation: scales and biases with normalisations folded in."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from bigmodel.export.formats import Scaling
from bigmodel.graph import copy_operation, trace
from bigmodel.quantization.biases import grid_names, normalisations_after
from bigmodel.quantization.fake import weight_codes
from bigmodel.quantization.folding import affine_of
from bigmodel.quantization.integer import can_compute
from bigmodel.quantization.layers import Quantized
from bigmodel.quantization.rebuild import copy_layer, rebuild

# How far two floats that should be the same number may be apart: the converter folds in float32.
_RELATIVE = 1e-4


def take_scalings(simulation: keras.Model, scalings: Mapping[str, Scaling]) -> keras.Model:
    """Returns the simulation with what a file's kernels multiply and add. The given one is not changed.

    A normalisation that the file has in a kernel is in the layer before it then, and an `Identity` in its own place.
    A layer whose numbers are not those of the file, folded or not, stays as it is.

    Args:
        simulation: The simulation of a quantized file.
        scalings: By grid, from the file's account.
    """
    called = Counter(id(call.operation) for call in trace(simulation, flatten=True))
    kernels: dict[int, Quantized] = {}
    folded: set[int] = set()
    for layer, normalisation in normalisations_after(simulation).items():
        scaling = next((scalings[name] for name in grid_names(layer.name, "kernel") if name in scalings), None)
        if scaling is None or not can_compute(layer.layer, layer.inputs):
            continue
        if bool(scaling.steps) is (layer.inputs is not None):
            continue
        alone = normalisation is not None and called[id(normalisation)] == 1
        if alone and _fits(layer, normalisation, scaling):
            kernels[id(layer)] = _with(layer, scaling, folds=True)
            folded.add(id(normalisation))
        elif _fits(layer, None, scaling):
            kernels[id(layer)] = _with(layer, scaling, folds=False)

    def replace(operation: Any) -> list[Any]:
        if id(operation) in kernels:
            return [kernels[id(operation)]]
        if id(operation) in folded:
            return [keras.layers.Identity(name=operation.name)]
        if isinstance(operation, Quantized):
            own = {"name": operation.name, "inputs": operation.inputs, "inner": operation.inner}
            return [operation.around(copy_layer(operation.layer), **own)]
        return [copy_layer(operation) if isinstance(operation, keras.layers.Layer) else operation]

    return rebuild(simulation, replace) if kernels else simulation


def _fits(layer: Quantized, normalisation: Any, scaling: Scaling) -> bool:
    """Whether a file's numbers are those of a layer, with a normalisation folded in where one is given."""
    codes, scale = _codes(layer)
    factors = np.broadcast_to(scale, len(codes))
    biases = np.zeros(len(codes)) if layer.layer.bias is None else np.asarray(layer.layer.bias, np.float64)
    if normalisation is not None:
        factor, shift = affine_of(normalisation)
        factors, biases = factors * factor, biases * factor + shift
    used = codes.any(axis=1)  # a channel of zeros lies on any grid
    if not np.allclose(np.asarray(scaling.factors)[used], factors[used], rtol=_RELATIVE, atol=0):
        return False
    if not scaling.biases:  # there is none, or an op of its own adds it
        return normalisation is None
    return np.allclose(scaling.biases, biases, rtol=0, atol=_RELATIVE * np.abs(biases).max(initial=1e-6))


def _codes(layer: Quantized) -> tuple[np.ndarray, np.ndarray]:
    """The codes of a layer's kernel as (channels, values per channel), and their scales."""
    ((_, variable, quantization, scale),) = layer.grids()
    codes = np.asarray(weight_codes(variable.value, scale, quantization.bits))
    return quantization.channels_first(codes), np.asarray(scale, np.float64).reshape(-1)


def _with(layer: Quantized, scaling: Scaling, *, folds: bool) -> Quantized:
    """A layer that holds the codes, the scales and the biases of the file."""
    ((_, variable, quantization, scale),) = layer.grids()
    shape = quantization.scale_shape(tuple(variable.shape))
    factors = np.asarray(scaling.factors, np.float32)
    if math.prod(shape) == 1:
        factors = factors[:1]
    factors = factors.reshape(shape)
    codes = np.asarray(weight_codes(variable.value, scale, quantization.bits)) * np.sign(factors)
    has_bias = folds or layer.layer.use_bias
    new: Any = copy_operation(layer.layer, {"dtype": "float32", "use_bias": has_bias})
    new.build_from_config(layer.layer.get_build_config())
    new.kernel.assign(codes * np.abs(factors))
    if has_bias:
        new.bias.assign(np.asarray(scaling.biases) if scaling.biases else layer.layer.bias)
    quantized = layer.around(new, name=layer.name, inputs=layer.inputs, steps=scaling.steps or None, fixed=True)
    quantized.scales[0].assign(np.abs(factors))
    return quantized
