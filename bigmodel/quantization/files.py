"""From a simulation to its files, and back: what a file fixes (shared scales, constant ranges) its simulation takes."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from bigmodel.config import Activations
from bigmodel.data import Data
from bigmodel.data.elements import in_batches
from bigmodel.errors import ConversionError
from bigmodel.export.float import export_float
from bigmodel.export.formats import Format, Grid, Range, Written, format_of
from bigmodel.export.quantized import write_files
from bigmodel.export.saved_model import input_names
from bigmodel.quantization.biases import take_biases
from bigmodel.quantization.observers import Extremes, observed
from bigmodel.quantization.rebuild import Point
from bigmodel.quantization.scalings import take_scalings
from bigmodel.quantization.simulation import grids, plain, quantized_layers, range_layers, taps, with_activations
from bigmodel.quantization.single_ops import single_ops
from bigmodel.quantization.unfolding import multiply_factors_first

# Samples whose values tell which tensor of the file is which; more would only cost memory.
_PROBE_SAMPLES = 4
_TIMEOUT_S = 300.0


@dataclasses.dataclass(frozen=True)
class Deployed:
    """A file and the Keras model that simulates it.

    Args:
        written: The file's account.
        simulation: The simulation, with the ranges as they stand in the file.
    """

    written: Written
    simulation: keras.Model


def deploy(
    simulation: keras.Model,
    orders: Sequence[tuple[Format, str | os.PathLike[str]]],
    calibration: Any,
    *,
    io: str = "float",
    observer: str = "min_max",
    timeout_s: float = _TIMEOUT_S,
) -> list[Deployed | ConversionError]:
    """Writes files that hold the simulation's weights, each with the simulation of just this file.

    That one computes at inference with the numbers of the file's kernels, a normalisation that the converter folded
    into one included.

    The given simulation is not changed.

    Args:
        simulation: A simulation.
        orders: Format and path of each file. All have the simulation's weights; they differ in activations.
        calibration: Input samples, in the structure that the model takes; `None` does where no order is static.
        io: "float" or "int8": how a static file takes its inputs and gives its outputs.
        observer: How ranges are found that the simulation does not have: a name of `observers.OBSERVERS`.
        timeout_s: Seconds for each conversion.

    Returns:
        For each order the file and its simulation, or the error that says why there is none.

    Raises:
        ConversionError: The float file that all are made from could not be written.
    """
    results = _deploy(simulation, orders, calibration, io, observer, timeout_s)
    return [result if isinstance(result, ConversionError) else _settled(result) for result in results]


def _settled(deployed: Deployed) -> Deployed:
    scalings = deployed.written.scalings
    return dataclasses.replace(deployed, simulation=take_scalings(deployed.simulation, scalings))


def _deploy(
    simulation: keras.Model,
    orders: Sequence[tuple[Format, str | os.PathLike[str]]],
    calibration: Any,
    io: str,
    observer: str,
    timeout_s: float,
) -> list[Deployed | ConversionError]:
    is_static = [format_.activations == "static" for format_, _ in orders]
    source = _static(simulation) if any(is_static) else simulation
    network = plain(source)
    file_network = single_ops(network) if any(is_static) else network
    if not all(is_static) and (file_network is not network or _count(source) != _count(simulation)):
        apart = {}
        for kind in (True, False):
            own = [order for order, static in zip(orders, is_static, strict=True) if static is kind]
            files = _deploy(simulation, own, calibration, io, observer, timeout_s)
            apart[kind] = iter(files)
        return [next(apart[kind]) for kind in is_static]
    multiply_factors_first(file_network)
    with tempfile.TemporaryDirectory(prefix="bigmodel-deploy-") as folder:
        float_path = export_float(file_network, Path(folder, "float.tflite"), timeout_s=timeout_s)
        known, points = _known_ranges(source, network, calibration, observer) if any(is_static) else ([], {})
        samples = [] if calibration is None else [np.asarray(leaf) for leaf in keras.tree.flatten(calibration)]
        inputs = dict(zip(input_names(simulation), samples, strict=True)) if samples else {}
        own_grids = _grids(simulation, source)
        written = write_files(
            float_path, orders, grids=own_grids, ranges=known, inputs=inputs, io=io, timeout_s=timeout_s
        )
    results: list[Deployed | ConversionError] = []
    for (format_, _), account in zip(orders, written, strict=True):
        if isinstance(account, ConversionError):
            results.append(account)
        else:
            results.append(Deployed(account, _simulation_of(simulation, format_, account, points)))
    return results


def _grids(simulation: keras.Model, source: keras.Model) -> list[Grid]:
    """The grids of a simulation, and of the layers that a static file has besides."""
    own = grids(simulation)
    names = {f"{grid.layer}{end}" for grid in own for end in ("", "_linear", "_output")}
    return [*own, *(grid for grid in grids(source) if grid.layer not in names)]


def _count(simulation: keras.Model) -> int:
    return len(quantized_layers(simulation))


def in_place(
    simulation: keras.Model,
    data: Data,
    *,
    activation_bits: int = 8,
    momentum: float | None = None,
    observer: str = "min_max",
) -> keras.Model:
    """Returns the simulation with a range at every tensor that a static file keeps in integers: a file tells which."""
    assert data.calibration is not None
    samples, _, _ = data.calibration.arrays()
    with tempfile.TemporaryDirectory(prefix="bigmodel-place-") as folder:
        order = (format_of(8, "static", activation_bits), Path(folder, "static.tflite"))
        (deployed,) = _deploy(simulation, [order], samples, "float", observer, _TIMEOUT_S)
    if isinstance(deployed, ConversionError):
        raise deployed
    for layer in range_layers(deployed.simulation).values():
        layer.momentum = momentum
    return deployed.simulation


def _static(simulation: keras.Model) -> keras.Model:
    """The simulation in the form that static files need: ranges in place, or at least places for them."""
    return simulation if range_layers(simulation) else with_activations(simulation, "static")


def _known_ranges(
    static: keras.Model, network: keras.Model, calibration: Any, observer: str
) -> tuple[list[Range], dict[str, tuple[Point, float, float]]]:
    """Returns the ranges of a static simulation, from its layers where it has some, else seen on calibration data."""
    own = range_layers(static)
    points, tapped = taps(network)
    found, places = [], {}
    # Ranges that stand are not sought again: the values are only there to be recognized by.
    seen = observe(tapped, _head(calibration) if own else calibration, ["min_max"] if own else [observer])
    for point, (ranges, values) in zip(points, seen, strict=True):
        ((low, high),) = ranges.values()
        layer = own.get(point.layer_name)
        if own and layer is None:
            continue
        if layer is not None:
            low, high = float(layer.low.value), float(layer.high.value)
        found.append(Range(point.layer_name, low, high, values))
        places[point.layer_name] = (point, low, high)
    return found, places


def observe(
    tapped: keras.Model, calibration: Any, observers: Sequence[str], batch_size: int = 32
) -> list[tuple[dict[str, Extremes], np.ndarray]]:
    """Returns for each output of a model its range by each observer, and its values on the first samples.

    Args:
        tapped: A model whose outputs are the tensors to observe.
        calibration: Input samples, in the structure that the model takes.
        observers: Names of observers.
        batch_size: Samples that go through at once: all tensors of a batch are held in memory.
    """

    def values(batch: Any) -> list[np.ndarray]:
        return [np.asarray(tensor) for tensor in keras.tree.flatten(tapped(batch, training=False))]

    found = observed(lambda: map(values, in_batches(calibration, batch_size)), observers)
    return list(zip(found, values(_head(calibration)), strict=True))


def _head(calibration: Any) -> Any:
    return keras.tree.map_structure(lambda x: np.asarray(x)[:_PROBE_SAMPLES], calibration)


def _simulation_of(
    simulation: keras.Model, format_: Format, account: Written, points: Mapping[str, tuple[Point, float, float]]
) -> keras.Model:
    activations: Activations = format_.activations
    if activations != "static":
        return with_activations(simulation, activations)
    ranges = {point: (low, high) for name, (point, low, high) in points.items() if name in account.ranges}
    dynamic = {name.split("/")[0] for name in account.dynamic}
    static = with_activations(
        simulation,
        "static",
        ranges=ranges,
        dynamic=dynamic,
        rounding=account.rounding,
        activation_bits=format_.activation_bits,
    )
    for name, layer in range_layers(static).items():
        layer.set_grid(*account.ranges[name])
    take_biases(static, account.biases)
    return static
