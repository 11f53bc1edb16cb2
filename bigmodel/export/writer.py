"""Writes quantized files from a float one by explicit scales, in a child process: NumPy and ai-edge-quantizer only.

The writer of the integers is ai-edge-quantizer. It takes the scales of weights and the ranges of activations through
its calibration dictionary, which maps a tensor's name to a minimum and a maximum. Which tensor of the file belongs to
which weight or activation of the model is found by content, never by name: converters rename, fuse and fold.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils
from ai_edge_quantizer import qtyping, quantizer
from ai_edge_quantizer.utils import tfl_flatbuffer_utils

from bigmodel.errors import ConversionError
from bigmodel.export import integer_ops, rewriting
from bigmodel.export.biases import bias_errors
from bigmodel.export.child import PART
from bigmodel.export.formats import Format, format_named
from bigmodel.export.lean import lean
from bigmodel.export.placement import account, place_grids, weighted_ops
from bigmodel.export.scalings import scalings
from bigmodel.export.tensors import float_tensors
from bigmodel.export.widening import widened

_Op = qtyping.TFLOperationName
_Granularity = qtyping.QuantGranularity


def write(job: dict[str, Any]) -> dict[str, Any]:
    """Writes one file; the task "write" of the child process.

    Args:
        job: `float`: path of the float file. `format`, `path` and `io` ("float" or "int8") of the file to write.
            `arrays`: path of an .npz, whose keys stand for arrays in the rest. `grids`: a list as `place_grids` takes.
            `ranges`: a list of name, low, high and values (of the first calibration samples). `inputs`: the samples by
            the names of the signature.

    Returns:
        `grids`: for each trained grid found in the file, whether its buffer holds exactly the trained codes.
        `missing`: the grids not found. `ranges`: scale and zero point by name of the range. Of static files `dynamic`:
        the grids whose ops quantize their input at run time, `float_ops`: how many ops of each kind are float,
        `biases`: what rounding them changed, by grid, and `rounding`: by range how kernels round that do so otherwise.
        `scalings`: by grid what an integer kernel does to the sums of codes.
    """
    with np.load(job["arrays"]) as archive:
        arrays = dict(archive)
    format_ = format_named(job["format"])
    source = _Source(Path(job["float"]), [{**grid, "codes": arrays[grid["codes"]]} for grid in job["grids"]])
    inputs = {name: arrays[key] for name, key in job["inputs"].items()}
    if format_.activations == "static":
        ranges = [{**known, "values": arrays[known["values"]]} for known in job["ranges"]]
        rewriting.expand_by_reshaping(source.model)
        source.place_ranges(ranges, inputs)
    if inputs:
        source.take_sizes(inputs)
    return source.write(format_, Path(job["path"]), job["io"])


class _Source:
    """The float file, with the trained grids and ranges found in it."""

    def __init__(self, path: Path, grids: list[dict[str, Any]]) -> None:
        self.path = path
        self.model = flatbuffer_utils.read_model(str(path))
        self.codes = {grid["name"]: grid["codes"] for grid in grids}
        self.placed = place_grids(self.model, grids)
        self.range_of_tensor: dict[str, tuple[float, float]] = {}
        self.tensors_of_range: dict[str, list[str]] = {}
        self.not_integer = self._scopes_in_loops()

    def place_ranges(self, ranges: list[dict[str, Any]], inputs: dict[str, np.ndarray]) -> None:
        """Finds the tensor of each known range by its values, and the range of all other tensors by running the file.

        Args:
            ranges: Dicts of name, low, high and values; the values are those of the first samples of `inputs`.
            inputs: Calibration inputs by name.
        """
        samples = min((len(known["values"]) for known in ranges), default=1)
        for name, values in float_tensors(self.path, {key: x[:samples] for key, x in inputs.items()}):
            for known in ranges:
                if _same(values, known["values"]):
                    self.tensors_of_range.setdefault(known["name"], []).append(name)
                    self.range_of_tensor[name] = (known["low"], known["high"])
                    break
        self.range_of_tensor = integer_ops.spread(self.model, self.range_of_tensor)
        weights = {place["tensor"] for place in self.placed}
        if ranges:  # without any, no simulation is there to agree with
            self.not_integer |= integer_ops.not_integer(self.model, self.range_of_tensor, weights)
        for name, values in float_tensors(self.path, inputs):
            self.range_of_tensor.setdefault(name, (float(values.min(initial=0.0)), float(values.max(initial=0.0))))

    def take_sizes(self, inputs: dict[str, np.ndarray]) -> None:
        """Gives free sizes of the inputs those of the samples: at the size 1 of a fresh file some networks can't run.

        They stay free. The quantizer lays out the file's memory once.
        """
        (signature,) = self.model.signatureDefs
        graph = self.model.subgraphs[signature.subgraphIndex]
        for entry in signature.inputs:
            tensor = graph.tensors[entry.tensorIndex]
            if tensor.shapeSignature is not None:
                tensor.shape = [int(tensor.shape[0]), *inputs[entry.name.decode()].shape[1:]]

    def write(self, format_: Format, path: Path, io: str) -> dict[str, Any]:
        """Writes one file, whole or not at all, and tells what became of grids and ranges."""
        if format_.quantized and not self.placed:
            raise ConversionError(
                f"The {format_.name} file would hold no quantized weight.",
                received=", ".join(self.codes) or "no trained grid",
                expected="a weight in the float file that lies on its grid",
                fix="Leave this format out; the float file has the same weights.",
            )
        work = quantizer.Quantizer(flatbuffer_utils.convert_object_to_bytearray(self.model))
        if format_.bits == 16:
            _cast_to_float16(work)
        elif format_.activations == "static":
            work.add_static_config(
                ".*", _Op.ALL_SUPPORTED, activation_num_bits=format_.activation_bits, weight_num_bits=8
            )
            self._leave_float(work, format_, io)
        apart = []
        for place in self.placed if format_.quantized else ():
            if self._is_widened(place, format_.activations):
                apart.append(place)
            else:
                self._order_weight(work, place, format_)
        result = work.quantize(calibration_result=self._calibration(format_), enable_progress_report=False)
        part = path.with_name(path.name + PART)
        content = result.quantized_model
        content = rewriting.settled(content) if format_.activations == "static" else content
        content = widened(content, apart) if apart else content
        told = self._read_back(content, format_)  # by names that a lean file no longer has
        part.write_bytes(lean(content))
        os.replace(part, path)
        return told

    def _is_widened(self, place: dict[str, Any], activations: str) -> bool:
        """Whether the runtime widens a weight to float because it has no integer kernel for it in such a file."""
        if place["op"] is None or not place["weights_only"]:
            return place["op"] is None
        return activations != "static" or place["scope"] in self.not_integer or place["bits"] < 8

    def _order_weight(self, work: quantizer.Quantizer, place: dict[str, Any], format_: Format) -> None:
        scope, name, width = f"^{re.escape(place['scope'])}$", place["op"], _width(place, format_)
        granularity = _Granularity.TENSORWISE if place["one_scale"] else _Granularity.CHANNELWISE
        if name == _Op.GATHER:
            # The runtime looks up integer rows only where they stay integer, so this op alone is static.
            work.add_static_config(scope, name, activation_num_bits=8, weight_num_bits=width)
        elif format_.activations == "float":
            work.add_weight_only_config(scope, name, num_bits=width, granularity=granularity)
        elif format_.activations == "dynamic" or place["scope"] in self.not_integer:
            work.add_dynamic_config(scope, name, num_bits=width, granularity=granularity)
        elif width < 8 or place["one_scale"]:
            bits = format_.activation_bits
            work.add_static_config(scope, name, bits, weight_num_bits=width, weight_granularity=granularity)

    def _scopes_in_loops(self) -> set[str]:
        """Ops in the body of a loop. They have no static ranges: the values of a turn can't be read from outside."""
        graphs = self.model.subgraphs[1:]
        return {tfl_flatbuffer_utils.get_op_scope(op, graph.tensors) for graph in graphs for op in graph.operators}

    def _leave_float(self, work: quantizer.Quantizer, format_: Format, io: str) -> None:
        """Takes out of a static file the weights without a grid, what is not integer, and its ends for float io."""
        placed = {place["scope"] for place in self.placed if not self._is_widened(place, "static")}
        scopes = {tfl_flatbuffer_utils.get_op_scope(op, graph.tensors) for graph, op, *_ in weighted_ops(self.model)}
        for scope in (scopes - placed) | self.not_integer:
            rule = f"^{re.escape(scope)}$"
            work.update_quantization_recipe(rule, _Op.ALL_SUPPORTED, None, quantizer.AlgorithmName.NO_QUANTIZE)
        if format_.activation_bits == 16:
            for name in integer_ops.COARSE_IN_16_BITS:
                work.update_quantization_recipe(".*", name, None, quantizer.AlgorithmName.NO_QUANTIZE)
        if io == "float":
            for end in (_Op.INPUT, _Op.OUTPUT):
                work.update_quantization_recipe(".*", end, None, quantizer.AlgorithmName.NO_QUANTIZE)

    def _calibration(self, format_: Format) -> dict[str, Any] | None:
        """The quantizer's calibration dictionary: it derives scales from ranges, so each is the range of its grid."""
        if not format_.quantized:
            return None
        known = {}
        if format_.activations == "static":
            for name, (low, high) in self.range_of_tensor.items():
                known[name] = {"min": np.array([[low]], np.float32), "max": np.array([[high]], np.float32)}
        for place in self.placed:
            limit = 2 ** (_width(place, format_) - 1) - 1
            if place["op"] == _Op.GATHER:
                # Asymmetric: -128..127 steps make the zero point 0. Rows come out on the grid of the table.
                grid = {"min": -(limit + 1) * place["scale"], "max": limit * place["scale"]}
                known[place["output"]] = {key: np.reshape(value, (1, 1)) for key, value in grid.items()}
            else:
                grid = {"min": -limit * place["scale"], "max": limit * place["scale"]}
            known[place["tensor"]] = grid
        return known

    def _read_back(self, content: bytes | bytearray, format_: Format) -> dict[str, Any]:
        written = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
        grids = _activation_grids(written)
        ranges = {}
        for known, names in self.tensors_of_range.items():
            # Reshaped and passed on, the same values are several tensors of the file.
            found = [grids[name] for name in names if name in grids]
            if found:
                ranges[known] = found[0]
        exact, missing = account(written, self.placed, self.codes)
        is_static = format_.activations == "static"
        dynamic = {p["grid"] for p in self.placed if p["scope"] in self.not_integer and p["op"] != _Op.GATHER}
        return {
            "ranges": ranges,
            "grids": exact if format_.quantized else {},
            "missing": missing,
            "dynamic": sorted(dynamic) if is_static else [],
            "float_ops": integer_ops.float_ops(written) if is_static else {},
            "biases": bias_errors(self.model, written, self.placed, self.codes) if is_static else {},
            "rounding": self._rounding(written) if is_static else {},
            "scalings": scalings(written, self.placed, self.codes) if format_.activations != "float" else {},
        }

    def _rounding(self, written: Any) -> dict[str, dict[str, list[float]]]:
        by_tensor = integer_ops.rounding(written)
        found = ((known, by_tensor.get(name)) for known, names in self.tensors_of_range.items() for name in names)
        return {known: how for known, how in found if how is not None}


def _same(values: np.ndarray, expected: np.ndarray) -> bool:
    if values.size != expected.size:
        return False
    values, expected = values.ravel(), expected.ravel()
    spread = float(np.abs(expected).max(initial=0.0))
    return bool(np.allclose(values, expected, rtol=1e-4, atol=1e-5 * max(spread, 1e-3)))


def _activation_grids(model: Any) -> dict[str, tuple[float, int]]:
    """Returns scale and zero point by tensor name.

    A float tensor that a QUANTIZE op turns into integers (an input of a file with float io, what a float op hands to an
    integer one) has the grid of those.
    """
    grids: dict[str, tuple[float, int]] = {}
    for graph in model.subgraphs:
        pairs = [(tensor, tensor) for tensor in graph.tensors]
        for op in graph.operators:
            if model.operatorCodes[op.opcodeIndex].builtinCode == schema.BuiltinOperator.QUANTIZE:
                pairs.append((graph.tensors[op.inputs[0]], graph.tensors[op.outputs[0]]))
        for tensor, integers in pairs:
            quantization = integers.quantization
            if quantization is not None and quantization.scale is not None:
                grid = float(quantization.scale[0]), int(quantization.zeroPoint[0])
                grids.setdefault(tfl_flatbuffer_utils.get_tensor_name(tensor), grid)
    return grids


def _cast_to_float16(work: quantizer.Quantizer) -> None:
    weights = qtyping.TensorQuantizationConfig(num_bits=16, dtype=qtyping.TensorDataType.FLOAT)
    config = qtyping.OpQuantizationConfig(
        weight_tensor_config=weights,
        compute_precision=qtyping.ComputePrecision.FLOAT,
        explicit_dequantize=True,
    )
    work.update_quantization_recipe(".*", _Op.ALL_SUPPORTED, config, quantizer.AlgorithmName.FLOAT_CASTING)


def _width(place: dict[str, Any], format_: Format) -> int:
    """Returns the bits that a weight's code takes in the file.

    There is no type of one bit, and two bits have dynamic kernels alone. Codes of fewer bits fit into more.
    """
    return max(place["bits"], 2 if format_.activations == "dynamic" else 4)
