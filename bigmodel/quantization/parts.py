"""The layers inside a layer, by paths that stay when the layer is made again from its config.

A path names attributes ("query_dense", "blocks/0/cell"), not layers: names that Keras gives itself differ from one
instance of a class to the next.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras

# A module and not its names: Keras' loading imports this one, possibly in the middle of the import of that.
from bigmodel import graph
from bigmodel.errors import ModelError

# Where Keras itself keeps the layers that it has seen; TensorFlow's own names begin with "_self_".
_KERAS_OWN = {"_layers", "_tracker", "_functional", "_operations", "_operations_by_depth", "_nodes"}


def inner_layers(layer: keras.layers.Layer) -> list[tuple[str, keras.layers.Layer]]:
    """Returns the layers directly inside a layer, each once, with the part of the path that leads to it.

    Args:
        layer: A built layer or model.

    Example:
        >>> layer = keras.layers.Bidirectional(keras.layers.LSTM(2))
        >>> layer.build((None, 4, 3))
        >>> [path for path, _ in inner_layers(layer)]
        ['forward_layer', 'backward_layer']
    """
    inside = layer._flatten_layers(include_self=False, recursive=False)
    waiting = {id(inner): inner for inner in inside}
    found: list[tuple[str, keras.layers.Layer]] = []
    if isinstance(layer, keras.Sequential) or graph.is_graph(layer):
        kept = (inner for inner in inside if not isinstance(inner, keras.layers.InputLayer))
        return [(f"layers/{i}", inner) for i, inner in enumerate(kept)]
    for path, inner in _held(layer):
        if waiting.pop(id(inner), None) is not None:
            found.append((path, inner))
    return found + [(f"layer_{i}", inner) for i, inner in enumerate(waiting.values())]


def _held(layer: keras.layers.Layer) -> Iterator[tuple[str, keras.layers.Layer]]:
    def search(path: str, value: Any) -> Iterator[tuple[str, keras.layers.Layer]]:
        if isinstance(value, keras.layers.Layer):
            yield path, value
        elif isinstance(value, (list, tuple)):
            for i, part in enumerate(value):
                yield from search(f"{path}/{i}", part)
        elif isinstance(value, dict):
            for key, part in value.items():
                yield from search(f"{path}/{key}", part)

    for name, value in vars(layer).items():
        if name not in _KERAS_OWN and not name.startswith("_self_"):
            yield from search(name.lstrip("_"), value)


def find_part(layer: keras.layers.Layer, path: str) -> keras.layers.Layer | None:
    """Returns the layer at a path inside a layer, the layer itself at the empty path, `None` where there is none."""
    if not path:
        return layer
    for name, inner in inner_layers(layer):
        if path == name or path.startswith(f"{name}/"):
            return find_part(inner, path[len(name) + 1 :])
    return None


def find_weight(layer: keras.layers.Layer, path: str) -> keras.Variable:
    """Returns the weight at a path inside a layer: that of the layer that holds it, and the weight's own name.

    Raises:
        ModelError: The layer has no such weight.
    """
    place, _, name = path.rpartition("/")
    part = find_part(layer, place)
    # A layer's own weights come before those of the layers inside.
    for variable in part.weights if part is not None else ():
        if variable.name == name:
            return variable
    raise ModelError(
        f"Layer {layer.name!r} has no weight {path!r}.",
        received=f"weights {[v.path for v in layer.weights]}",
        expected=f"a weight whose path inside the layer is {path!r}",
        fix="Rebuild the quantized model from the float model with this version of Keras.",
    )


def joined(*parts: str) -> str:
    """Returns a path of the parts that are not empty."""
    return "/".join(part for part in parts if part)


def is_built_in(layer: keras.layers.Layer) -> bool:
    """Says whether Keras wrote the layer, and not the caller."""
    return type(layer).__module__.split(".")[0] == "keras" and not isinstance(layer, keras.Model)
