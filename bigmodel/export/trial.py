"""The first run of a file, in a child process: a broken file takes the child down and not the caller.

Loads neither Keras nor TensorFlow.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bigmodel.export.child import run_child


def first_run(
    path: str | os.PathLike[str], x: Any, *, threads: int = 1, delegate: str | None = "xnnpack", timeout_s: float = 60
) -> Any:
    """Runs a file on samples as `LiteModel.predict` does, in a child process. The samples are not changed.

    Args:
        path: The .tflite file.
        x: An array, or a dict or list of arrays, as for `LiteModel.predict`; first axis the sample.
        threads: CPU threads of the kernels.
        delegate: "xnnpack", or `None` for the runtime's own kernels.
        timeout_s: Seconds the child may take.

    Returns:
        The output as an array; for several outputs a dict by output name.

    Raises:
        ConversionError: The file does not run: an error, a crash (the message names the signal) or a hang.

    Example:
        `first_run("model_int4.tflite", x[:16])`
    """
    names = list(x) if isinstance(x, Mapping) else None
    arrays = list(x.values()) if isinstance(x, Mapping) else list(x) if isinstance(x, (list, tuple)) else [x]
    with tempfile.TemporaryDirectory(prefix="bigmodel-run-") as folder:
        inputs, outputs = Path(folder, "inputs.npz"), Path(folder, "outputs.npz")
        np.savez(inputs, *map(np.asarray, arrays))
        job = {
            "path": os.fspath(path),
            "inputs": inputs,
            "names": names,
            "outputs": outputs,
            "threads": threads,
            "delegate": delegate,
        }
        result = run_child("first_run", job, timeout_s=timeout_s)
        values = _load(outputs)
    return dict(zip(result["names"], values, strict=True)) if result["names"] else values[0]


def run_file(job: dict[str, Any]) -> dict[str, Any]:
    """The child's part: loads inputs, runs the file, saves outputs.

    Args:
        job: "path" of the file; "inputs" and "outputs", .npz files of arrays in order; "names" of the inputs or None;
            "threads", "delegate".

    Returns:
        "names": the names of the outputs in the order of their arrays; None where there is one output.
    """
    from bigmodel.litert import LiteModel

    arrays = _load(job["inputs"])
    x = dict(zip(job["names"], arrays, strict=True)) if job["names"] else arrays if len(arrays) > 1 else arrays[0]
    y = LiteModel(job["path"], threads=job["threads"], delegate=job["delegate"]).predict(x)
    np.savez(job["outputs"], *(y.values() if isinstance(y, dict) else [y]))
    return {"names": list(y) if isinstance(y, dict) else None}


def _load(path: str | Path) -> list[np.ndarray]:
    with np.load(path) as archive:
        return [archive[f"arr_{i}"] for i in range(len(archive.files))]
