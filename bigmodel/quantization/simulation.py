"""The simulation of a quantized file as a Keras model: made from a float model, and turned back into one."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np

from bigmodel.config import Activations, QuantizeConfig
from bigmodel.export.formats import Grid
from bigmodel.quantization import fake
from bigmodel.quantization.layers import FakeQuantize, Quantized
from bigmodel.quantization.rebuild import Point, copy_layer, rebuild
from bigmodel.quantization.table import find_weight, rule_of

# What the converter fuses into the kernel before it; other activations are ops of their own in the file.
FUSED_ACTIVATIONS = (keras.activations.linear, keras.activations.relu, keras.activations.relu6)

Ranges = Mapping[Point, tuple[float, float]]


@dataclasses.dataclass(frozen=True)
class Skipped:
    """A layer that a step left as it was, or treated otherwise than asked, and why."""

    layer: str
    step: str
    reason: str


def canonical(model: keras.Model, *, split_activations: bool) -> keras.Model:
    """Returns an equal float model in which every layer is what the file keeps as one op. The given one is not changed.

    Args:
        model: A functional or built Sequential float model.
        split_activations: Also split off the activations that the converter does not fuse, whose inputs are tensors of
            the file, and end every output in an `Identity` of its name, so that a range may stand before it.
    """
    outputs = set(model.output_names) if split_activations else set()

    def replace(operation: Any) -> list[Any]:
        if not isinstance(operation, keras.layers.Layer):
            return [operation]
        if type(operation) is keras.layers.SeparableConv2D:
            links = list(_split_separable(operation))
        else:
            links = [copy_layer(operation)]
        if split_activations:
            links = [*links[:-1], *_split_activation(links[-1])]
        if operation.name in outputs:
            last = copy_layer(links[-1], name=f"{operation.name}_output")
            links = [*links[:-1], last, keras.layers.Identity(name=operation.name)]
        return links

    return rebuild(model, replace)


def _split_separable(layer: keras.layers.SeparableConv2D) -> tuple[keras.layers.Layer, keras.layers.Layer]:
    """The depthwise and the pointwise convolution that a separable one is made of."""
    config = layer.get_config()
    shared = {key: config[key] for key in ("strides", "padding", "data_format", "dilation_rate")}
    depthwise = keras.layers.DepthwiseConv2D(
        config["kernel_size"], depth_multiplier=config["depth_multiplier"], use_bias=False,
        name=f"{layer.name}_depthwise", **shared,
    )  # fmt: skip
    pointwise = keras.layers.Conv2D(
        config["filters"], 1, use_bias=config["use_bias"], activation=config["activation"],
        data_format=config["data_format"], name=layer.name,
    )  # fmt: skip
    depthwise.build((None, None, None, layer.depthwise_kernel.shape[-2]))
    pointwise.build((None, None, None, layer.pointwise_kernel.shape[-2]))
    depthwise.kernel.assign(layer.depthwise_kernel)
    pointwise.kernel.assign(layer.pointwise_kernel)
    if layer.use_bias:
        pointwise.bias.assign(layer.bias)
    return depthwise, pointwise


def _split_activation(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    activation = getattr(layer, "activation", None)
    if rule_of(layer) is None or activation is None or activation in FUSED_ACTIVATIONS:
        return [layer]
    linear = copy_layer(layer, activation="linear", name=f"{layer.name}_linear")
    return [linear, keras.layers.Activation(activation, name=layer.name)]


def simulate(
    model: keras.Model, config: QuantizeConfig, *, ranges: Ranges | None = None, momentum: float | None = None
) -> tuple[keras.Model, tuple[Skipped, ...]]:
    """Returns the simulation of a quantized file, and what stays otherwise than asked. The given model is not changed.

    Args:
        model: A float model from `canonical`.
        config: Bits and activations; `where` sees the layers of `model`.
        ranges: For static activations: the range of every tensor that the file keeps in 8 bits.
        momentum: For static activations: the momentum of ranges that move in training.
    """
    skipped: list[Skipped] = []

    def replace(operation: Any) -> list[Any]:
        if not isinstance(operation, keras.layers.Layer):
            return [operation]
        return [_quantized(copy_layer(operation), config, skipped)]

    def after(point: Point, tensor: Any) -> Any:
        if point not in (ranges or {}):
            return tensor
        layer = FakeQuantize(momentum=momentum, name=point.layer_name)
        layer.set_range(*ranges[point])  # type: ignore[index]
        return layer(tensor)

    return rebuild(model, replace, after if ranges else None), tuple(skipped)


def _quantized(layer: keras.layers.Layer, config: QuantizeConfig, skipped: list[Skipped]) -> keras.layers.Layer:
    rule = rule_of(layer)
    kernels = [v for v in layer.weights if len(v.shape) > 1]
    if rule is None:
        if kernels:
            kind = type(layer).__name__
            skipped.append(Skipped(layer.name, "quantize", f"{kind} has no quantized simulation: it stays float"))
        return layer
    if config.where is not None and not config.where(layer):
        skipped.append(Skipped(layer.name, "quantize", "`where` leaves it out: it stays float"))
        return layer
    weights = rule.weight_quantization(config.bits)
    bits = next(iter(weights.values())).bits
    if bits != config.bits:
        reason = f"the runtime has no {config.bits}-bit {type(layer).__name__} kernel: its weights take {bits} bits"
        skipped.append(Skipped(layer.name, "quantize", reason))
    inputs = rule.inputs(layer, bits) if config.activations == "dynamic" else None
    return Quantized(layer, weights=weights, inputs=inputs)


def plain(simulation: keras.Model) -> keras.Model:
    """Returns the float model behind a simulation, its weights on their grids. The simulation is not changed."""

    def replace(operation: Any) -> list[Any]:
        if isinstance(operation, FakeQuantize):
            return []
        if not isinstance(operation, Quantized):
            return [copy_layer(operation) if isinstance(operation, keras.layers.Layer) else operation]
        layer = copy_layer(operation.layer)
        for path, variable, quantization, scale in operation.grids():
            codes = fake.weight_codes(variable.value, scale, quantization.bits)
            find_weight(layer, path).assign(codes * scale)
        return [layer]

    return rebuild(simulation, replace)


def _layers(model: keras.Model) -> Iterator[keras.layers.Layer]:
    for layer in model.layers:
        yield layer
        if isinstance(layer, keras.Model):
            yield from _layers(layer)


def quantized_layers(model: keras.Model) -> list[Quantized]:
    """Returns the model's `Quantized` layers, those of nested models too, in the order of its layers."""
    return [layer for layer in _layers(model) if isinstance(layer, Quantized)]


def range_layers(model: keras.Model) -> dict[str, FakeQuantize]:
    """Returns the model's `FakeQuantize` layers by name."""
    return {layer.name: layer for layer in _layers(model) if isinstance(layer, FakeQuantize)}


def is_simulation(model: keras.Model) -> bool:
    """Says whether the model simulates a quantized file."""
    return bool(quantized_layers(model))


def activations_of(simulation: keras.Model) -> Activations:
    """Returns how the simulated file treats activations."""
    if range_layers(simulation):
        return "static"
    return "dynamic" if any(layer.inputs is not None for layer in quantized_layers(simulation)) else "float"


def grids(simulation: keras.Model) -> list[Grid]:
    """Returns the grids of all quantized weights, for the file."""
    found = []
    for layer in quantized_layers(simulation):
        for path, variable, quantization, scale in layer.grids():
            codes = np.asarray(fake.weight_codes(variable.value, scale, quantization.bits))
            scale = np.broadcast_to(np.asarray(scale), quantization.scale_shape(codes.shape))
            found.append(
                Grid(
                    layer=layer.name,
                    path=path,
                    bits=quantization.bits,
                    codes=quantization.channels_first(codes).astype(np.int8),
                    scale=scale.reshape(-1).astype(np.float32),
                )
            )
    return found


def taps(model: keras.Model) -> tuple[list[Point], keras.Model]:
    """Returns the points of a model and a model with their tensors as outputs, sharing the layers.

    Only float tensors count: the others have no range.
    """
    seen: dict[Point, Any] = {}

    def after(point: Point, tensor: Any) -> Any:
        if keras.backend.is_float_dtype(tensor.dtype):
            seen[point] = tensor
        return tensor

    tapped = rebuild(model, lambda operation: [operation], after)
    return list(seen), keras.Model(tapped.input, list(seen.values()))
