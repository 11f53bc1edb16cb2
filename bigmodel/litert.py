"""Load and run a .tflite file without Keras or TensorFlow."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from bigmodel.errors import ArgumentError, ConversionError, DataError, describe

Delegate = Literal["xnnpack"] | None
"""Who runs the float and int8 kernels: XNNPACK (the runtime's default on a CPU) or the built-in reference kernels."""


@dataclasses.dataclass(frozen=True)
class TensorInfo:
    """An input or output of a file.

    Args:
        name: Its name in the file's signature; in a file without one, the tensor's own name.
        shape: Its shape; `None` where the size is free (the batch, a time or an image axis).
        dtype: NumPy's name of its type in the file, such as "float32" or "int8".
        scale: Real value of one step of an integer tensor; `None` for a tensor that holds plain values.
        zero_point: The integer that stands for 0.0.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str
    scale: float | None = None
    zero_point: int = 0

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Returns real values as the file holds them: `round(x / scale) + zero_point`, clipped to the type."""
        if self.scale is None:
            return np.ascontiguousarray(values, dtype=self.dtype)
        limits = np.iinfo(self.dtype)
        codes = np.rint(np.asarray(values, np.float32) / np.float32(self.scale)) + self.zero_point
        return np.clip(codes, limits.min, limits.max).astype(self.dtype)

    def decode(self, values: np.ndarray) -> np.ndarray:
        """Returns the real values of what the file holds: `(q - zero_point) * scale`, as float32."""
        if self.scale is None:
            return values
        return (values.astype(np.float32) - self.zero_point) * np.float32(self.scale)


class LiteModel:
    """A .tflite file, ready to run. Loads neither Keras nor TensorFlow.

    Values go in and come out as real numbers: the integers of a file with int8 inputs or outputs are made and read
    here. One instance serves one thread of the program at a time; give each its own.

    Args:
        path: The file.
        threads: CPU threads of the kernels.
        delegate: "xnnpack", or `None` for the runtime's built-in kernels.

    Attributes:
        inputs: What the file takes, in the file's order (sorted by name for a file made from a Keras model).
        outputs: What it returns, in the file's order.

    Raises:
        ArgumentError: There is no such file, or `threads` or `delegate` can't be used.
        ConversionError: The file is not a model that the runtime can load.

    Example:
        `LiteModel("model.tflite").predict(x)` for an array, `predict({"image": x, "size": y})` for several inputs.
    """

    def __init__(self, path: str | os.PathLike[str], *, threads: int = 1, delegate: Delegate = "xnnpack") -> None:
        _check_options(path, threads, delegate)
        self.path = Path(path)
        self.threads = threads
        self.delegate = delegate
        self._batchable = True
        self._open()

    def _open(self) -> None:
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        resolver = OpResolverType.AUTO if self.delegate else OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        try:
            self._interpreter = Interpreter(
                os.fspath(self.path), num_threads=self.threads, experimental_op_resolver_type=resolver
            )
            ins, outs = _signature(self._interpreter)
        except (ValueError, RuntimeError) as error:
            raise ConversionError(
                f"{self.path.name} can't be loaded.",
                received=str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__,
                expected="a .tflite file whose operations this runtime has",
                fix="Check that the file is complete; convert it again with builtin operations only.",
            ) from error
        self._input_ids = [detail["index"] for _, detail in ins]
        self._output_ids = [detail["index"] for _, detail in outs]
        self.inputs = tuple(_info(name, detail) for name, detail in ins)
        self.outputs = tuple(_info(name, detail) for name, detail in outs)
        self._shapes: list[tuple[int, ...]] | None = None

    def __repr__(self) -> str:
        def side(tensors: tuple[TensorInfo, ...]) -> str:
            return ", ".join(f"{t.name}: {t.dtype}{list(t.shape)}" for t in tensors)

        return f"LiteModel({self.path.name!r}, inputs=({side(self.inputs)}), outputs=({side(self.outputs)}))"

    def predict(self, x: Any, *, batch_size: int = 128) -> Any:
        """Runs the file on samples. The samples are not changed.

        Where the file's batch size is free, the samples go through in batches of equal size, so that memory is laid
        out once; the last one overlaps the one before it instead of being smaller. A file of fixed batch size is run
        at that size, and one that fails on more than one sample is run sample by sample.

        Args:
            x: The samples, first axis the sample: an array; for several inputs a dict by input name, or a list in the
                order of `inputs`. Real values, also for files with integer inputs.
            batch_size: Most samples in one call of the runtime.

        Returns:
            The output as an array with the sample as first axis; for several outputs a dict by output name.

        Raises:
            ArgumentError: `batch_size` is not a positive whole number.
            DataError: An input is missing, unknown, or has the wrong rank, size or type.
            ConversionError: The runtime can't run the file.
        """
        if not isinstance(batch_size, (int, np.integer)) or batch_size < 1:
            raise ArgumentError(
                "batch_size can't be used.",
                received=describe(batch_size),
                expected="a whole number of at least 1",
                fix="Pass batch_size=128.",
            )
        arrays = self.arrange(x)
        count = len(arrays[0])
        chunk = self._chunk(count, int(batch_size))
        if chunk > count:  # a fixed batch larger than what there is: repeat the last sample
            arrays = [np.concatenate([a, np.repeat(a[-1:], chunk - count, axis=0)]) for a in arrays]
        parts: list[list[np.ndarray]] = []
        for begin in range(0, count, chunk):
            start = max(0, min(begin, len(arrays[0]) - chunk))
            outputs = self._run([a[start : start + chunk] for a in arrays])
            if outputs is None:  # the batch can't be resized after all
                self._batchable = False
                return self.predict(x, batch_size=1)
            parts.append([out[begin - start :] for out in outputs])
        joined = [np.concatenate(leaves)[:count] for leaves in zip(*parts, strict=True)]
        real = [info.decode(values) for info, values in zip(self.outputs, joined, strict=True)]
        return real[0] if len(real) == 1 else dict(zip((t.name for t in self.outputs), real, strict=True))

    def load(self, x: Any) -> Any:
        """Lays out memory for the samples, sets them as input, and returns the function that runs the file on them.

        For measuring: the function does nothing but run.
        """
        encoded = [info.encode(a) for info, a in zip(self.inputs, self.arrange(x), strict=True)]
        try:
            self._resize(encoded)
        except (ValueError, RuntimeError) as error:
            raise self._failure(error) from error
        for index, values in zip(self._input_ids, encoded, strict=True):
            self._interpreter.set_tensor(index, values)
        return self._interpreter.invoke

    def arrange(self, x: Any) -> list[np.ndarray]:
        """Returns the samples as arrays in the order and of the types of `inputs`, checked."""
        arrays = [_as_input(value, info) for value, info in zip(self._by_order(x), self.inputs, strict=True)]
        counts = {info.name: len(a) for info, a in zip(self.inputs, arrays, strict=True)}
        if len(set(counts.values())) > 1 or not next(iter(counts.values())):
            raise DataError(
                "The inputs hold no samples, or not equally many.",
                received=", ".join(f"{name}: {count}" for name, count in counts.items()),
                expected="the same number of samples, at least one, in every input",
                fix="Check the first axis of each input.",
            )
        return arrays

    def _by_order(self, x: Any) -> list[Any]:
        names = [info.name for info in self.inputs]
        if isinstance(x, Mapping):
            if set(x) != set(names):
                missing, unknown = sorted(set(names) - set(x)), sorted(map(str, set(x) - set(names)))
                raise DataError(
                    "The inputs do not have the file's names.",
                    received=f"missing {missing}, unknown {unknown}",
                    expected=f"a dict with the keys {names}",
                    fix="Rename the keys; `LiteModel.inputs` lists the names.",
                )
            return [x[name] for name in names]
        if len(names) == 1 and not (isinstance(x, (list, tuple)) and len(x) == 1 and hasattr(x[0], "shape")):
            return [x]
        if isinstance(x, (list, tuple)) and len(x) == len(names):
            return list(x)
        raise DataError(
            f"The file has {len(names)} inputs.",
            received=f"{len(x)} inputs" if isinstance(x, (list, tuple)) else describe(x),
            expected=f"a dict with the keys {names}, or a list in this order",
            fix=f"Pass predict({{{names[0]!r}: ..., ...}}).",
        )

    def _chunk(self, count: int, batch_size: int) -> int:
        fixed = [info.shape[0] for info in self.inputs if info.shape[0] is not None]
        if fixed:  # resizing against the file's word can mix samples without an error
            return fixed[0]
        if not self._batchable:
            return 1
        return -(-count // -(-count // batch_size))

    def _run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray] | None:
        """Returns the outputs as the file holds them, or `None` where only a single sample could still work."""
        count = len(arrays[0])
        encoded = [info.encode(a) for info, a in zip(self.inputs, arrays, strict=True)]
        try:
            self._resize(encoded)
            for index, values in zip(self._input_ids, encoded, strict=True):
                self._interpreter.set_tensor(index, values)
            self._interpreter.reset_all_variables()  # a fused LSTM keeps its state from call to call
            self._interpreter.invoke()
        except (ValueError, RuntimeError) as error:
            if count == 1 or not self._batchable:
                raise self._failure(error) from error
            self._open()  # a failed layout leaves the interpreter unusable
            return None
        outputs = [self._interpreter.get_tensor(index) for index in self._output_ids]
        if count > 1 and self._batchable and any(out.ndim == 0 or len(out) != count for out in outputs):
            self._open()
            return None
        return outputs

    def _resize(self, arrays: Sequence[np.ndarray]) -> None:
        shapes = [a.shape for a in arrays]
        if shapes == self._shapes:
            return
        self._shapes = None
        for index, shape in zip(self._input_ids, shapes, strict=True):
            self._interpreter.resize_tensor_input(index, shape)
        with _without_greeting():
            self._interpreter.allocate_tensors()
        self._shapes = shapes

    def _failure(self, error: Exception) -> ConversionError:
        return ConversionError(
            f"{self.path.name} can't be run.",
            received=str(error).strip().splitlines()[-1],
            expected="a file whose operations work at the shape of the samples",
            fix="Try delegate=None; if that fails too, export the model again with builtin operations only.",
        )


def _check_options(path: str | os.PathLike[str], threads: int, delegate: Delegate) -> None:
    if not Path(path).is_file():
        raise ArgumentError(
            "There is no such file.", received=str(path), expected="the path of a .tflite file", fix="Check the path."
        )
    if not isinstance(threads, int) or isinstance(threads, bool) or threads < 1:
        raise ArgumentError(
            "threads can't be used.",
            received=describe(threads),
            expected="a whole number of at least 1",
            fix="Pass threads=1.",
        )
    if delegate not in ("xnnpack", None):
        raise ArgumentError(
            "There is no such delegate.",
            received=describe(delegate),
            expected="'xnnpack' or None",
            fix="Pass delegate='xnnpack', or None for the built-in kernels.",
        )


def _signature(interpreter: Any) -> tuple[list[tuple[str, dict]], list[tuple[str, dict]]]:
    """Returns names and details of inputs and outputs, by the first signature where the file has one."""
    signatures = interpreter.get_signature_list()
    if not signatures:
        ins, outs = interpreter.get_input_details(), interpreter.get_output_details()
        return [(d["name"], d) for d in ins], [(d["name"], d) for d in outs]
    key = "serving_default" if "serving_default" in signatures else next(iter(signatures))
    runner = interpreter.get_signature_runner(key)
    ins, outs = runner.get_input_details(), runner.get_output_details()
    return sorted(ins.items(), key=natural_order), sorted(outs.items(), key=natural_order)


def natural_order(item: tuple[str, Any]) -> list[tuple[int, str]]:
    """Sorts names with numbers by number: output_2 comes before output_10.

    >>> sorted([("output_10", 0), ("output_2", 0)], key=natural_order)[0][0]
    'output_2'
    """
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", item[0]) if part]


def _info(name: str, detail: Mapping[str, Any]) -> TensorInfo:
    signature = detail.get("shape_signature")
    shape = detail["shape"] if signature is None or not len(signature) else signature
    dtype = np.dtype(detail["dtype"]).name
    scale, zero_point = detail["quantization"]
    quantized = scale > 0 and np.issubdtype(detail["dtype"], np.integer)
    return TensorInfo(
        name,
        tuple(int(n) if n >= 0 else None for n in shape),
        dtype,
        float(scale) if quantized else None,
        int(zero_point),
    )


def _as_input(value: Any, info: TensorInfo) -> np.ndarray:
    array = np.asarray(value)
    wanted = np.dtype(np.float32 if info.scale is not None else info.dtype)
    if array.dtype.kind not in "biuf" and array.dtype != wanted:
        raise DataError(
            f"Input {info.name!r} has a type that can't be used.",
            received=describe(array),
            expected=f"numbers that fit {wanted}",
            fix=f"Convert it: x.astype('{wanted}').",
        )
    array = _fit_rank(array, info)
    if array.dtype == wanted:
        return array
    with np.errstate(invalid="ignore"):
        cast = array.astype(wanted)
    if wanted.kind in "iu" and not np.array_equal(cast, array):
        raise DataError(
            f"Input {info.name!r} holds values that are not {wanted}.",
            received=f"{describe(array)}, values from {array.min()} to {array.max()}",
            expected=f"whole numbers in the range of {wanted}",
            fix="Round or rescale the input first.",
        )
    return cast


def _fit_rank(array: np.ndarray, info: TensorInfo) -> np.ndarray:
    """Adds or drops a last axis of size 1, as Keras does, and checks every other axis."""
    rank = len(info.shape)
    received, single = array.shape, array.shape == info.shape[1:]
    if array.ndim == rank - 1 and rank > 1 and info.shape[-1] == 1:
        array = array[..., None]
    elif array.ndim == rank + 1 and array.shape[-1] == 1:
        array = array[..., 0]
    wanted = info.shape[1:]
    if array.ndim != rank or any(n is not None and n != m for n, m in zip(wanted, array.shape[1:], strict=True)):
        raise DataError(
            f"Input {info.name!r} has the wrong shape.",
            received=f"shape {received}",
            expected=f"shape ({', '.join(['samples', *(str(n) if n is not None else 'any' for n in wanted)])})",
            fix="Add the sample axis: x[None]." if single else "Reshape the input; its first axis is the sample.",
        )
    return array


@contextlib.contextmanager
def _without_greeting() -> Iterator[None]:
    """Keeps what the runtime says when it first prepares a file ("Created XNNPACK delegate") off the terminal."""
    global _greeted
    if _greeted:
        yield
        return
    _greeted = True
    try:
        own = os.dup(2)
    except OSError:  # there is no stderr
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(own, 2)
        os.close(own)
        os.close(nowhere)


_greeted = False
