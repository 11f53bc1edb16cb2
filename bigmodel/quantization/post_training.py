"""Quantization of a trained model without training."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from bigmodel.config import QuantizeConfig
from bigmodel.data import Data
from bigmodel.errors import ArgumentError
from bigmodel.graph import is_graph
from bigmodel.quantization.absorption import absorbed
from bigmodel.quantization.allocation import with_allotted_bits
from bigmodel.quantization.bias_correction import corrected_bias
from bigmodel.quantization.clipping import min_max_scale, mse_scale
from bigmodel.quantization.distortion import SMALL, Judge
from bigmodel.quantization.equalization import equalized
from bigmodel.quantization.files import in_place
from bigmodel.quantization.kernels import from_matrix, to_matrix
from bigmodel.quantization.layers import Quantized
from bigmodel.quantization.observer_choice import best_observer
from bigmodel.quantization.prefix import Moments, set_in_order
from bigmodel.quantization.rounding import adaptive_codes, damped, nearest_codes, shifted_target
from bigmodel.quantization.simulation import Skipped, canonical, grids, quantized_layers, simulated
from bigmodel.training import compile_like

# What is tried, in this order, each on top of those that were kept.
_IMPROVEMENTS: dict[str, Any] = {
    "rounding": "adaptive",
    "clipping": "mse",
    "equalization": True,
    "bias_correction": True,
}


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How the weights are quantized; the fields are those of `QuantizeConfig`, decided."""

    clipping: str = "min_max"
    rounding: str = "nearest"
    equalization: bool = False
    bias_correction: bool = False

    @property
    def calibrates(self) -> bool:
        """Whether it takes calibration samples."""
        return self.rounding == "adaptive" or self.bias_correction


@dataclasses.dataclass(frozen=True)
class Quantization:
    """What post-training quantization made, and how.

    Args:
        simulation: The simulation, compiled like the model where that was compiled.
        skipped: What stays otherwise than asked.
        chosen: How weights and ranges were found, by the names of `QuantizeConfig`; under "distortion" what was
            measured with the plain recipe and with each addition that was tried (squared change of the outputs on
            held-out calibration samples, over their variance), under "observers" with each observer.
    """

    simulation: keras.Model
    skipped: tuple[Skipped, ...]
    chosen: Mapping[str, Any]


def quantize_post_training(model: keras.Model, data: Data | None, config: QuantizeConfig) -> Quantization:
    """Quantizes a trained model without training. The caller's model, data and config are not changed.

    What the config leaves to "auto" is decided without labels, by the distortion of the outputs on held-out calibration
    samples: plain min-max grids first, then, where these distort by more than a thousandth, each method is kept that
    lowers it. Without data nothing can be measured: weights then take their min-max grid, below 8 bits the one of the
    least squared error.

    Args:
        model: A functional or built Sequential model.
        data: Data from `as_data`; only its calibration samples are read, labels are not needed, and `None` does where
            activations are not static.
        config: Bits, activations and layers, and what of the above is ordered.

    Returns:
        The simulation, what stays otherwise than asked, and what was chosen.

    Raises:
        ArgumentError: The config orders what takes calibration samples, and there are none.
        ModelError: The model can't be rebuilt layer by layer, or has no layer to quantize.
        ConversionError: For static activations: the file that tells their places could not be written.
    """
    config = with_allotted_bits(model, data, config)
    samples = _samples(data)
    recipe, tried = _decide(model, samples, config)
    simulation, skipped = _made(model, samples, config, recipe)
    chosen = {**dataclasses.asdict(recipe), "distortion": tried}
    if config.activations == "static":
        assert data is not None
        observer, observers = _observer(simulation, samples, config)
        simulation = in_place(simulation, data, activation_bits=config.activation_bits, observer=observer)
        chosen |= {"observer": observer, "observers": observers}
    if model.compiled:
        compile_like(simulation, model)
    return Quantization(simulation, skipped, chosen)


def _observer(simulation: keras.Model, samples: Any, config: QuantizeConfig) -> tuple[str, dict[str, float]]:
    """The observer that the config orders, or the best one; and what was measured."""
    if config.observer not in ("auto", "learned"):
        return config.observer, {}
    if config.activation_bits == 16:  # there is a step for everything: nothing to trade
        return "min_max", {}
    return best_observer(simulation, samples)


def _samples(data: Data | None) -> Any:
    if data is None or data.calibration is None:
        return None
    return keras.tree.map_structure(np.asarray, data.calibration.arrays()[0])


def _made(
    model: keras.Model, samples: Any, config: QuantizeConfig, recipe: Recipe
) -> tuple[keras.Model, tuple[Skipped, ...]]:
    """Makes the simulation of one recipe: its steps in their order."""
    source = model
    if is_graph(model) and (recipe.equalization or recipe.bias_correction or config.granularity == "tensor"):
        source = absorbed(canonical(model))
        source = equalized(source) if recipe.equalization else source
    simulation, skipped = simulated(source, config)
    if not is_graph(model) and recipe != Recipe(recipe.clipping):
        reason = "it has no graph of layers to go along: no rounding, equalization or bias correction by calibration"
        skipped += (Skipped(model.name, "quantize", reason),)
    for layer in quantized_layers(simulation):
        _fix_scales(layer, recipe.clipping)
    if recipe.calibrates and is_graph(simulation):
        passed = set_in_order(simulation, samples, lambda layer, seen: _set(layer, seen, recipe))
        skipped += tuple(
            Skipped(name, "quantize", f"set without calibration data: {reason}") for name, reason in passed.items()
        )
    return simulation, skipped


def _fix_scales(layer: Quantized, clipping: str) -> None:
    """Fixes a layer's scales where the clipping puts them."""
    layer.fix_scales()
    find = mse_scale if clipping == "mse" else min_max_scale
    for stored, (_, variable, quantization, _) in zip(layer.scales, list(layer.grids()), strict=True):
        stored.assign(find(np.asarray(variable), quantization))


def _set(layer: Quantized, seen: Moments, recipe: Recipe) -> None:
    """Puts a layer's kernel on its grid, and its bias where the outputs have their mean."""
    ((_, variable, quantization, stored),) = layer.grids()
    kernel = np.asarray(variable, np.float64)
    weights = to_matrix(layer.layer, kernel)
    scale = to_matrix(layer.layer, np.broadcast_to(np.asarray(stored, np.float64), kernel.shape))[..., :1]
    if recipe.rounding == "adaptive":
        gram = damped(seen.gram)
        target = shifted_target(weights, gram, seen.cross + (gram - seen.gram))
        zeros = None if quantization.bits == 1 else weights == 0
        codes = adaptive_codes(target, scale, gram, quantization.bits, zeros=zeros)
    else:
        codes = nearest_codes(weights, scale, quantization.bits)
    variable.assign(from_matrix(codes * scale, kernel.shape))
    if recipe.bias_correction and layer.layer.use_bias:
        bias = layer.layer.bias
        bias.assign(corrected_bias(np.asarray(bias, np.float64), weights, codes * scale, seen.float_mean, seen.mean))


def _decide(model: keras.Model, samples: Any, config: QuantizeConfig) -> tuple[Recipe, dict[str, float]]:
    """Returns the recipe that the config orders, its open parts by measurement, and what was measured."""
    names = [field.name for field in dataclasses.fields(Recipe)]
    ordered = {name: getattr(config, name) for name in names if getattr(config, name) not in ("auto", "learned")}
    recipe = Recipe(**ordered)
    if recipe.calibrates and samples is None:
        raise ArgumentError(
            "What was ordered takes calibration samples.",
            received=f"data=None with {recipe}",
            expected="data, without labels if there are none",
            fix="Pass data, or rounding='nearest' and bias_correction=False.",
        )
    open_ = [name for name in names if name not in ordered]
    if samples is None:
        is_coarse = any(grid.bits < 8 for grid in grids(simulated(model, config)[0]))
        return dataclasses.replace(recipe, clipping="mse") if is_coarse and "clipping" in open_ else recipe, {}
    if not is_graph(model):
        open_ = [name for name in open_ if name == "clipping"]
    return _search(model, samples, config, recipe, open_) if open_ else (recipe, {})


def _search(
    model: keras.Model, samples: Any, config: QuantizeConfig, recipe: Recipe, open_: list[str]
) -> tuple[Recipe, dict[str, float]]:
    """Tries what is open, each on top of what was kept before, and keeps what lowers the distortion."""
    judge = Judge(model, samples)
    tried: dict[str, float] = {}

    def measured(name: str, recipe: Recipe) -> float:
        tried[name] = judge.distortion(_made(model, judge.fitted, config, recipe)[0])
        return tried[name]

    least = measured("plain", recipe)
    if least <= SMALL:
        return recipe, tried
    # A scale for all channels of a weight is the case that equalization was made for; the others build on its weights.
    first = "equalization" if config.granularity == "tensor" else ""
    for name, value in sorted(_IMPROVEMENTS.items(), key=lambda improvement: improvement[0] != first):
        other = dataclasses.replace(recipe, **{name: value})
        if name in open_ and measured(name, other) < least:
            recipe, least = other, tried[name]
    return recipe, tried
