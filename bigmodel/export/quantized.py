"""One float .tflite -> the other formats, by explicit scales."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bigmodel.errors import ConversionError
from bigmodel.export.child import PART, run_batch
from bigmodel.export.formats import Format, Grid, Range, Rounding, Scaling, Written

Order = tuple[Format, "str | os.PathLike[str]"]


def write_files(
    float_path: str | os.PathLike[str],
    orders: Sequence[Order],
    *,
    grids: Sequence[Grid] = (),
    ranges: Sequence[Range] = (),
    inputs: Mapping[str, np.ndarray] | None = None,
    io: str = "float",
    timeout_s: float = 300,
) -> list[Written | ConversionError]:
    """Writes files of other formats from a float one, each in a child process. The float file is not changed.

    Args:
        float_path: The float32 file.
        orders: Format and path of each file to write.
        grids: The grids of the weights; a weight without one stays float.
        ranges: For static files: the ranges of activations.
        inputs: Samples by the signature's names. Static files take from them the ranges of tensors that `ranges` does
            not know; quantized files of a network with free sizes need them to be laid out.
        io: "float" or "int8": how a static file takes its inputs and gives its outputs.
        timeout_s: Seconds for each file.

    Returns:
        For each order the file's account, or the error that says why there is no file.
    """
    results: list[Written | ConversionError] = []
    with tempfile.TemporaryDirectory(prefix="bigmodel-write-") as folder:
        arrays = Path(folder, "arrays.npz")
        job = {"float": os.fspath(float_path), "arrays": arrays, "io": io, **_save(arrays, grids, ranges, inputs or {})}
        pending = [(format_, Path(path)) for format_, path in orders]
        jobs = [{**job, "format": format_.name, "path": path} for format_, path in pending if format_.bits < 32]
        answers = iter(run_batch("write", jobs, timeout_s=timeout_s) if jobs else [])
        for format_, path in pending:
            answer: Any = _copy(float_path, path) if format_.bits == 32 else next(answers)
            if isinstance(answer, ConversionError):
                path.with_name(path.name + PART).unlink(missing_ok=True)
            results.append(answer if isinstance(answer, ConversionError) else _written(format_, path, answer))
    return results


def _save(
    path: Path, grids: Sequence[Grid], ranges: Sequence[Range], inputs: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """Saves the arrays under numbered keys and returns the job's part that names them."""
    arrays: dict[str, np.ndarray] = {}

    def keep(values: np.ndarray) -> str:
        arrays[f"a{len(arrays)}"] = values
        return f"a{len(arrays) - 1}"

    part = {
        "grids": [
            {
                "name": g.name,
                "bits": g.bits,
                "codes": keep(g.codes),
                "weights_only": g.weights_only,
                "one_scale": g.scale.size < len(g.codes),
            }
            for g in grids
        ],
        "ranges": [{"name": r.name, "low": r.low, "high": r.high, "values": keep(r.values)} for r in ranges],
        "inputs": {name: keep(values) for name, values in inputs.items()},
    }
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return part


def _copy(source: str | os.PathLike[str], path: Path) -> dict[str, Any]:
    part = path.with_name(path.name + PART)
    shutil.copyfile(source, part)
    os.replace(part, path)
    told: dict[str, Any] = {key: {} for key in ("grids", "ranges", "float_ops", "biases", "rounding", "scalings")}
    return {**told, "missing": (), "dynamic": ()}


def _written(format_: Format, path: Path, answer: Mapping[str, Any]) -> Written:
    return Written(
        format=format_.name,
        path=path,
        exact=dict(answer["grids"]),
        missing=tuple(answer["missing"]),
        ranges={name: (float(scale), int(zero)) for name, (scale, zero) in answer["ranges"].items()},
        dynamic=tuple(answer["dynamic"]),
        float_ops=dict(answer["float_ops"]),
        biases={name: tuple(errors) for name, errors in answer["biases"].items()},
        rounding={
            name: Rounding(**{key: tuple(values) for key, values in how.items()})
            for name, how in answer["rounding"].items()
        },
        scalings={
            name: Scaling(**{key: tuple(values) for key, values in numbers.items()})
            for name, numbers in answer["scalings"].items()
        },
    )
