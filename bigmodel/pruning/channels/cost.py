"""Parameters and multiply-accumulates (MACs) of a model, and of what a removal would leave of it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
from keras import layers

from bigmodel.graph import Call, trace
from bigmodel.pruning.channels.groups import ChannelMap, find_channels

Work = Iterator[tuple[keras.Variable, int]]
"""Kernels, and how often one run with one sample multiplies by each of their values."""


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a model costs.

    Args:
        parameters: Values in its weights, those that are not trained included.
        macs: Multiply-accumulates of one run with one sample; sizes that the model leaves open count as 1.
    """

    parameters: int
    macs: int


class CostModel:
    """Predicts the cost of a model after a removal, without building it: a kernel shrinks along each of its axes.

    Args:
        model: The whole model; not changed.
        channels: What `find_channels(model)` found; `None`: it is found now.

    Example:
        >>> inputs = keras.Input((4,))
        >>> hidden = layers.Dense(8, name="a")(inputs)
        >>> costs = CostModel(keras.Model(inputs, layers.Dense(2)(hidden)))
        >>> costs.after({}), costs.after({"a": [True] * 4 + [False] * 4})
        (Cost(parameters=58, macs=48), Cost(parameters=30, macs=24))
    """

    def __init__(self, model: keras.Model, channels: ChannelMap | None = None) -> None:
        self._channels = find_channels(model) if channels is None else channels
        self._axes: dict[int, list[np.ndarray]] = {}
        for slot in self._channels.book.slots.values():
            if slot is not None:
                labels = self._channels.book.channels.resolve(slot.labels)
                self._axes.setdefault(id(slot.variable), []).append(labels)
        self._weights = model.weights
        self._work: list[tuple[int, list[np.ndarray]]] = []
        for call in trace(model, flatten=True):
            for variable, positions in _kernels(call.operation, call):
                self._work.append((positions * math.prod(variable.shape), self._axes.get(id(variable), [])))
            self._work.extend(self._products(call))

    def after(self, keep: Mapping[str, Any]) -> Cost:
        """Returns the cost of what `remove_channels(model, keep)` would give."""
        removed = {
            int(label)
            for name, mask in keep.items()
            for label in self._channels[name].labels[~np.asarray(mask, dtype=bool)]
        }
        gone = np.array(sorted(removed), dtype=np.int64)

        def left(size: int, axes: list[np.ndarray]) -> int:
            for labels in axes:
                size = size * int((~np.isin(labels, gone)).sum()) // len(labels)
            return size

        parameters = sum(left(math.prod(v.shape), self._axes.get(id(v), [])) for v in self._weights)
        return Cost(parameters, sum(left(size, axes) for size, axes in self._work))

    def _products(self, call: Call) -> list[tuple[int, list[np.ndarray]]]:
        """Queries times keys, and scores times values, which have no kernel."""
        if not isinstance(call.operation, (layers.MultiHeadAttention, layers.GroupQueryAttention)):
            return []
        parts = _parts(call.operation)
        query, value = call.inputs[0].shape, call.inputs[min(1, len(call.inputs) - 1)].shape
        times = _size(query[1:-1]) * _size(value[1:-1])
        work = []
        for name in ("query", "value"):
            kernel = parts[f"{name}/kernel"]
            heads = self._axes.get(id(parts["query/kernel"]), [])[-2:-1]
            work.append((times * parts["query/kernel"].shape[1] * kernel.shape[2], [*heads, *self._last(kernel)]))
        return work

    def _last(self, variable: keras.Variable) -> list[np.ndarray]:
        return self._axes.get(id(variable), [])[-1:]


def _kernels(layer: Any, call: Call) -> Work:
    rule = _WORK.get(type(layer))
    if rule is not None:
        yield from rule(layer, call.inputs[0].shape, keras.tree.flatten(call.outputs)[0].shape)
    elif isinstance(layer, (layers.MultiHeadAttention, layers.GroupQueryAttention)):
        steps = _size(call.inputs[0].shape[1:-1])
        others = _size(call.inputs[min(1, len(call.inputs) - 1)].shape[1:-1])
        for name, variable in _parts(layer).items():
            if name.endswith("/kernel"):
                yield variable, others if name.split("/")[0] in ("key", "value") else steps


def _parts(layer: Any) -> dict[str, keras.Variable]:
    return {"/".join(weight.path.split("/")[-2:]): weight for weight in layer.weights}


def _size(shape: tuple[int | None, ...]) -> int:
    return math.prod(size or 1 for size in shape)


def _space(layer: Any, shape: tuple[int | None, ...]) -> int:
    return _size(shape[2:] if layer.data_format == "channels_first" else shape[1:-1])


def _dense(layer: Any, x: Any, y: Any) -> Work:
    yield layer.kernel, _size(y[1:-1])


def _conv(layer: Any, x: Any, y: Any) -> Work:
    yield layer.kernel, _space(layer, y)


def _transposed(layer: Any, x: Any, y: Any) -> Work:
    yield layer.kernel, _space(layer, x)


def _separable(layer: Any, x: Any, y: Any) -> Work:
    yield layer.depthwise_kernel, _space(layer, y)
    yield layer.pointwise_kernel, _space(layer, y)


def _einsum(layer: Any, x: Any, y: Any) -> Work:
    source, weights = layer.equation.replace(" ", "").split("->")[0].split(",")
    rest = "ABCDEFGH"[: len(x) - len(source.replace("...", ""))]
    sizes = dict(zip(source.replace("...", rest), x, strict=True))
    first = next(iter(sizes))
    yield layer.kernel, _size(tuple(size for letter, size in sizes.items() if letter not in weights + first))


def _recurrent(layer: Any, x: Any, y: Any) -> Work:
    yield layer.cell.kernel, x[1] or 1
    yield layer.cell.recurrent_kernel, x[1] or 1


def _conv_recurrent(layer: Any, x: Any, y: Any) -> Work:
    space = _size(y[2 if layer.return_sequences else 1 :]) // layer.filters
    yield layer.cell.kernel, (x[1] or 1) * space
    yield layer.cell.recurrent_kernel, (x[1] or 1) * space


def _both(layer: Any, x: Any, y: Any) -> Work:
    for inner in (layer.forward_layer, layer.backward_layer):
        yield from _WORK[type(inner)](inner, x, y) if type(inner) in _WORK else ()


def _every_step(layer: Any, x: Any, y: Any) -> Work:
    inner = layer.layer
    for variable, positions in (
        _WORK[type(inner)](inner, (x[0], *x[2:]), (y[0], *y[2:])) if type(inner) in _WORK else ()
    ):
        yield variable, positions * (x[1] or 1)


_WORK: dict[type, Callable[[Any, Any, Any], Work]] = {
    layers.Dense: _dense,
    layers.EinsumDense: _einsum,
    **dict.fromkeys((layers.Conv1D, layers.Conv2D, layers.Conv3D), _conv),
    **dict.fromkeys((layers.DepthwiseConv1D, layers.DepthwiseConv2D), _conv),
    **dict.fromkeys((layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose), _transposed),
    **dict.fromkeys((layers.SeparableConv1D, layers.SeparableConv2D), _separable),
    **dict.fromkeys((layers.LSTM, layers.GRU, layers.SimpleRNN), _recurrent),
    **dict.fromkeys((layers.ConvLSTM1D, layers.ConvLSTM2D, layers.ConvLSTM3D), _conv_recurrent),
    layers.Bidirectional: _both,
    layers.TimeDistributed: _every_step,
}
