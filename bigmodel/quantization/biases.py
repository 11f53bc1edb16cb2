"""Puts the biases of a static file, which are rounded to integers, into its simulation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from bigmodel.graph import is_graph, trace
from bigmodel.quantization.folding import PASSING
from bigmodel.quantization.layers import Quantized


def take_biases(static: keras.Model, errors: Mapping[str, Sequence[float]]) -> None:
    """Moves biases, in place, to where the file has them.

    A layer without a bias has one in the file if a normalisation follows: there its mean moves.

    Args:
        static: The simulation of a static file.
        errors: For each grid, how far the file's biases are from the simulation's, in steps of the weights.
    """
    normalisations = normalisations_after(static)
    for layer, normalisation in normalisations.items():
        for path, _, _, scale in layer.grids():
            found = [errors[name] for name in grid_names(layer.name, path) if name in errors]
            if not found or "/" in path:
                continue
            error = np.asarray(found[0]) * np.asarray(scale, np.float64).reshape(-1)
            bias = getattr(layer.layer, "bias", None)
            if bias is not None and math.prod(bias.shape) == error.size:
                bias.assign_add(error.reshape(bias.shape))
            elif bias is None and normalisation is not None:
                normalisation.moving_mean.assign_sub(error)


def grid_names(layer: str, path: str) -> list[str]:
    """Returns the names that a layer's grid may have: a part that was split off an original got a longer one."""
    return [f"{layer}/{path}", *(f"{layer.removesuffix(end)}/{path}" for end in ("_output", "_linear"))]


def normalisations_after(model: keras.Model) -> dict[Quantized, Any]:
    """The quantized layers, each with the normalisation that alone reads it, or `None`."""
    calls = trace(model)
    readers: dict[int, list[Any]] = {}
    for call in calls:
        for tensor in call.inputs:
            readers.setdefault(id(tensor), []).append(call)
    found: dict[Quantized, Any] = {}
    for call in calls:
        if is_graph(call.operation):
            found.update(normalisations_after(call.operation))
        elif isinstance(call.operation, Quantized):
            after = readers.get(id(call.outputs), [])
            while len(after) == 1 and isinstance(after[0].operation, PASSING):
                after = readers.get(id(after[0].outputs), [])
            is_taken_up = len(after) == 1 and type(after[0].operation) is keras.layers.BatchNormalization
            found[call.operation] = after[0].operation if is_taken_up else None
    return found
