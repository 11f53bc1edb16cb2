"""Rules of layers that work on features and feature maps: how labels pass through, and which variables carry them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from bigmodel.pruning.channels.labels import Axis, Labelled, broadcast, concatenate, reshape
from bigmodel.pruning.channels.site import Count, Share, Site, count

NARROWED = "can't lose channels that it does not share with its other operands"


def channel_axis(layer: Any, x: Labelled) -> int:
    """The axis of a feature map's channels."""
    return 1 if getattr(layer, "data_format", None) == "channels_first" else x.rank - 1


def per_channel(function: Any) -> bool:
    """Says whether an activation treats every channel alone.

    Found by trying: a part of the result has to be the result of the part.

    Example:
        >>> per_channel(keras.activations.gelu), per_channel(keras.activations.softmax)
        (True, False)
    """
    if function is None or function is keras.activations.linear:
        return True
    if isinstance(function, keras.layers.Layer) and function.weights:
        return False
    x = np.linspace(-4.0, 7.0, 24, dtype="float32").reshape(2, 12)
    whole = keras.ops.convert_to_numpy(function(keras.ops.convert_to_tensor(x)))
    part = keras.ops.convert_to_numpy(function(keras.ops.convert_to_tensor(x[:, 2:10])))
    return whole.shape == x.shape and part.shape == (2, 8) and np.allclose(part, whole[:, 2:10], atol=1e-6)


def activate(site: Site, labels: Axis) -> None:
    """Pins labels that the layer's own activation mixes."""
    for name in ("activation", "recurrent_activation"):
        if not per_channel(getattr(site.operation, name, None)):
            site.pin(labels, f"its {name} runs over the channels")


def features(site: Site, x: Labelled, axis: int, labels: Axis) -> Labelled:
    """The output's labels: the input's, with new ones on the channel axis and none where the size changed."""
    shape = site.shapes[0]
    axes = [old if size == new else None for old, size, new in zip(x.axes, x.shape, shape, strict=True)]
    axes[axis] = labels
    return Labelled(shape, tuple(axes))


def same(site: Site, x: Labelled, **_: Any) -> Labelled:
    """Each value alone."""
    if not per_channel(getattr(site.operation, "activation", None)):
        site.pin(x, "runs over the channels")
    return x


def dropout(site: Site, x: Labelled, **_: Any) -> Labelled:
    """Each value alone; regularisation follows capacity: the rate shrinks with the channels."""
    labels = x[channel_axis(site.operation, x)]
    if labels is not None:
        site.config(rate=Share(site.operation.rate, labels))
    return x


def spatial(site: Site, x: Labelled, **_: Any) -> Labelled:
    """Each channel alone: pooling, padding, cropping, up-sampling."""
    axis = channel_axis(site.operation, x)
    return features(site, x, axis, x[axis])


def global_pooling(site: Site, x: Labelled, **_: Any) -> Labelled:
    """Each channel alone, space gone."""
    labels, shape = x[channel_axis(site.operation, x)], site.shapes[0]
    axis = channel_axis(site.operation, Labelled.fixed(shape))
    return Labelled(shape, tuple(labels if i == axis else None for i in range(len(shape))))


def dense(site: Site, x: Labelled, **_: Any) -> Labelled:
    """A matrix on the last axis."""
    layer = site.operation
    out = site.channels.new(layer.units)
    site.reads(layer.kernel, 0, x[-1])
    site.makes(layer.kernel, 1, out)
    site.makes(layer.bias, 0, out)
    site.config(units=Count(out))
    activate(site, out)
    return features(site, x, x.rank - 1, out)


def conv(site: Site, x: Labelled, **_: Any) -> Labelled:
    """A convolution: kernel (*space, inputs per group, filters)."""
    layer = site.operation
    axis = channel_axis(layer, x)
    inputs: Axis = x[axis]
    out: Axis = None
    groups: Axis = None
    if layer.groups == 1:
        out = site.channels.new(layer.filters)
    else:
        inputs, out, groups = grouped(site, x[axis], layer.kernel.shape[-2], layer.filters, layer.groups)
    site.reads(layer.kernel, -2, inputs)
    site.makes(layer.kernel, -1, out)
    site.makes(layer.bias, 0, out)
    site.config(filters=count(out, layer.filters), groups=count(groups, layer.groups))
    activate(site, out)
    return features(site, x, axis, out)


def grouped(site: Site, inputs: Axis, width: int, filters: int, groups: int) -> tuple[Axis, Axis, Axis]:
    """Labels of a grouped convolution: of its kernel's inputs, of its filters, and of its groups.

    All groups have to stay equally wide. With more groups than channels in each, whole groups are removed, inputs and
    filters together; else each group loses the same positions.
    """
    per_group = filters // groups
    if inputs is None:
        return None, site.channels.fixed(filters, site.because("its groups read channels that stay")), None
    if groups > width:
        labels = site.channels.new(groups)
        site.channels.tie(inputs, np.repeat(labels, width), "")
        return None, np.repeat(labels, per_group), labels
    labels, out = site.channels.new(width), site.channels.new(per_group)
    site.channels.tie(inputs, np.tile(labels, groups), "")
    return labels, np.tile(out, groups), None


def conv_transpose(site: Site, x: Labelled, **_: Any) -> Labelled:
    """A transposed convolution: kernel (*space, filters, inputs)."""
    layer = site.operation
    axis, out = channel_axis(layer, x), site.channels.new(layer.filters)
    site.reads(layer.kernel, -1, x[axis])
    site.makes(layer.kernel, -2, out)
    site.makes(layer.bias, 0, out)
    site.config(filters=Count(out))
    activate(site, out)
    return features(site, x, axis, out)


def depthwise_conv(site: Site, x: Labelled, **_: Any) -> Labelled:
    """Each channel alone: kernel (*space, channels, multiplier); a channel becomes a block of `multiplier`."""
    layer = site.operation
    axis = channel_axis(layer, x)
    out = _blocks(x[axis], layer.depth_multiplier)
    site.scales(layer.kernel, -2, x[axis])
    site.scales(layer.bias, 0, out)
    activate(site, out)
    return features(site, x, axis, out)


def _blocks(labels: Axis, length: int) -> Axis:
    return None if labels is None else np.repeat(labels, length)


def separable_conv(site: Site, x: Labelled, **_: Any) -> Labelled:
    """A depthwise convolution, then a 1x1 convolution."""
    layer = site.operation
    axis, out = channel_axis(layer, x), site.channels.new(layer.filters)
    site.scales(layer.depthwise_kernel, -2, x[axis])
    site.reads(layer.pointwise_kernel, -2, _blocks(x[axis], layer.depth_multiplier))
    site.makes(layer.pointwise_kernel, -1, out)
    site.makes(layer.bias, 0, out)
    site.config(filters=Count(out))
    activate(site, out)
    return features(site, x, axis, out)


def einsum_dense(site: Site, x: Labelled, **_: Any) -> Labelled:
    """Any contraction with a kernel: letters of the kernel that the output lacks are read, new ones are written."""
    layer = site.operation
    left, result = layer.equation.replace(" ", "").split("->")
    source, weights = left.split(",")
    rest = "ABCDEFGH"[: x.rank - len(source.replace("...", ""))]
    source, result = source.replace("...", rest), result.replace("...", rest)
    known: dict[str, Axis] = dict(zip(source, x.axes, strict=True))
    for axis, letter in enumerate(weights):
        if letter in source and letter not in result:
            site.reads(layer.kernel, axis, known[letter])
            continue
        if letter in source:
            site.scales(layer.kernel, axis, known[letter])
        else:
            known[letter] = site.channels.new(layer.kernel.shape[axis])
            site.makes(layer.kernel, axis, known[letter])
    for axis, letter in enumerate(_bias_letters(layer, result)):
        if layer.bias.shape[axis] != 1:
            site.makes(layer.bias, axis, known[letter])
    for letter in set(source) - set(weights) - set(result):
        site.pin(known[letter], "sums over the channels")
    axes = tuple(known[letter] for letter in result)
    for labels in axes:
        activate(site, labels)
    sizes = layer.get_config()["output_shape"]
    sizes = (sizes,) if isinstance(sizes, int) else tuple(sizes)
    own = axes[len(axes) - len(sizes) :]
    site.config(output_shape=tuple(count(a, size) if size else size for a, size in zip(own, sizes, strict=True)))
    return Labelled(site.shapes[0], axes)


def _bias_letters(layer: Any, result: str) -> str:
    """The output's letter of each axis of the bias, which starts at the first letter of `bias_axes`."""
    if layer.bias is None:
        return ""
    return result[len(result) - len(layer.bias.shape) :]


def batch_norm(site: Site, x: Labelled, **_: Any) -> Labelled:
    """Statistics of each channel alone."""
    layer = site.operation
    for variable in (layer.gamma, layer.beta, layer.moving_mean, layer.moving_variance):
        site.scales(variable, 0, x[layer.axis])
    return x


def layer_norm(site: Site, x: Labelled, **_: Any) -> Labelled:
    """Statistics over the channels: they would change with the width."""
    layer = site.operation
    axes = [layer.axis] if isinstance(layer.axis, int) else list(layer.axis)
    for position, axis in enumerate(axes):
        if site.book.exact:
            site.pin(x[axis], "its statistics run over the channels")
        for name in ("gamma", "beta", "scale"):
            variable = getattr(layer, name, None)
            if hasattr(variable, "shape"):
                site.scales(variable, position, x[axis])
    return x


def group_norm(site: Site, x: Labelled, **_: Any) -> Labelled:
    """Statistics over each group of channels: whole groups can go, and a group that is the whole axis can't."""
    layer = site.operation
    labels = x[layer.axis]
    if labels is None:
        return x
    if layer.groups > 1 or site.book.exact:
        groups = site.channels.new(layer.groups)
        site.channels.tie(labels, np.repeat(groups, len(labels) // layer.groups), "")
        site.config(groups=Count(groups))
    site.scales(layer.gamma, 0, labels)
    site.scales(layer.beta, 0, labels)
    return x


def layer_scale(site: Site, x: Labelled, **_: Any) -> Labelled:
    """A factor for each channel."""
    site.scales(site.operation.gamma, 0, x[-1])
    if x[-1] is not None:
        site.config(projection_dim=Count(x[-1]))
    return x


def prelu(site: Site, x: Labelled, **_: Any) -> Labelled:
    """A slope for each position but along shared axes."""
    for axis, size in enumerate(site.operation.alpha.shape, start=1):
        if size != 1 or x.shape[axis] == 1:
            site.scales(site.operation.alpha, axis - 1, x[axis])
    return x


def rescaling(site: Site, x: Labelled, **_: Any) -> Labelled:
    """Each value alone, unless its factors are given for each channel."""
    if np.ndim(site.operation.scale) or np.ndim(site.operation.offset):
        site.pin(x, "has a constant for each channel")
    return x


def softmax(site: Site, x: Labelled, mask: Any = None, **_: Any) -> Labelled:
    """Normalised along its axes."""
    axes = site.operation.axis
    for axis in range(x.rank) if axes is None else np.atleast_1d(axes):
        site.pin(x[axis], "runs over the channels")
    return x


def flatten(site: Site, x: Labelled, **_: Any) -> Labelled:
    """A channel becomes a block of features."""
    if getattr(site.operation, "data_format", None) == "channels_first" and x.rank > 2:
        x = x.transposed((0, *range(2, x.rank), 1))  # as the layer does
    return reshape(site.channels, x, site.shapes[0], site.because("can't be followed through this shape"))


def reshape_layer(site: Site, x: Labelled, **_: Any) -> Labelled:
    """Axes merge or split."""
    y = reshape(site.channels, x, site.shapes[0], site.because("can't be followed through this shape"))
    site.config(
        target_shape=tuple(
            size if size == -1 else count(axis, size)
            for axis, size in zip(y.axes[1:], site.operation.target_shape, strict=True)
        )
    )
    return y


def permute(site: Site, x: Labelled, **_: Any) -> Labelled:
    """Axes in another order."""
    return x.transposed((0, *site.operation.dims))


def repeat_vector(site: Site, x: Labelled, **_: Any) -> Labelled:
    """A new axis of time."""
    return Labelled(site.shapes[0], (x[0], None, x[1]))


def merge(site: Site, inputs: Sequence[Labelled], **_: Any) -> Labelled:
    """Operands meet value by value."""
    return broadcast(site.channels, list(inputs), site.because(NARROWED))


def concatenate_layer(site: Site, inputs: Sequence[Labelled], **_: Any) -> Labelled:
    """Operands side by side."""
    return concatenate(site.channels, list(inputs), site.operation.axis, site.because("beside channels that stay"))


def dot(site: Site, inputs: Sequence[Labelled], **_: Any) -> Labelled:
    """Sums the products along one axis of both operands."""
    axes = site.operation.axes
    left, right = (axes, axes) if isinstance(axes, int) else axes
    if site.operation.normalize:
        site.pin(inputs[0][left], "normalises over the channels")
    site.channels.tie(inputs[0][left], inputs[1][right], site.because(NARROWED))
    a = [axis for i, axis in enumerate(inputs[0].axes) if i != left % inputs[0].rank]
    b = [axis for i, axis in enumerate(inputs[1].axes) if i not in (0, right % inputs[1].rank)]
    shape = site.shapes[0]
    return Labelled(shape, (*a, *b)) if len(shape) == len(a) + len(b) else Labelled.fixed(shape)


def embedding(site: Site, x: Labelled, **_: Any) -> Labelled:
    """A table of vectors."""
    layer = site.operation
    out = site.channels.new(layer.output_dim)
    site.makes(layer.embeddings, 1, out)
    site.config(output_dim=Count(out))
    return Labelled(site.shapes[0], (*x.axes, out))
