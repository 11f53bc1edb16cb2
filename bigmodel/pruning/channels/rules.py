"""The table of rules, and the rules of layers that hold other layers.

A rule has the signature of the operation's call, after the `Site` where it writes. To teach the engine a layer of
one's own, pass `rules={MyLayer: rule}` to `find_channels`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
from keras import layers

from bigmodel.pruning.channels import attention_rules, feature_rules, op_rules, recurrent_rules
from bigmodel.pruning.channels.labels import Labelled, broadcast, concatenate
from bigmodel.pruning.channels.site import Site

Rule = Callable[..., Any]


def unknown(site: Site, *args: Any, **kwargs: Any) -> Any:
    """An operation without a rule: nothing that goes in can be removed, and nothing that comes out."""
    why = f"{type(site.operation).__name__} has no rule"
    for x in keras.tree.flatten((args, kwargs)):
        if isinstance(x, Labelled):
            site.pin(x, why)
    return site.fixed()


def bidirectional(site: Site, x: Labelled, initial_state: Any = None, **_: Any) -> Any:
    """Two recurrent layers side by side, or merged."""
    layer = site.operation
    if len(site.shapes) > 1 or initial_state is not None:
        return unknown(site, x)
    shape: tuple[Any, ...] = site.shapes[0]
    if layer.merge_mode == "concat":
        shape = (*shape[:-1], shape[-1] // 2)
    both = [_embedded(site, inner, x, shape) for inner in (layer.forward_layer, layer.backward_layer)]
    if layer.merge_mode == "concat":
        return concatenate(site.channels, both, -1, site.because("beside channels that stay"))
    return broadcast(site.channels, both, site.because(feature_rules.NARROWED))


def time_distributed(site: Site, x: Labelled, **_: Any) -> Any:
    """The wrapped layer, at every step of axis 1."""
    if len(site.shapes) > 1:
        return unknown(site, x)
    step = Labelled((x.shape[0], *x.shape[2:]), (x[0], *x.axes[2:]))
    shape = site.shapes[0]
    y = _embedded(site, site.operation.layer, step, (shape[0], *shape[2:]))
    return Labelled(shape, (y[0], None, *y.axes[1:]))


def _embedded(site: Site, operation: keras.Operation, x: Labelled, shape: Sequence[int | None]) -> Any:
    return rule_for(operation, site.book.rules)(site.inside(operation, [tuple(shape)]), x)


def rule_for(operation: keras.Operation, rules: Mapping[type, Rule]) -> Rule:
    """The rule of an operation, by its exact class: a subclass may compute anything."""
    kind = type(operation)
    if rule := rules.get(kind) or LAYERS.get(kind):
        return rule
    own = kind.__module__.partition(".")[0] == "keras"  # op nodes and some layers of Keras have no public class
    table = NAMED_LAYERS if isinstance(operation, layers.Layer) else OPERATIONS
    return table.get(kind.__name__, unknown) if own else unknown


def _table(names: str, rule: Rule) -> dict[str, Rule]:
    return dict.fromkeys(names.split(), rule)


def _dimensions(name: str, rule: Rule, dimensions: Sequence[int] = (1, 2, 3)) -> dict[str, Rule]:
    return {name.format(d): rule for d in dimensions}


_LAYERS: dict[str, Rule] = {
    **_table(
        "Activation ReLU LeakyReLU ELU Identity ActivityRegularization GaussianNoise GaussianDropout AlphaDropout",
        feature_rules.same,
    ),
    **_table("Dropout SpatialDropout1D SpatialDropout2D SpatialDropout3D", feature_rules.dropout),
    **_dimensions("MaxPooling{}D", feature_rules.spatial),
    **_dimensions("AveragePooling{}D", feature_rules.spatial),
    **_dimensions("AdaptiveMaxPooling{}D", feature_rules.spatial),
    **_dimensions("AdaptiveAveragePooling{}D", feature_rules.spatial),
    **_dimensions("ZeroPadding{}D", feature_rules.spatial),
    **_dimensions("Cropping{}D", feature_rules.spatial),
    **_dimensions("UpSampling{}D", feature_rules.spatial),
    **_table("Resizing CenterCrop", feature_rules.spatial),
    **_dimensions("GlobalMaxPooling{}D", feature_rules.global_pooling),
    **_dimensions("GlobalAveragePooling{}D", feature_rules.global_pooling),
    **_dimensions("Conv{}D", feature_rules.conv),
    **_dimensions("Conv{}DTranspose", feature_rules.conv_transpose),
    **_dimensions("DepthwiseConv{}D", feature_rules.depthwise_conv, (1, 2)),
    **_dimensions("SeparableConv{}D", feature_rules.separable_conv, (1, 2)),
    **_table("Add Subtract Multiply Average Maximum Minimum", feature_rules.merge),
    **_table("LayerNormalization RMSNormalization UnitNormalization", feature_rules.layer_norm),
    **_dimensions("ConvLSTM{}D", recurrent_rules.conv_recurrent),
    **_table("LSTM GRU SimpleRNN", recurrent_rules.recurrent),
    "Dense": feature_rules.dense,
    "EinsumDense": feature_rules.einsum_dense,
    "Embedding": feature_rules.embedding,
    "BatchNormalization": feature_rules.batch_norm,
    "GroupNormalization": feature_rules.group_norm,
    "PReLU": feature_rules.prelu,
    "Softmax": feature_rules.softmax,
    "Rescaling": feature_rules.rescaling,
    "Flatten": feature_rules.flatten,
    "Reshape": feature_rules.reshape_layer,
    "Permute": feature_rules.permute,
    "RepeatVector": feature_rules.repeat_vector,
    "Concatenate": feature_rules.concatenate_layer,
    "Dot": feature_rules.dot,
    "MultiHeadAttention": attention_rules.attention,
    "GroupQueryAttention": attention_rules.grouped_query_attention,
    "Attention": attention_rules.dot_attention,
    "Bidirectional": bidirectional,
    "TimeDistributed": time_distributed,
}

LAYERS: dict[type, Rule] = {getattr(layers, name): rule for name, rule in _LAYERS.items() if hasattr(layers, name)}
"""Rules by the exact class of a layer; a class that this Keras lacks is left out."""

NAMED_LAYERS: dict[str, Rule] = {
    "LayerScale": feature_rules.layer_scale,
    "StochasticDepth": feature_rules.same,
    "CustomScaleLayer": feature_rules.merge,
}
"""Rules of layers inside `keras.applications` that are not public."""

OPERATIONS: dict[str, Rule] = {
    **_table(
        "Absolute Abs Add Average Ceil Clip Cos Cosh Divide DivideNoNan TrueDivide Equal Exp Expm1 Floor Greater "
        "GreaterEqual Less LessEqual Log Log10 Log1p Log2 LogicalAnd LogicalNot LogicalOr Maximum Minimum Mod Multiply "
        "Negative NotEqual Power Reciprocal Round Sign Sin Sinh Sqrt Square Subtract Tan Tanh Where Rsqrt Erf Cast "
        "StopGradient Copy Relu Relu6 Sigmoid Softplus Softsign SoftShrink Silu LogSigmoid LeakyRelu HardSigmoid "
        "HardSilu Elu Selu Gelu Celu TanhShrink HardTanh HardShrink Threshold Squareplus Identity",
        op_rules.elementwise,
    ),
    **_table("Mean Max Min Amax Amin Prod Var Std Median Logsumexp Any All", op_rules.reduction),
    **_table("MaxPool AveragePool", feature_rules.spatial),
    **_table("Softmax LogSoftmax", feature_rules.softmax),
    "Sum": op_rules.total,
    "Matmul": op_rules.matmul,
    "Einsum": op_rules.einsum,
    "Reshape": op_rules.reshape_op,
    "Transpose": op_rules.transpose,
    "Swapaxes": op_rules.swapaxes,
    "Moveaxis": op_rules.moveaxis,
    "ExpandDims": op_rules.expand_dims,
    "Squeeze": op_rules.squeeze,
    "Concatenate": op_rules.concatenate_op,
    "Stack": op_rules.stack,
    "Split": op_rules.split,
    "GetItem": op_rules.get_item,
    "Pad": op_rules.pad,
}
"""Rules of op nodes by the name of their class; Keras makes their functions public, not their classes."""
