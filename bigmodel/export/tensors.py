"""Runs a float file and gives the values of its tensors; in a child process."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from ai_edge_litert.tools import flatbuffer_utils


def float_tensors(path: Path, inputs: Mapping[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    """Yields name and values of every float tensor that the file computes, inputs included, weights not.

    The tensors in the body of a loop are not among them.

    Args:
        path: A float .tflite file with one signature.
        inputs: Samples for each input, by the signature's names.
    """
    with warnings.catch_warnings():
        # The interpreter warns that keeping all tensors costs memory, which is what is asked for here.
        warnings.simplefilter("ignore", UserWarning)
        interpreter = Interpreter(
            str(path),
            experimental_preserve_all_tensors=True,
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        )
    details = interpreter.get_signature_runner().get_input_details()
    computed = _computed(path)
    samples = len(next(iter(inputs.values())))
    # A file with a loop inside has a batch size of its own.
    fixed = [int(detail["shape_signature"][0]) for detail in details.values() if detail["shape_signature"][0] > 0]
    batch = fixed[0] if fixed else samples
    kept: dict[str, list[np.ndarray]] = {}
    for start in range(0, samples - batch + 1, batch):
        _run(interpreter, details, {name: values[start : start + batch] for name, values in inputs.items()})
        for detail in interpreter.get_tensor_details():
            # Tensors besides the file's are the kernels' own scratch space.
            if detail["dtype"] == np.float32 and detail["name"] in computed:
                with contextlib.suppress(ValueError):  # a tensor that the runtime has optimised away has no values
                    kept.setdefault(detail["name"], []).append(interpreter.get_tensor(detail["index"]))
    for name, parts in kept.items():
        if parts:
            yield name, parts[0] if len(parts) == 1 else np.stack(parts)


def _run(interpreter: Interpreter, details: Mapping[str, Any], inputs: Mapping[str, np.ndarray]) -> None:
    for name, values in inputs.items():
        interpreter.resize_tensor_input(details[name]["index"], values.shape)
    interpreter.allocate_tensors()
    for name, values in inputs.items():
        interpreter.set_tensor(details[name]["index"], values.astype(details[name]["dtype"]))
    interpreter.invoke()


def _computed(path: Path) -> set[str]:
    """Names of the file's tensors whose values do not stand in it."""
    model = flatbuffer_utils.read_model(str(path))
    return {
        tensor.name.decode()
        for graph in model.subgraphs
        for tensor in graph.tensors
        if model.buffers[tensor.buffer].data is None or not len(model.buffers[tensor.buffer].data)
    }
