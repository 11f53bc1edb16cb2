"""The simulation of a quantized file as a Keras model: made from a float model, and turned back into one."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import keras
import numpy as np

from bigmodel.config import Activations, QuantizeConfig
from bigmodel.errors import ModelError
from bigmodel.export.formats import Grid, Rounding
from bigmodel.graph import is_graph, substitute, trace, walk
from bigmodel.quantization import fake
from bigmodel.quantization.absorption import find_absorptions
from bigmodel.quantization.affine import as_convolution, find_affine
from bigmodel.quantization.flat import laid_out
from bigmodel.quantization.folding import Folds, find_folds, fold
from bigmodel.quantization.layers import FakeQuantize, Quantized
from bigmodel.quantization.parts import find_weight, inner_layers, is_built_in, joined
from bigmodel.quantization.rebuild import After, Point, as_graph, copy_layer, rebuild
from bigmodel.quantization.table import InputQuantization, LayerRule, WeightQuantization, rule_of, rules_of

# What the converter fuses into the kernel before it; other activations are ops of their own in the file.
FUSED_ACTIVATIONS = (keras.activations.linear, keras.activations.relu, keras.activations.relu6)

# Their kernels divide codes, and the average of two lies halfway between two codes every other time.
_AVERAGING = (keras.layers.AveragePooling1D, keras.layers.AveragePooling2D)

Ranges = Mapping[Point, tuple[float, float]]


@dataclasses.dataclass(frozen=True)
class Skipped:
    """A layer that a step left as it was, or treated otherwise than asked, and why."""

    layer: str
    step: str
    reason: str


def canonical(model: keras.Model) -> keras.Model:
    """Returns an equal float model of layers that are single ops of the file. The given one stays.

    A separable convolution becomes the two that it is made of, a normalisation that the converter folds into the layers
    after it is folded.

    Args:
        model: A float model; a subclassed one becomes the only layer of a functional one.
    """
    model = as_graph(model)
    return _canonical(model, find_folds(model))


def _canonical(model: keras.Model, folds: Folds) -> keras.Model:
    changed = fold(folds)

    def replace(operation: Any) -> list[Any]:
        if not isinstance(operation, keras.layers.Layer):
            return [operation]
        if id(operation) in changed:
            return changed[id(operation)]
        if type(operation) in (keras.layers.SeparableConv1D, keras.layers.SeparableConv2D):
            return _split_separable(operation)
        return [copy_layer(operation)]

    return rebuild(model, replace)


def _split_separable(layer: Any) -> list[keras.layers.Layer]:
    """The depthwise and the pointwise convolution that a separable one is made of."""
    config, rank = layer.get_config(), len(layer.kernel_size)
    ranks = {
        1: (keras.layers.DepthwiseConv1D, keras.layers.Conv1D),
        2: (keras.layers.DepthwiseConv2D, keras.layers.Conv2D),
    }
    first, second = ranks[rank]
    shared = {key: config[key] for key in ("strides", "padding", "data_format", "dilation_rate")}
    depthwise = first(
        config["kernel_size"], depth_multiplier=config["depth_multiplier"], use_bias=False,
        name=f"{layer.name}_depthwise", **shared,
    )  # fmt: skip
    pointwise = second(
        config["filters"], 1, use_bias=config["use_bias"], activation=config["activation"],
        data_format=config["data_format"], name=layer.name,
    )  # fmt: skip
    sizes = (None,) * (rank + 1)
    depthwise.build((*sizes, layer.depthwise_kernel.shape[-2]))
    pointwise.build((*sizes, layer.pointwise_kernel.shape[-2]))
    depthwise.kernel.assign(layer.depthwise_kernel)
    pointwise.kernel.assign(layer.pointwise_kernel)
    if layer.use_bias:
        pointwise.bias.assign(layer.bias)
    return [depthwise, pointwise]


def _split_activation(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """Splits off an activation that the converter does not fuse: its input is a tensor of the file."""
    activation = getattr(layer, "activation", None)
    rule = rule_of(layer)
    if rule is None or rule.in_loop or activation is None or activation in FUSED_ACTIVATIONS:
        return [layer]
    linear = copy_layer(layer, activation="linear", name=f"{layer.name}_linear")
    return [linear, keras.layers.Activation(activation, name=layer.name)]


def _named_output(links: list[keras.layers.Layer], name: str) -> list[keras.layers.Layer]:
    """Ends an output in an `Identity` of its name, so that a range may stand before it."""
    if isinstance(links[-1], keras.layers.Identity):
        return links
    return [*links[:-1], copy_layer(links[-1], name=f"{name}_output"), keras.layers.Identity(name=name)]


def simulate(model: keras.Model, config: QuantizeConfig) -> tuple[keras.Model, tuple[Skipped, ...]]:
    """Returns the simulation of a quantized file, and what stays otherwise than asked. The given model is not changed.

    A simulation with static activations has no ranges yet: `with_activations` sets them.

    Args:
        model: A functional or built Sequential float model.
        config: Bits and activations; `where` sees the layers of `canonical(model)`.
    """
    model = as_graph(model)
    folds = find_folds(model)
    skipped = []
    for layer, targets in folds.items():
        if not isinstance(layer, keras.layers.BatchNormalization):
            continue
        reason = f"folded into {', '.join(dense.name for dense in targets)}, as in the file"
        skipped.append(Skipped(layer.name, "quantize", reason))

    network = _canonical(model, folds)
    scaled = {id(layer) for layer, _ in find_absorptions(network)} if config.granularity == "tensor" else set()

    def replace(operation: Any) -> list[Any]:
        if not isinstance(operation, keras.layers.Layer):
            return [operation]
        if id(operation) not in scaled:
            return [_quantized(operation, config, skipped)]
        reason = "a normalisation that the file multiplies in scales each channel: its weights keep a scale for each"
        skipped.append(Skipped(operation.name, "quantize", reason))
        return [_quantized(operation, dataclasses.replace(config, granularity="channel"), skipped)]

    return rebuild(network, replace), tuple(skipped)


def simulated(model: keras.Model, config: QuantizeConfig) -> tuple[keras.Model, tuple[Skipped, ...]]:
    """Returns `simulate`'s result if it has anything quantized.

    Raises:
        ModelError: It has not.
    """
    simulation, skipped = simulate(model, config)
    if not quantized_layers(simulation):
        raise ModelError(
            f"Model {model.name!r} has no layer to quantize.",
            received=", ".join(f"{s.layer}: {s.reason}" for s in skipped) or "no layer with a kernel",
            expected="at least one layer with weights that the runtime holds quantized",
            fix="See the table of layers in the documentation, or widen `where`.",
        )
    return simulation, skipped


def _quantized(original: keras.layers.Layer, config: QuantizeConfig, skipped: list[Skipped]) -> keras.layers.Layer:
    """A copy of a layer that computes with quantized weights, as far as the table has rules for what is inside."""
    layer, ruled = copy_layer(original), rules_of(original)
    weights: dict[str, WeightQuantization] = {}
    for path, (part, rule) in ruled.items():
        name = joined(original.name, path)
        # A caller thinks of an attention layer as one, but of a model of one's own as many.
        asked = original if is_built_in(original) else part
        if config.where is not None and not config.where(asked):
            skipped.append(Skipped(name, "quantize", "`where` leaves it out: it stays float"))
            continue
        wanted = config.bits_of(asked)
        found = rule.weight_quantization(wanted, part, config.granularity)
        weights |= {joined(path, weight): quantization for weight, quantization in found.items()}
        bits = next(iter(found.values())).bits
        if bits != wanted:
            reason = f"the runtime has no {wanted}-bit {type(part).__name__} kernel: its weights take {bits} bits"
            skipped.append(Skipped(name, "quantize", reason))
        if config.granularity == "tensor" and any(q.axes and q.granularity == "channel" for q in found.values()):
            reason = f"its kernel ({type(part).__name__}, {bits} bits) takes a scale for each channel, not one for all"
            skipped.append(Skipped(name, "quantize", reason))
    skipped += _left_float(original, {id(part) for part, _ in ruled.values()})
    if not weights:
        return layer
    learned = config.method == "aware" and config.clipping == "learned"
    how = _input_quantizations(layer, weights, config.activations)
    if config.activations == "static" and how["inner"]:
        reason = "the kernels inside find the ranges of their inputs at run time, in a static file too"
        skipped.append(Skipped(original.name, "quantize", reason))
    return Quantized(layer, weights=weights, learned=learned, **how)


def _left_float(layer: keras.layers.Layer, known: set[int]) -> Iterator[Skipped]:
    """Says which kernels in a layer stay float because the table has no rule for what holds them."""
    if id(layer) in known:
        return
    inside = {id(variable) for _, inner in inner_layers(layer) for variable in inner.variables}
    if any(len(variable.shape) > 1 and id(variable) not in inside for variable in layer.weights):
        kind = type(layer).__name__
        yield Skipped(layer.name, "quantize", f"{kind} has no quantized simulation: it stays float")
    if isinstance(layer, keras.layers.SpectralNormalization):
        return
    for _, inner in inner_layers(layer):
        yield from _left_float(inner, known)


def _input_quantizations(
    layer: keras.layers.Layer, weights: Mapping[str, WeightQuantization], activations: Activations
) -> dict[str, Any]:
    """The arguments of `Quantized` that say how the kernels see their inputs, by the bits of their weights.

    In a static file the ops inside a layer made of layers stay dynamic: the tensors between them have no names.
    """
    if activations == "float":
        return {}
    found: dict[str, InputQuantization | None] = {}
    for path, (part, rule) in rules_of(layer).items():
        bits = [q.bits for place, q in weights.items() if place.rpartition("/")[0] == path]
        if bits and rule.inputs is not None and (activations == "dynamic" or path):
            found[path] = rule.inputs(part, bits[0])
    return {"inputs": found.pop("", None), "inner": {path: how for path, how in found.items() if how is not None}}


def with_activations(
    simulation: keras.Model,
    activations: Activations,
    *,
    ranges: Ranges | None = None,
    momentum: float | None = None,
    dynamic: Collection[str] = (),
    rounding: Mapping[str, Rounding] | None = None,
    activation_bits: int = 8,
) -> keras.Model:
    """Returns the simulation of another file with the same weights on the same grids. The given one is not changed.

    Args:
        simulation: A simulation.
        activations: How the other file treats activations.
        ranges: For static activations: the range of every tensor that the file keeps in integers.
        momentum: For static activations: the momentum of ranges that move in training.
        dynamic: For static activations: names of the layers whose kernels find the range of their input at run time.
        rounding: For static activations: by the name of a range, how the kernel before it rounds.
        activation_bits: Of static activations: 8 or 16.
    """
    outputs = set(simulation.output_names) if activations == "static" else set()
    simulation = laid_out(simulation) if activations == "static" else simulation
    affine = find_affine(simulation) if activations == "static" else {}

    def replace(operation: Any) -> list[Any]:
        if isinstance(operation, FakeQuantize):
            return []
        if not isinstance(operation, keras.layers.Layer):
            return [operation]
        if id(operation) in affine:
            links = as_convolution(operation, affine[id(operation)])
        elif not isinstance(operation, Quantized):
            links = [copy_layer(operation)]
        else:
            inner = [copy_layer(operation.layer, name=operation.name)]
            inner = _split_activation(inner[0]) if activations == "static" else inner
            kind = "dynamic" if operation.name in dynamic else activations
            how = _input_quantizations(inner[0], operation.quantized_weights, kind)
            links = [operation.around(inner[0], **how), *inner[1:]]
        return _named_output(links, operation.name) if operation.name in outputs else links

    averaging = {layer.name for layer in walk(simulation) if isinstance(layer, _AVERAGING)}
    after = _range_inserter(ranges, averaging, rounding or {}, momentum, activation_bits) if ranges else None
    return rebuild(simulation, replace, after)


def _range_inserter(
    ranges: Ranges,
    averaging: Collection[str],
    rounding: Mapping[str, Rounding],
    momentum: float | None,
    bits: int,
) -> After:
    def after(point: Point, tensor: Any) -> Any:
        if point not in ranges:
            return tensor
        halves: fake.Halves = "away" if point.name.removesuffix("_output") in averaging else "even"
        how = rounding.get(point.layer_name, Rounding())
        own: dict[str, Any] = {key: by for key, by in vars(how).items() if len(by) == tensor.shape[-1]}
        layer = FakeQuantize(bits=bits, momentum=momentum, halves=halves, name=point.layer_name, **own)
        layer.set_range(*ranges[point])
        return layer(tensor)

    return after


def plain(simulation: keras.Model) -> keras.Model:
    """Returns the float model behind a simulation, its weights on their grids. The simulation is not changed."""

    def replace(operation: Any) -> list[Any]:
        if isinstance(operation, FakeQuantize):
            return []
        if not isinstance(operation, Quantized):
            return [copy_layer(operation) if isinstance(operation, keras.layers.Layer) else operation]
        layer = copy_layer(operation.layer, name=operation.name)
        for path, variable, quantization, scale in operation.grids():
            codes = fake.weight_codes(variable.value, scale, quantization.bits)
            find_weight(layer, path).assign(codes * scale)
        return [layer]

    return rebuild(simulation, replace)


def quantized_layers(model: keras.Model) -> list[Quantized]:
    """Returns the model's `Quantized` layers, those of nested models too, in the order of its layers."""
    return [layer for layer in walk(model) if isinstance(layer, Quantized)]


def range_layers(model: keras.Model) -> dict[str, FakeQuantize]:
    """Returns the model's `FakeQuantize` layers by name."""
    return {layer.name: layer for layer in walk(model) if isinstance(layer, FakeQuantize)}


def is_simulation(model: keras.Model) -> bool:
    """Says whether the model simulates a quantized file."""
    return bool(quantized_layers(model))


def activations_of(simulation: keras.Model) -> Activations:
    """Returns how the simulated file treats activations."""
    if range_layers(simulation):
        return "static"
    return "dynamic" if any(layer.inputs or layer.inner for layer in quantized_layers(simulation)) else "float"


def activation_bits_of(simulation: keras.Model) -> int:
    """Returns the bits of the simulated file's static activations; 8 where it has none."""
    return max((layer.bits for layer in range_layers(simulation).values()), default=8)


def grids(simulation: keras.Model) -> list[Grid]:
    """Returns the grids of all quantized weights, for the file."""
    found = []
    for layer in quantized_layers(simulation):
        rules = rules_of(layer.layer)
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
                    weights_only=_is_widened(rules.get(path.rpartition("/")[0]), quantization.bits),
                )
            )
    return found


def _is_widened(ruled: tuple[keras.layers.Layer, LayerRule] | None, bits: int) -> bool:
    """Whether the kernel of a layer takes its input as floats, and its weights widened to floats."""
    if ruled is None or ruled[1].gathers:
        return False
    part, rule = ruled
    return rule.inputs is None or rule.inputs(part, bits) is None


def taps(model: keras.Model) -> tuple[list[Point], keras.Model]:
    """Returns the points of a model and a model with their tensors as outputs, sharing the layers.

    Only float tensors count: the others have no range. Of a nested model that is called several times, the tensors of
    its first call stand for all.
    """
    seen: dict[Point, Any] = {}
    calls: Counter[str] = Counter()
    entered: set[int] = set()

    def note(name: str, outputs: Any) -> None:
        call = calls[name]
        calls[name] += 1
        for i, tensor in enumerate(keras.tree.flatten(outputs)):
            if keras.backend.is_float_dtype(tensor.dtype):
                seen[Point(name, call, i)] = tensor

    def run(inner: keras.Model, fed: list[Any]) -> Any:
        first = id(inner) not in entered
        entered.add(id(inner))
        traced, waiting = trace(inner), iter(fed)
        tensors: dict[int, Any] = {}
        for call in traced:
            args, kwargs = substitute((call.args, dict(call.kwargs)), tensors)
            if isinstance(call.operation, keras.layers.InputLayer):
                outputs = next(waiting)
            elif is_graph(call.operation):
                outputs = run(call.operation, keras.tree.flatten((args, kwargs)))
            else:
                outputs = call.operation(*args, **kwargs)
            if first and not is_graph(call.operation):
                note(call.operation.name, outputs)
            tensors.update(zip(map(id, keras.tree.flatten(call.outputs)), keras.tree.flatten(outputs), strict=True))
        return substitute(traced.outputs, tensors)

    run(model, keras.tree.flatten(model.input))
    return list(seen), keras.Model(model.input, list(seen.values()))
