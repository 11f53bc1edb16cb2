"""Mixed precision: how many bits each layer gets, by how much the outputs suffer and by the bytes of the file."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from bigmodel.config import QuantizeConfig
from bigmodel.data import Data
from bigmodel.errors import ArgumentError, ConversionError
from bigmodel.export.formats import format_of
from bigmodel.quantization.clipping import mse_scale
from bigmodel.quantization.distortion import outputs_of
from bigmodel.quantization.fake import weight_codes
from bigmodel.quantization.files import deploy
from bigmodel.quantization.layers import Quantized
from bigmodel.quantization.parts import is_built_in
from bigmodel.quantization.simulation import quantized_layers, simulated
from bigmodel.quantization.table import WeightQuantization, rules_of
from bigmodel.training.defaults import activations

# Bits to choose from, most first. Binary weights take the file's two bits, as ternary ones do, and say less with them.
_CHOICES = {"dynamic": (8, 4, 2), "static": (8, 4), "float": (8, 4)}
_MOST_SAMPLES = 256
# Sizes that the allotment tells apart: it wastes at most one of these steps a layer.
_STEPS = 4096
# Files that are written until one keeps the size; the first estimate is right up to the padding of buffers.
_MOST_FILES = 4


@dataclasses.dataclass(frozen=True)
class Sensitivity:
    """What the weights of one layer cost at each of its bits.

    Args:
        layer: The layer's name.
        distortion: By bits: how far the outputs move if this layer alone has these bits. Of probabilities the mean
            Kullback-Leibler divergence, of other outputs the squared change over their variance.
        bytes: By bits: bytes of the weights in the file.
    """

    layer: str
    distortion: Mapping[int, float]
    bytes: Mapping[int, int]


def with_allotted_bits(model: keras.Model, data: Data | None, config: QuantizeConfig) -> QuantizeConfig:
    """Returns the config with bits by layer where it left them to be allotted, else as it is.

    Args:
        model: See `allot_bits`; so is `data`.
        data: See `allot_bits`.
        config: Any config.
    """
    if config.bits != "mixed":
        return config
    return dataclasses.replace(config, bits=allot_bits(model, data, config), size=None)


def allot_bits(model: keras.Model, data: Data | None, config: QuantizeConfig) -> dict[str, int]:
    """Allots bits to layers: least distortion of the outputs, within a size of the file. Nothing is changed.

    The distortions of the layers are taken as independent, each measured alone and without labels or training
    (HAWQ and its successors, Dong et al., 2019, estimate them by curvature instead). The best sum within the bytes is
    a knapsack with one choice for each layer, and is solved as such. The file is written and weighed: where it misses
    the size, less is allotted.

    Args:
        model: A built float model.
        data: Data from `as_data`; only its calibration samples are read.
        config: Bits "mixed" and the size; activations "auto" are dynamic here.

    Returns:
        The bits of every layer with quantized weights, by name. Of a subclassed model, or of a layer of one's own, they
        are the layers inside; those of one name have the same bits.

    Raises:
        ArgumentError: There is no data, or the size can't be reached.
        ModelError: The model has no layer to quantize.
        ConversionError: The file could not be written.
    """
    kind = "dynamic" if config.activations == "auto" else config.activations
    config = dataclasses.replace(config, activations=kind, size=config.size)
    samples = _samples(data)
    found = sensitivities(model, samples, config)
    full = {s.layer: max(s.bytes) for s in found}
    weights = sum(s.bytes[full[s.layer]] for s in found)
    fixed = _file_bytes(model, samples, config, full) - weights
    size = int(config.size) if config.size is not None else _halfway(found, fixed)
    room = size - fixed
    for _ in range(_MOST_FILES):
        least = sum(min(s.bytes.values()) for s in found)
        bits = _best_choice(found, room) if room >= least else None
        if bits is None:
            raise _too_small(size, fixed + least)
        excess = _file_bytes(model, samples, config, bits) - size
        if excess <= 0:
            return bits
        room = sum(s.bytes[bits[s.layer]] for s in found) - excess
    raise _too_small(size, size + excess)


def sensitivities(model: keras.Model, samples: Any, config: QuantizeConfig) -> list[Sensitivity]:
    """Returns for each layer how far its rounding alone moves the outputs, and what it saves. Nothing is changed.

    Args:
        model: A built float model.
        samples: Input samples, in the structure that the model takes.
        config: Activations and layers.
    """
    kinds = activations(model, outputs_of(model, samples))
    distortion: dict[str, dict[int, float]] = {}
    size: dict[str, dict[int, int]] = {}
    for bits in _CHOICES[config.activations]:
        weights_only = dataclasses.replace(config, bits=bits, activations="float", size=None)
        simulation, _ = simulated(model, weights_only)
        for layer in quantized_layers(simulation):
            layer.delayed = True  # in float
        expected = outputs_of(simulation, samples)
        for name, weights in _weights(simulation).items():
            held = max(quantization.bits for _, quantization in weights)
            if held not in size.setdefault(name, {}):
                before = _round_at_least_error(weights)
                distortion.setdefault(name, {})[held] = _distance(kinds, expected, outputs_of(simulation, samples))
                size[name][held] = sum(_bytes(variable, quantization) for variable, quantization in weights)
                for (variable, _), values in zip(weights, before, strict=True):
                    variable.assign(values)
    return [Sensitivity(name, distortion[name], size[name]) for name in size]


def layer_bits(simulation: keras.Model) -> dict[str, int]:
    """Returns the bits of every quantized layer of a simulation, by the name that bits are ordered by."""
    return {name: min(q.bits for _, q in weights) for name, weights in _weights(simulation).items()}


def told_bits(config: QuantizeConfig, simulation: keras.Model) -> int | dict[str, int]:
    """Returns the bits as a report tells them: one number where one was ordered, else those of each layer."""
    return config.bits if isinstance(config.bits, int) else layer_bits(simulation)


def common_bits(simulation: keras.Model) -> Any:
    """Returns the bits that a simulation was ordered at, or "mixed".

    They are the least of its layers, if each other layer has more only because the runtime has no kernel of so few.
    """
    held = layer_bits(simulation)
    least = min(held.values())
    for layer in quantized_layers(simulation):
        for path, (part, rule) in rules_of(layer.layer).items():
            possible = {q.bits for q in rule.weight_quantization(least, part).values()}
            name = _ordered_name(layer, path, part)
            if name in held and held[name] not in {*possible, least}:
                return "mixed"
    return least


def _weights(simulation: keras.Model) -> dict[str, list[tuple[keras.Variable, WeightQuantization]]]:
    """The quantized weights by the name of the layer that bits are ordered by."""
    found: dict[str, list[tuple[keras.Variable, WeightQuantization]]] = {}
    for layer in quantized_layers(simulation):
        ruled = rules_of(layer.layer)
        for path, variable, quantization, _ in layer.grids():
            place = path.rpartition("/")[0]
            name = _ordered_name(layer, place, ruled[place][0])
            found.setdefault(name, []).append((variable, quantization))
    return found


def _ordered_name(layer: Quantized, path: str, part: keras.layers.Layer) -> str:
    """The name of what a caller takes for a layer: an attention as a whole, what is inside a model of their own."""
    return layer.name if not path or is_built_in(layer.layer) else part.name


def _round_at_least_error(weights: Sequence[tuple[keras.Variable, WeightQuantization]]) -> list[np.ndarray]:
    """Puts weights, in place, on their grids of the least squared error, and returns what they were."""
    before = [np.asarray(variable) for variable, _ in weights]
    for (variable, quantization), values in zip(weights, before, strict=True):
        scale = mse_scale(values, quantization)
        variable.assign(scale * np.asarray(weight_codes(values, scale, quantization.bits)))
    return before


def _bytes(variable: keras.Variable, quantization: WeightQuantization) -> int:
    return int(np.prod(variable.shape)) * max(quantization.bits, 2) // 8


def _distance(kinds: Sequence[str], expected: Sequence[np.ndarray], outputs: Sequence[np.ndarray]) -> float:
    found = []
    for kind, before, after in zip(kinds, expected, outputs, strict=True):
        if kind == "softmax":
            log_ratio = np.log(np.maximum(before, 1e-9)) - np.log(np.maximum(after, 1e-9))
            found.append(float((before * log_ratio).sum(axis=-1).mean()))
        else:
            found.append(float(np.square(before - after).mean() / max(np.var(before), 1e-12)))
    return float(np.mean(found))


def _samples(data: Data | None) -> Any:
    if data is None or data.calibration is None:
        raise ArgumentError(
            "Bits can't be allotted without data.",
            received="data=None with bits='mixed'",
            expected="samples, whose outputs tell which layers suffer",
            fix="Pass data, without labels if there are none, or bits as a dict by layer name.",
        )
    return keras.tree.map_structure(lambda x: np.asarray(x)[:_MOST_SAMPLES], data.calibration.arrays()[0])


def _halfway(found: Sequence[Sensitivity], fixed: int) -> int:
    eight = sum(max(s.bytes.values()) for s in found)
    four = sum(s.bytes.get(4, max(s.bytes.values())) for s in found)
    return fixed + (eight + four) // 2


def _best_choice(found: Sequence[Sensitivity], room: int) -> dict[str, int]:
    """The choice of bits for each layer with the least sum of distortions whose bytes are at most `room`."""
    step = max(1, room // _STEPS)
    places = room // step + 1
    least = np.full((len(found) + 1, places), np.inf)
    least[0] = 0.0
    for i, layer in enumerate(found):
        for bits, size in layer.bytes.items():
            cost = -(-size // step)
            if cost < places:
                with_it = least[i, : places - cost] + layer.distortion[bits]
                least[i + 1, cost:] = np.minimum(least[i + 1, cost:], with_it)
    if not np.isfinite(least[-1, -1]):  # the steps are too coarse for what just fits
        return {s.layer: min(s.bytes) for s in found}
    chosen, at = {}, places - 1
    for i in range(len(found) - 1, -1, -1):
        layer = found[i]
        costs = {bits: -(-size // step) for bits, size in layer.bytes.items() if -(-size // step) <= at}
        bits = min(costs, key=lambda b: least[i, at - costs[b]] + layer.distortion[b])
        chosen[layer.layer], at = bits, at - costs[bits]
    return dict(reversed(chosen.items()))


def _file_bytes(model: keras.Model, samples: Any, config: QuantizeConfig, bits: Mapping[str, int]) -> int:
    """Writes the file with these bits, and weighs it."""
    simulation, _ = simulated(model, dataclasses.replace(config, bits=dict(bits), size=None))
    for layer in quantized_layers(simulation):
        layer.fix_scales()
    with tempfile.TemporaryDirectory(prefix="bigmodel-weigh-") as folder:
        order = (format_of("mixed", config.activations), Path(folder, "mixed.tflite"))  # type: ignore[arg-type]
        (deployed,) = deploy(simulation, [order], samples)
        if isinstance(deployed, ConversionError):
            raise deployed
        return deployed.written.path.stat().st_size


def _too_small(size: int, reachable: int) -> ArgumentError:
    return ArgumentError(
        "The size can't be reached with fewer bits.",
        received=f"size={size:,}",
        expected=f"at least {reachable:,} bytes, a file of this network with the fewest bits that its kernels take",
        fix="Allow more bytes, or remove channels first.",
    )
