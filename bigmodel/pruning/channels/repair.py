"""Repair what a removal broke, without training: refit the readers by least squares, take BatchNormalization anew."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np
from keras import layers

from bigmodel.data import Split
from bigmodel.graph import rebuild, trace, walk
from bigmodel.pruning.channels.groups import ChannelMap

RIDGE = 1e-4
"""Damping of the least squares, relative to the mean square of the features."""
ROWS = 16_384
"""Positions of feature maps that one fit looks at, at most."""


def repair_channels(
    model: keras.Model,
    smaller: keras.Model,
    channels: ChannelMap,
    keep: Mapping[str, Any],
    data: Split,
    *,
    samples: int = 512,
    batch_size: int = 128,
    seed: int = 0,
) -> tuple[str, ...]:
    """Repairs a model after `remove_channels`, in place. The whole model and the data are not changed.

    From the inputs to the outputs, every Dense and plain convolution that reads fewer channels than before is refitted:
    its kernel and bias become those that best give what the layer gave in the whole model, from what now arrives at
    it. Then the statistics of BatchNormalization are taken anew.

    Args:
        model: The whole model that `channels` describes.
        smaller: What `remove_channels` gave; its weights are replaced.
        channels: What `find_channels(model)` found.
        keep: The masks with which they were removed.
        data: Calibration samples; labels are not needed.
        samples: How many are used.
        batch_size: Samples for each pass.
        seed: Picks the samples, and positions of feature maps where there are very many.

    Returns:
        Names of the refitted layers.

    Source:
        Y. He, X. Zhang and J. Sun, Channel Pruning for Accelerating Very Deep Neural Networks, ICCV 2017 (the
        reconstruction step); the statistics as in Y. He et al., AMC, ECCV 2018.
    """
    x = [batch[0] for batch in data.sample(samples, seed=seed).batches(batch_size)]
    whole = rebuild(model, copy_weights=True)  # layers of a copy have exactly one call, and so one input
    refitted = []
    for old, new, centred in _readers(whole, smaller):
        if old.kernel.shape[:-1] != new.kernel.shape[:-1]:
            kept = _kept_outputs(channels, keep, old)
            _refit(_Features(whole, old), _Features(smaller, new), kept, x, centred=centred, seed=seed)
            refitted.append(new.name)
    renew_statistics(smaller, x)
    return tuple(refitted)


def renew_statistics(model: keras.Model, batches: list[Any]) -> None:
    """Sets the moving statistics of all trainable BatchNormalization layers to the mean over batches, in place.

    Args:
        model: The model.
        batches: Inputs, batch by batch.
    """
    norms = [layer for layer in walk(model) if isinstance(layer, layers.BatchNormalization) and layer.trainable]
    drops = [layer for layer in walk(model) if getattr(layer, "rate", None)]
    if not norms or not batches:
        return
    momenta, rates = [layer.momentum for layer in norms], [layer.rate for layer in drops]
    totals = [[np.zeros(v.shape), np.zeros(v.shape)] for v in (layer.moving_mean for layer in norms)]
    try:
        for layer in norms:
            layer.momentum = 0.0  # one pass leaves the statistics of its batch
        for layer in drops:
            layer.rate = 0.0
        for x in batches:
            model(x, training=True)
            for total, layer in zip(totals, norms, strict=True):
                total[0] += keras.ops.convert_to_numpy(layer.moving_mean)
                total[1] += keras.ops.convert_to_numpy(layer.moving_variance)
    finally:
        for layer, momentum in zip(norms, momenta, strict=True):
            layer.momentum = momentum
        for layer, rate in zip(drops, rates, strict=True):
            layer.rate = rate
    for (mean, variance), layer in zip(totals, norms, strict=True):
        layer.moving_mean.assign(mean / len(batches))
        layer.moving_variance.assign(variance / len(batches))


def _readers(model: keras.Model, smaller: keras.Model) -> Iterator[tuple[Any, Any, bool]]:
    """Dense layers and plain convolutions with their smaller selves, and whether the mean of their outputs is free.

    In the order of the graph. A layer inside a nested model, or called more than once, has no single input to be fitted
    to, and is left out.
    """
    graph = trace(model)
    calls = Counter(call.operation.name for call in graph)
    normed = {id(x) for call in graph if isinstance(call.operation, layers.BatchNormalization) for x in call.inputs}
    for call in graph:
        layer = call.operation
        plain = isinstance(layer, (layers.Dense, layers.Conv1D, layers.Conv2D)) and getattr(layer, "groups", 1) == 1
        if plain and calls[layer.name] == 1 and getattr(layer, "data_format", None) != "channels_first":
            yield layer, smaller.get_layer(layer.name), layer.bias is not None or id(call.outputs) in normed


def _kept_outputs(channels: ChannelMap, keep: Mapping[str, Any], layer: Any) -> np.ndarray:
    """The positions of a layer's outputs that stay."""
    stays = np.ones(layer.kernel.shape[-1], dtype=bool)
    for name, mask in keep.items():
        for member in channels[name].members:
            if member.operation.name == layer.name and member.role == "makes" and len(member.variable.shape) > 1:
                stays &= (member.channels < 0) | np.asarray(mask, dtype=bool)[member.channels]
    return np.flatnonzero(stays)


class _Features:
    """What arrives at a layer: one row for each position that its kernel is applied to."""

    def __init__(self, model: keras.Model, layer: Any) -> None:
        self.layer = layer
        self.kernel = keras.ops.convert_to_numpy(layer.kernel).reshape(-1, layer.kernel.shape[-1]).astype(np.float64)
        self._model = keras.Model(model.inputs, layer.input)

    def __call__(self, batch: Any, count: int, seed: int) -> np.ndarray:
        """About `count` rows of a batch; the same ones for the same seed."""
        x = self._model(keras.tree.flatten(batch), training=False)
        positions = max(1, math.prod(self._positions(x)))
        x = x[: 4 * count // positions + 1]  # patches of all samples could fill the memory, for a few rows
        if not isinstance(self.layer, layers.Dense):
            x = _patches(self.layer, x)
        rows = keras.ops.reshape(x, (-1, len(self.kernel)))
        picked = np.random.default_rng(seed).permutation(rows.shape[0])[:count]
        return keras.ops.convert_to_numpy(keras.ops.take(rows, picked, axis=0)).astype(np.float64)

    def _positions(self, x: Any) -> tuple[int, ...]:
        strides = getattr(self.layer, "strides", (1,) * (len(x.shape) - 2))
        return tuple(size // stride for size, stride in zip(x.shape[1:-1], strides, strict=True))


def _patches(layer: Any, x: Any) -> Any:
    """The inputs of a convolution at each of its positions, in the order of its kernel."""
    if isinstance(layer, layers.Conv2D):
        size, strides, dilation = layer.kernel_size, layer.strides, layer.dilation_rate
    else:
        size, strides, dilation = ((*v, 1) for v in (layer.kernel_size, layer.strides, layer.dilation_rate))
        x = keras.ops.expand_dims(x, 2)
    padding = layer.padding
    if padding == "causal":
        before, padding = (size[0] - 1) * dilation[0], "valid"
        x = keras.ops.pad(x, ((0, 0), (before, 0), (0, 0), (0, 0)))
    if max(strides) > 1 and max(dilation) > 1:
        strides = (1, 1)  # no backend patches with both; every position is an example as well
    return keras.ops.image.extract_patches(
        x, size, strides=strides[0], dilation_rate=dilation[0], padding=padding, data_format="channels_last"
    )


def _refit(old: _Features, new: _Features, kept: np.ndarray, x: list[Any], *, centred: bool, seed: int) -> None:
    """Solves for the kernel and bias that give the old layer's outputs from the new layer's inputs."""
    width, count = len(new.kernel) + 1, max(1, ROWS // len(x))
    gram, moment = np.zeros((width, width)), np.zeros((width, len(kept)))
    for number, batch in enumerate(x):
        wanted = old(batch, count, seed + number) @ old.kernel[:, kept]
        features = new(batch, count, seed + number)
        features = np.concatenate([features, np.full((len(features), 1), float(centred))], axis=1)
        gram += features.T @ features
        moment += features.T @ wanted
    # Damped towards the sliced kernel, not towards zero: features that the samples don't show keep their weights.
    start = np.concatenate([new.kernel, np.zeros((1, len(kept)))])
    damping = RIDGE * np.trace(gram[:-1, :-1]) / len(new.kernel) * np.eye(width)
    solution = start + np.linalg.solve(gram + damping + 1e-12 * np.eye(width), moment - gram @ start)
    new.layer.kernel.assign(solution[:-1].reshape(new.layer.kernel.shape))
    if new.layer.bias is not None:
        new.layer.bias.assign(keras.ops.convert_to_numpy(old.layer.bias)[kept] + solution[-1])
