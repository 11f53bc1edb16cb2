"""Which observer's ranges distort a network's outputs least."""

from __future__ import annotations

from typing import Any

import keras

from bigmodel.graph import is_graph, walk
from bigmodel.quantization.distortion import SMALL, Judge
from bigmodel.quantization.files import observe
from bigmodel.quantization.observers import OBSERVERS
from bigmodel.quantization.simulation import plain, range_layers, taps, with_activations

# Activations whose outputs have one grid in every file, whatever was seen.
_FIXED = (keras.activations.softmax, keras.activations.sigmoid, keras.activations.tanh)


def best_observer(simulation: keras.Model, calibration: Any) -> tuple[str, dict[str, float]]:
    """Returns the observer whose static ranges distort the outputs least, and the distortion with each that was tried.

    Where min-max ranges distort by less than a thousandth, they are taken and no other is tried. The simulation is not
    changed, no file is written: ranges stand at every tensor that a file could have, so that all observers have to cope
    with a little more rounding than there will be.

    Args:
        simulation: A simulation; for one with ranges of its own, or without a graph, there is nothing to choose.
        calibration: Input samples, in the structure that the model takes: ranges are found on most of them, and judged
            on the others.
    """
    if range_layers(simulation) or not is_graph(simulation):
        return OBSERVERS[0], {}
    network = plain(with_activations(simulation, "static"))
    judge = Judge(network, calibration)
    points, tapped = taps(network)
    fixed = _fixed(network)
    whole = [ranges["min_max"] for ranges, _ in observe(tapped, judge.fitted, ["min_max"])]
    static = with_activations(simulation, "static", ranges=dict(zip(points, whole, strict=True)))
    tried = {"min_max": judge.distortion(static)}
    if tried["min_max"] > SMALL:
        seen = [ranges for ranges, _ in observe(tapped, judge.fitted, OBSERVERS)]
        layers = range_layers(static)
        for observer in OBSERVERS[1:]:
            for point, ranges in zip(points, seen, strict=True):
                if point.name not in fixed:
                    layers[point.layer_name].set_range(*ranges[observer])
            tried[observer] = judge.distortion(static)
    return min(tried, key=lambda name: tried[name]), tried


def _fixed(network: keras.Model) -> set[str]:
    """The names of the layers whose range is not ours to choose, and of the outputs, which are the result itself."""
    bounded = {
        layer.name
        for layer in walk(network)
        if isinstance(layer, keras.layers.Softmax) or getattr(layer, "activation", None) in _FIXED
    }
    return bounded | set(network.output_names)
