"""Which observer's ranges distort a network's outputs least."""

from __future__ import annotations

from typing import Any

import keras

from bigmodel.graph import is_graph
from bigmodel.quantization.distortion import SMALL, Judge
from bigmodel.quantization.files import observe
from bigmodel.quantization.observers import OBSERVERS
from bigmodel.quantization.simulation import plain, range_layers, taps, with_activations


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
    names = [point.layer_name for point in points]
    whole = [ranges["min_max"] for ranges, _ in observe(tapped, judge.fitted, ["min_max"])]
    static = with_activations(simulation, "static", ranges=dict(zip(points, whole, strict=True)))
    tried = {"min_max": judge.distortion(static)}
    if tried["min_max"] > SMALL:
        seen = [ranges for ranges, _ in observe(tapped, judge.fitted, OBSERVERS)]
        layers = range_layers(static)
        for observer in OBSERVERS[1:]:
            for name, ranges in zip(names, seen, strict=True):
                layers[name].set_range(*ranges[observer])
            tried[observer] = judge.distortion(static)
    return min(tried, key=lambda name: tried[name]), tried
