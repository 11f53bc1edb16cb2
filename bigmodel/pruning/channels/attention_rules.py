"""Rules of attention layers: heads, and the sizes of keys and values, are channels too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from bigmodel.pruning.channels.feature_rules import NARROWED
from bigmodel.pruning.channels.labels import Labelled
from bigmodel.pruning.channels.site import Count, Site


def attention(
    site: Site,
    query: Labelled,
    value: Labelled,
    key: Labelled | None = None,
    *,
    return_attention_scores: bool = False,
    **_: Any,
) -> Any:
    """Multi-head attention: heads, and the sizes of keys and values.

    Scores are divided by the square root of the key size; the query is rescaled to keep them.
    """
    layer = site.operation
    parts = {"/".join(weight.path.split("/")[-2:]): weight for weight in layer.weights}
    heads = site.channels.new(layer.num_heads, "heads")
    keys, values = site.channels.new(layer.key_dim, "keys"), site.channels.new(layer.value_dim, "values")
    out_shape = parts["attention_output/kernel"].shape[2:]
    out = [site.channels.new(size) for size in out_shape]
    _projections(site, parts, (query, key or value, value), (heads, heads, heads), (keys, keys, values), out)
    site.config(
        num_heads=Count(heads),
        key_dim=Count(keys),
        value_dim=Count(values),
        output_shape=tuple(map(Count, out)),
    )
    y = Labelled(site.shapes[0], (*query.axes[: query.rank - 1], *out))
    return [y, _scores(site, heads)] if return_attention_scores else y


def grouped_query_attention(
    site: Site,
    query: Labelled,
    value: Labelled,
    key: Labelled | None = None,
    *,
    return_attention_scores: bool = False,
    **_: Any,
) -> Any:
    """Grouped-query attention: a key/value head goes with all its query heads, and the size of a head."""
    layer = site.operation
    parts = {"/".join(weight.path.split("/")[-2:]): weight for weight in layer.weights}
    shared, size = site.channels.new(layer.num_key_value_heads, "heads"), site.channels.new(layer.head_dim, "head_size")
    heads = np.repeat(shared, layer.num_query_heads // layer.num_key_value_heads)
    out = site.channels.new(parts["attention_output/kernel"].shape[-1])
    site.channels.tie(out, query[-1], site.because(NARROWED))  # its output is as wide as the query by definition
    _projections(site, parts, (query, key or value, value), (heads, shared, shared), (size, size, size), [out])
    site.config(head_dim=Count(size), num_query_heads=Count(heads), num_key_value_heads=Count(shared))
    y = Labelled(site.shapes[0], (*query.axes[: query.rank - 1], out))
    return [y, _scores(site, heads)] if return_attention_scores else y


def _projections(
    site: Site,
    parts: dict[str, keras.Variable],
    inputs: tuple[Labelled, Labelled, Labelled],
    heads: tuple[np.ndarray, ...],
    sizes: tuple[np.ndarray, ...],
    out: list[np.ndarray],
) -> None:
    """Kernels (inputs, heads, size) of query, key and value, and (heads, size, *outputs) of the output."""
    for name, x, head, size in zip(("query", "key", "value"), inputs, heads, sizes, strict=True):
        site.reads(parts[f"{name}/kernel"], 0, x[-1])
        for part in ("kernel", "bias"):
            site.makes(parts.get(f"{name}/{part}"), -2, head)
            site.makes(parts.get(f"{name}/{part}"), -1, size)
            if name == "query":
                site.rescale(parts.get(f"{name}/{part}"), size)
    site.reads(parts.get("gate/kernel"), 0, inputs[0][-1])
    for part in ("kernel", "bias"):  # the optional gate multiplies what the heads put out
        site.makes(parts.get(f"gate/{part}"), -2, heads[0])
        site.makes(parts.get(f"gate/{part}"), -1, sizes[2])
    kernel = parts["attention_output/kernel"]
    site.reads(kernel, 0, heads[0])
    site.reads(kernel, 1, sizes[2])
    for axis, labels in enumerate(out):
        site.makes(kernel, axis + 2, labels)
        site.makes(parts.get("attention_output/bias"), axis, labels)


def _scores(site: Site, heads: np.ndarray) -> Labelled:
    shape = site.shapes[-1]
    return Labelled(shape, (None, heads, *[None] * (len(shape) - 2)))


def dot_attention(site: Site, inputs: Sequence[Labelled], *_: Any, **__: Any) -> Any:
    """Attention without weights: queries meet keys along their features; the output has the values' features."""
    query, value, *rest = inputs
    key = rest[0] if rest else value
    if site.operation.score_mode != "dot" or len(site.shapes) > 1:
        for x in inputs:
            site.pin(x, "its scores need all features")
    site.channels.tie(query[-1], key[-1], site.because(NARROWED))
    return Labelled(site.shapes[0], (*query.axes[:-1], value[-1])) if len(site.shapes) == 1 else site.fixed()
