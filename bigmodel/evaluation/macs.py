"""Multiply-accumulate operations (MACs) of the runtime's operations, from their shapes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

Shape = Sequence[int]


def count_macs(name: str, inputs: Sequence[Shape | None], outputs: Sequence[Shape], options: Any = None) -> int:
    """Returns the MACs of one run of an operation; 0 for operations that only add, move or compare.

    Args:
        name: The operation, such as "CONV_2D".
        inputs: Shapes of its inputs, in the runtime's order; `None` for an optional one that is absent.
        outputs: Shapes of its outputs.
        options: Its options table, read for BATCH_MATMUL (which side is transposed) and recurrent operations.

    Example:
        >>> count_macs("FULLY_CONNECTED", [(1, 784), (10, 784), (10,)], [(1, 10)])
        7840
    """
    if name == "FULLY_CONNECTED":
        return math.prod(outputs[0]) * _shape(inputs, 1)[-1]
    if name == "CONV_2D":  # kernel: (out, height, width, in / groups)
        return math.prod(outputs[0]) * math.prod(_shape(inputs, 1)[1:])
    if name == "DEPTHWISE_CONV_2D":  # kernel: (1, height, width, out)
        return math.prod(outputs[0]) * math.prod(_shape(inputs, 1)[1:3])
    if name == "CONV_3D":  # kernel: (depth, height, width, in, out)
        return math.prod(outputs[0]) * math.prod(_shape(inputs, 1)[:4])
    if name == "TRANSPOSE_CONV":  # kernel: (out, height, width, in); every input element meets every tap
        return math.prod(_shape(inputs, 2)) * math.prod(_shape(inputs, 1)[:3])
    if name == "CONV_3D_TRANSPOSE":  # kernel: (depth, height, width, out, in)
        return math.prod(_shape(inputs, 2)) * math.prod(_shape(inputs, 1)[:4])
    if name == "BATCH_MATMUL":
        left = _shape(inputs, 0)
        return math.prod(outputs[0]) * (left[-2] if options is not None and options.adjX else left[-1])
    if name in ("UNIDIRECTIONAL_SEQUENCE_LSTM", "UNIDIRECTIONAL_SEQUENCE_RNN"):
        time_and_batch = math.prod(_shape(inputs, 0)[:2])
        return time_and_batch * sum(math.prod(s) for s in inputs[1:] if s is not None and len(s) == 2 and s[0] > 1)
    return 0


def _shape(inputs: Sequence[Shape | None], index: int) -> Shape:
    shape = inputs[index]
    return () if shape is None else shape
