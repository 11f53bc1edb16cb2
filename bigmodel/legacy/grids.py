"""The weights of tf_keras networks on 8-bit grids, as a file holds them whose kernels compute in float."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from bigmodel.config import Where
from bigmodel.errors import ModelError
from bigmodel.export.formats import Grid
from bigmodel.legacy.network import all_layers, check_configs, free_name
from bigmodel.legacy.pruning import copy

_LARGEST_CODE = 127
# Below this bound the file's writer widens a channel's range, so that no scale is zero.
_SMALLEST_BOUND = 1e-9
# Values of a channel from which on it doesn't lie on a grid by chance.
_FEWEST_VALUES = 8

Axes = dict[str, tuple[int, ...]]


def _einsum(layer: Any) -> Axes:
    operands, outputs = layer.equation.replace(" ", "").split("->")
    inputs, kernel = operands.split(",")
    return {"kernel": tuple(i for i, label in enumerate(kernel) if label in outputs and label not in inputs)}


_KERNEL: Axes = {"kernel": (-1,)}
_TRANSPOSED: Axes = {"kernel": (-2,)}
_DEPTHWISE: Axes = {"depthwise_kernel": (-2, -1)}
_SEPARABLE: Axes = {**_DEPTHWISE, "pointwise_kernel": (-1,)}
_CELL: Axes = {"kernel": (-1,), "recurrent_kernel": (-1,)}

# The axes of a weight's channels in the file. A layer made of layers has no entry: each layer inside has its own.
_AXES: dict[str, Axes | Callable[[Any], Axes]] = {
    **dict.fromkeys(("Dense", "Conv1D", "Conv2D", "Conv3D"), _KERNEL),
    **dict.fromkeys(("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose"), _TRANSPOSED),
    **dict.fromkeys(("DepthwiseConv1D", "DepthwiseConv2D"), _DEPTHWISE),
    **dict.fromkeys(("SeparableConv1D", "SeparableConv2D"), _SEPARABLE),
    **dict.fromkeys(("LSTMCell", "GRUCell", "SimpleRNNCell", "ConvLSTMCell"), _CELL),
    "EinsumDense": _einsum,
    "Embedding": {"embeddings": ()},  # the runtime looks rows up in one scale
}


class _Weight(NamedTuple):
    name: str
    variable: Any
    axes: tuple[int, ...]

    def codes(self) -> tuple[np.ndarray, np.ndarray]:
        """The codes, and the scales that broadcast against them: the largest weight of a channel has the largest."""
        values = self.variable.numpy()
        kept = {axis % values.ndim for axis in self.axes}
        bound = np.abs(values).max(axis=tuple(i for i in range(values.ndim) if i not in kept), keepdims=True)
        scale = np.maximum(bound, _SMALLEST_BOUND) / np.float32(_LARGEST_CODE)
        return np.rint(values / scale), scale

    def by_channel(self, values: np.ndarray) -> np.ndarray:
        """Values of the weight's shape as (channels, values per channel)."""
        axes = sorted(axis % values.ndim for axis in self.axes)
        moved = np.moveaxis(values, axes, range(len(axes)))
        return moved.reshape(int(np.prod(moved.shape[: len(axes)], dtype=int)), -1)


def check_weights(network: Any, where: Where | None) -> None:
    """Checks that a network has a weight for integers and can be made again with it.

    Raises:
        ModelError: It has none that `where` chooses, or can't be made again.
    """
    check_configs(network)
    if next(_weights(network, where), None) is None:
        raise ModelError(
            "The model has no layer to quantize.",
            received=f"layers {[layer.name for layer in network.layers]}",
            expected=f"one of {', '.join(_AXES)}, which `where` chooses",
            fix="Check `where`.",
        )


def rounded(network: Any, where: Where | None = None) -> Any:
    """Returns a copy of a network whose weights lie on 8-bit grids, one for each output channel. Zeros stay zero.

    Args:
        network: A float network; it is not changed.
        where: Which layers; `None`: all that have a grid in the file.
    """
    made = copy(network)
    for weight in _weights(made, where):
        codes, scale = weight.codes()
        weight.variable.assign(codes * scale)
    return made


def grids(network: Any, where: Where | None = None) -> list[Grid]:
    """Returns the grids of a network from `rounded`."""
    found = []
    for weight in _weights(network, where):
        codes, scale = weight.codes()
        layer, _, path = weight.name.rpartition("/")
        by_channel = weight.by_channel(codes).astype(np.int8)
        found.append(Grid(layer, path, 8, by_channel, scale.reshape(-1), weights_only=weight.axes == (-2,)))
    return found


def lies_on_grids(network: Any) -> bool:
    """Says whether all weights of a network lie on 8-bit grids, as after `rounded`, and not by chance."""
    telling = False
    for weight in _weights(network, None):
        codes, scale = weight.codes()
        if np.abs(weight.variable.numpy() - codes * scale).max(initial=0) > 1e-6 * scale.max(initial=0):
            return False
        telling |= (np.count_nonzero(weight.by_channel(codes), axis=1) >= _FEWEST_VALUES).any()
    return bool(telling)


def _weights(network: Any, where: Where | None) -> Iterator[_Weight]:
    seen: set[int] = set()
    taken: set[str] = set()
    for chosen in all_layers(network):
        if where is not None and chosen.weights and not where(chosen):
            continue
        for layer in chosen._flatten_layers():
            for attribute, axes in _axes_of(layer).items():
                variable = getattr(layer, attribute)
                if id(variable) not in seen:
                    seen.add(id(variable))
                    yield _Weight(free_name(variable.name.partition(":")[0], taken), variable, axes)


def _axes_of(layer: Any) -> Axes:
    """The axes of a layer's weights; a subclass that computes as its parent does has its parent's."""
    kind: Any
    for kind in type(layer).__mro__:
        axes = _AXES.get(kind.__name__) if kind.__module__.startswith("tf_keras.") else None
        if axes is not None:
            return {} if type(layer).call is not kind.call else axes(layer) if callable(axes) else axes
    return {}
