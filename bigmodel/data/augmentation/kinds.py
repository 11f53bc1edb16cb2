"""What kind of data an input is: what its model does with it decides, else its shape and values."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from bigmodel.config.augmentation import Kind
from bigmodel.data.splits import Data, Split
from bigmodel.graph import is_graph, trace

_DECIDING: tuple[tuple[Kind, tuple[type, ...]], ...] = (
    ("tokens", (keras.layers.Embedding,)),
    (
        "image",
        (
            keras.layers.Conv2D,
            keras.layers.Conv2DTranspose,
            keras.layers.DepthwiseConv2D,
            keras.layers.SeparableConv2D,
            keras.layers.MaxPooling2D,
            keras.layers.AveragePooling2D,
        ),
    ),
    (
        "sequence",
        (
            keras.layers.Conv1D,
            keras.layers.DepthwiseConv1D,
            keras.layers.SeparableConv1D,
            keras.layers.MaxPooling1D,
            keras.layers.AveragePooling1D,
            keras.layers.RNN,
            keras.layers.LSTM,
            keras.layers.GRU,
            keras.layers.SimpleRNN,
            keras.layers.Bidirectional,
            keras.layers.TimeDistributed,
            keras.layers.MultiHeadAttention,
        ),
    ),
)
_RANKS: dict[Kind, tuple[int, ...]] = {"image": (3, 4), "sequence": (2, 3), "tabular": (1, 2), "tokens": (1, 2)}
_SMALLEST_SIDE = 4


def kind_of(data: Data | Split, model: Any = None) -> tuple[Kind | None, ...]:
    """Finds out the kind of each input. Nothing is changed.

    The first layer behind an input that is made for one kind decides: an embedding for tokens, a two-dimensional
    convolution or pooling for images, a one-dimensional one, a recurrent or an attention layer for sequences. Without
    such a layer, arrays of rank 4 are images, and so are those of rank 3 with bytes or with sides of equal length;
    other arrays of rank 3 are sequences, those of rank 1 and 2 tabular.

    Args:
        data: `Data` or its train split, from `as_data`.
        model: The model that reads it, if there is one.

    Returns:
        One of "image", "sequence", "tabular", "tokens" for each array of x, in the order of `keras.tree.flatten`;
        `None` where an array is none of these, as video and text are.

    Example:
        >>> from bigmodel.data import as_data
        >>> [kind_of(as_data((np.zeros((20, *shape)), np.zeros(20)))) for shape in [(8, 8, 3), (5,)]]
        [('image',), ('tabular',)]
    """
    split = data.train if isinstance(data, Data) else data
    x = next(iter(split.source.head()))[0]
    leaves = keras.tree.flatten(x)
    told = _told_by(model, x) if model is not None and is_graph(model) else [None] * len(leaves)
    return tuple(_fitting(kind, leaf) or _by_values(leaf) for kind, leaf in zip(told, leaves, strict=True))


def _told_by(model: Any, x: Any) -> list[Kind | None]:
    graph = trace(model, flatten=True)
    inputs = keras.tree.flatten(graph.inputs)
    found = {tensor.name: _first_deciding(graph, tensor) for tensor in inputs}
    leaves = keras.tree.flatten_with_path(x)
    if isinstance(x, dict):
        keys = graph.inputs if isinstance(graph.inputs, dict) else {tensor.name: tensor for tensor in inputs}
        return [found.get(keys[path[0]].name) if path[0] in keys else None for path, _ in leaves]
    return list(found.values()) if len(found) == len(leaves) else [None] * len(leaves)


def _first_deciding(graph: Any, tensor: Any) -> Kind | None:
    reached = {id(tensor)}
    for call in graph:
        if not any(id(own) in reached for own in call.inputs):
            continue
        for kind, layers in _DECIDING:
            if isinstance(call.operation, layers):
                return kind
        reached.update(map(id, keras.tree.flatten(call.outputs)))
    return None


def _fitting(kind: Kind | None, leaf: np.ndarray) -> Kind | None:
    return kind if kind is not None and leaf.ndim in _RANKS[kind] and leaf.dtype.kind in "biuf" else None


def _by_values(leaf: np.ndarray) -> Kind | None:
    if leaf.dtype.kind not in "biuf":
        return None
    if leaf.ndim == 3:
        height, width = leaf.shape[1:]
        return (
            "image" if min(height, width) >= _SMALLEST_SIDE and (_holds_bytes(leaf) or height == width) else "sequence"
        )
    kinds: dict[int, Kind] = {1: "tabular", 2: "tabular", 4: "image"}
    return kinds.get(leaf.ndim)


def _holds_bytes(leaf: np.ndarray) -> bool:
    return leaf.dtype == np.uint8
