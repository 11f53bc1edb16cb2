"""Makes a layer inside another see its input as the runtime's kernel does.

The call of the inner instance is wrapped. Its class, config and weights stay, so that the outer layer finds them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

# Modules and not their names: Keras' loading imports this one, possibly in the middle of the import of those.
from bigmodel.quantization import table

Round = Callable[[Any], Any]


def quantize_inputs(layer: Any, inputs: table.InputQuantization) -> None:
    """Changes, in place, what a layer is called with: the values that its kernels see.

    Args:
        layer: A built layer inside another one: any, or a recurrent cell, whose state is quantized too.
        inputs: How the kernel quantizes its input, and that of the recurrent kernel its state.
    """
    original, rounded = layer.call, _in_its_dtype(inputs)
    state = _in_its_dtype(inputs.state) if inputs.state else None

    def call(first: Any, *args: Any, **kwargs: Any) -> Any:
        return original(rounded(first), *args, **kwargs)

    def step(first: Any, states: Any, *args: Any, **kwargs: Any) -> Any:
        assert state is not None
        nested = keras.tree.is_nested(states)
        changed = [state(states[0]), *states[1:]] if nested else state(states)
        return original(rounded(first), changed, *args, **kwargs)

    if state is None:
        layer.call = call
    elif isinstance(layer, keras.layers.GRUCell):
        layer.call = _gated(layer, rounded, state)
    else:
        layer.call = step


def _in_its_dtype(inputs: table.InputQuantization) -> Round:
    return lambda values: keras.ops.cast(inputs.fake_quantize(values), values.dtype)


def _gated(cell: Any, rounded: Round, state: Round) -> Callable[..., Any]:
    """One step of a GRU. Its state also goes around the kernels, where it is not rounded."""
    original, ops, units = cell.call, keras.ops, cell.units

    def step(inputs: Any, states: Any, training: bool = False) -> Any:
        if training and cell.recurrent_dropout:
            return original(rounded(inputs), states, training=training)  # a mask for each gate
        if training and cell.dropout:
            inputs = inputs * cell.get_dropout_mask(inputs)
        before = states[0] if keras.tree.is_nested(states) else states
        biases = [0.0, 0.0]
        if cell.use_bias:
            biases = [cell.bias[0], cell.bias[1]] if cell.reset_after else [cell.bias, 0.0]
        given = ops.matmul(rounded(inputs), cell.kernel) + biases[0]
        if cell.reset_after:
            kept = ops.matmul(state(before), cell.recurrent_kernel) + biases[1]
            reset = cell.recurrent_activation(given[:, units : 2 * units] + kept[:, units : 2 * units])
            candidate = reset * kept[:, 2 * units :]
        else:
            kept = ops.matmul(state(before), cell.recurrent_kernel[:, : 2 * units])
            reset = cell.recurrent_activation(given[:, units : 2 * units] + kept[:, units:])
            candidate = ops.matmul(state(reset * before), cell.recurrent_kernel[:, 2 * units :])
        update = cell.recurrent_activation(given[:, :units] + kept[:, :units])
        after = update * before + (1 - update) * cell.activation(given[:, 2 * units :] + candidate)
        return after, [after] if keras.tree.is_nested(states) else after

    return step
