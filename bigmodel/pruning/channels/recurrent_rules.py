"""Rules of recurrent layers: a unit is one column of every gate, and one row of the recurrent kernel."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from bigmodel.pruning.channels.feature_rules import activate
from bigmodel.pruning.channels.labels import Labelled
from bigmodel.pruning.channels.site import Count, Site


def recurrent(site: Site, x: Labelled, initial_state: Any = None, **_: Any) -> Any:
    """LSTM, GRU, SimpleRNN: kernels (inputs, gates x units) and (units, gates x units); a unit is one of each gate."""
    layer = site.operation
    cell, units = layer.cell, site.channels.new(layer.units)
    gates = np.tile(units, cell.kernel.shape[1] // layer.units)
    site.reads(cell.kernel, 0, x[-1])
    site.makes(cell.kernel, 1, gates)
    site.reads(cell.recurrent_kernel, 0, units)
    site.makes(cell.recurrent_kernel, 1, gates)
    site.makes(cell.bias, -1, gates)
    site.config(units=Count(units))
    activate(site, units)
    return _states(site, units, -1, initial_state)


def conv_recurrent(site: Site, x: Labelled, initial_state: Any = None, **_: Any) -> Any:
    """ConvLSTM: as LSTM, with convolution kernels."""
    layer = site.operation
    cell, units = layer.cell, site.channels.new(layer.filters)
    gates = np.tile(units, 4)
    axis = 2 if layer.data_format == "channels_first" else x.rank - 1
    site.reads(cell.kernel, -2, x[axis])
    site.makes(cell.kernel, -1, gates)
    site.reads(cell.recurrent_kernel, -2, units)
    site.makes(cell.recurrent_kernel, -1, gates)
    site.makes(cell.bias, 0, gates)
    site.config(filters=Count(units))
    activate(site, units)
    return _states(site, units, axis - x.rank, initial_state)


def _states(site: Site, units: np.ndarray, axis: int, initial_state: Any) -> Any:
    """Outputs and states: all carry the units; states from outside are tied to them."""
    for state in [] if initial_state is None else keras.tree.flatten(initial_state):
        site.channels.tie(state[axis], units, site.because("starts from a state that is left whole"))

    def carrying(shape: tuple[int | None, ...]) -> Labelled:
        return Labelled(shape, tuple(units if i == len(shape) + axis else None for i in range(len(shape))))

    outputs = [carrying(shape) for shape in site.shapes]
    return outputs[0] if len(outputs) == 1 else outputs
