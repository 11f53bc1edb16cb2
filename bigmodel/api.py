"""The public verbs: each step alone, from a model and data to a new model, a file or a measurement."""

from __future__ import annotations

import dataclasses
import functools
import os
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np

from bigmodel import evaluation, legacy_faces
from bigmodel.callbacks import KeepClusters, KeepZeros
from bigmodel.config import PruneConfig, QuantizeConfig, Target, TrainConfig, resolve, resolve_quantize
from bigmodel.data import Data, as_data
from bigmodel.errors import ArgumentError, ArgumentTypeError, ConversionError, describe
from bigmodel.evaluation import Evaluation, evaluate_model, primary_metric
from bigmodel.export import check_path, export_float
from bigmodel.export.formats import Format, check_io, format_named, format_of
from bigmodel.export.quantized import write_files
from bigmodel.legacy import is_tf_keras
from bigmodel.own_parts import own_parts_of
from bigmodel.pruning import prune_model
from bigmodel.quantization import deploy, is_simulation, quantize_aware, quantize_post_training
from bigmodel.quantization.allocation import common_bits, with_allotted_bits
from bigmodel.quantization.simulation import activation_bits_of, activations_of, plain
from bigmodel.run.plan import check_call, check_model
from bigmodel.training import Prepared, prepare

__all__ = ["evaluate", "export_litert", "prune", "quantize"]


def prune(
    model: keras.Model,
    data: Any,
    sparsity: float | Mapping[str, float] | PruneConfig = 0.5,
    *,
    train: TrainConfig | None = None,
    seed: int = 0,
    verbose: int = 1,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    **settings: Any,
) -> keras.Model:
    """Prunes a model while fine-tuning it: zeros, or channels that are gone. Neither model nor data is changed.

    Args:
        model: A built Keras model; an uncompiled one gets a loss that fits its outputs and the labels. Functional or
            Sequential where channels are removed. Or a tf_keras model, which the Model Optimization Toolkit prunes.
        data: Data to fine-tune on, in any form that `bigmodel.as_data` takes. Of x alone the model's own outputs are
            the labels.
        sparsity: The share that goes, in 0..1: of each kernel's weights, or of the channels of each group with
            `granularity="channel"`; or a whole `PruneConfig`.
        train: How to fine-tune.
        seed: Same seed, same result.
        verbose: As in Keras' `fit`.
        callbacks: Further Keras callbacks.
        **settings: Further fields of `PruneConfig`: granularity, where, schedule, criterion, ranking, budget, ...

    Returns:
        A new model, compiled like the caller's: with exact zeros at the asked share of each kernel, or with fewer
        channels.

    Raises:
        ArgumentError: A value is out of range, or does not belong to the granularity.
        DataError: The data does not fit the model.
        ModelError: The model can't be cloned or rebuilt, or has nothing to prune.

    Example:
        >>> import bigmodel as bm, keras, numpy as np
        >>> layers = [keras.Input((4,)), keras.layers.Dense(8, activation="relu"), keras.layers.Dense(2)]
        >>> model = keras.Sequential(layers)
        >>> x, y = np.random.rand(64, 4).astype("float32"), np.arange(64) % 2
        >>> sparse = bm.prune(model, (x, y), sparsity=0.5, train=bm.TrainConfig(epochs=1), verbose=0)
        >>> float((sparse.layers[0].kernel.numpy() == 0).mean())
        0.5
        >>> small = bm.prune(model, (x, y), 0.5, granularity="channel", train=bm.TrainConfig(epochs=1), verbose=0)
        >>> [layer.units for layer in small.layers[1:]]
        [4, 2]
    """
    config, train = _prune_config(sparsity, settings), train or TrainConfig()
    if is_tf_keras(model):
        return legacy_faces.prune(model, data, config, train=train, seed=seed, verbose=verbose, callbacks=callbacks)
    check_call(model, seed=seed, verbose=verbose, callbacks=callbacks)
    with own_parts_of(model):
        ready = _prepared(model, data, train, seed)
        keeping = [KeepZeros()] if config.granularity == "channel" else []
        pruned = prune_model(
            ready.model, ready.data, config, train=train, seed=seed, verbose=verbose, callbacks=[*callbacks, *keeping]
        )
        return ready.compiled_like_the_callers(pruned)


def _prune_config(sparsity: Any, settings: Mapping[str, Any]) -> PruneConfig:
    known = {field.name for field in dataclasses.fields(PruneConfig)} - {"sparsity"}
    if not set(settings) <= known or (settings and isinstance(sparsity, PruneConfig)):
        raise ArgumentError(
            "These settings can't be used.",
            received=", ".join(sorted(settings)) + (" next to a PruneConfig" if set(settings) <= known else ""),
            expected="fields of PruneConfig: " + ", ".join(sorted(known)) + "; or a whole PruneConfig alone",
            fix="Put every setting into the PruneConfig, or pass a number and settings.",
        )
    if settings or isinstance(sparsity, Mapping):
        return PruneConfig(sparsity=sparsity, **settings)
    config: PruneConfig = _config(sparsity, PruneConfig, "sparsity")
    return config


def quantize(
    model: keras.Model,
    data: Any,
    bits: int | str | Mapping[str, int] | Callable[[Any], int] | QuantizeConfig = 8,
    *,
    target: Target | None = None,
    train: TrainConfig | None = None,
    seed: int = 0,
    verbose: int = 1,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> keras.Model:
    """Quantizes a model: the result computes as its file will. The caller's model, data and configs are not changed.

    Method "auto" quantizes post-training, and trains only where that loses more of the validation metric than
    `target.max_drop`. Zeros of a pruned model stay zero.

    Args:
        model: A functional or built Sequential Keras model; an uncompiled one gets a loss that fits. Or a tf_keras
            model, which the Model Optimization Toolkit trains for 8 bits and static activations, or whose weights
            alone go on a grid of 8 bits.
        data: Data to calibrate, judge and train on, in any form that `bigmodel.as_data` takes. Of x alone the model's
            own outputs are the labels.
        bits: Bits of the weights: 8, 4, 2 (ternary) or 1 (binary), "mixed", by layer as a dict of names or a function;
            or a whole `QuantizeConfig`.
        target: How far the metric may fall before training is needed.
        train: How to train.
        seed: Same seed, same result.
        verbose: As in Keras' `fit`.
        callbacks: Further Keras callbacks.

    Returns:
        A new model that simulates the quantized file, compiled like the caller's. `export_litert` writes its file.

    Raises:
        ArgumentError: A value is out of range.
        DataError: The data does not fit the model.
        ModelError: The model is not built, can't be made again from its configuration, or has no layer to quantize.

    Example:
        >>> import bigmodel as bm, keras, numpy as np
        >>> layers = [keras.Input((4,)), keras.layers.Dense(8, activation="relu"), keras.layers.Dense(2)]
        >>> model = keras.Sequential(layers)
        >>> x, y = np.random.rand(64, 4).astype("float32"), np.arange(64) % 2
        >>> int4 = bm.quantize(model, (x, y), bits=4, train=bm.TrainConfig(epochs=1), verbose=0)
        >>> [type(layer).__name__ for layer in int4.layers]
        ['InputLayer', 'Quantized', 'Quantized']
    """
    config = resolve_quantize(bits)
    if not isinstance(config, QuantizeConfig):
        raise _no_number(bits, QuantizeConfig, "bits")
    train, target = train or TrainConfig(), target or Target()
    if is_tf_keras(model):
        return legacy_faces.quantize(model, data, config, train=train, seed=seed, verbose=verbose, callbacks=callbacks)
    if config.activations == "auto":
        config = dataclasses.replace(config, activations="dynamic")
    check_call(model, seed=seed, verbose=verbose, callbacks=callbacks)
    with own_parts_of(model):
        ready = _prepared(model, data, train, seed)
        model, data = ready.model, ready.data
        config = with_allotted_bits(model, data, config)
        if config.method != "aware":
            simulation = quantize_post_training(model, data, config).simulation
            if config.method == "post_training" or _within(target, model, simulation, data):
                return ready.compiled_like_the_callers(simulation)
        simulation, _ = quantize_aware(
            model,
            data,
            config,
            train=train,
            seed=seed,
            verbose=verbose,
            callbacks=[*callbacks, KeepZeros(), KeepClusters()],
        )
        return ready.compiled_like_the_callers(simulation)


def _prepared(model: keras.Model, data: Any, train: TrainConfig, seed: int) -> Prepared:
    """A compiled model and checked splits; nothing is set aside for a test that a single step does not make."""
    return prepare(model, data, seed=seed, test_fraction=0, batch_size=train.batch_size)


def _within(target: Target, model: keras.Model, simulation: keras.Model, data: Data) -> bool:
    split = data.validation or data.train
    before, after = (evaluate_model(m, split, like=model).metric for m in (model, simulation))
    return primary_metric(model).drop(before, after) <= target.max_drop


def export_litert(
    model: keras.Model,
    path: str | os.PathLike[str],
    *,
    format: str | None = None,
    data: Any = None,
    io: Literal["float", "int8"] = "float",
    timeout_s: float = 300,
) -> Path:
    """Writes a model's .tflite file. The model and the data are not changed.

    A model from `quantize` becomes the file that it simulates, with its own scales and ranges. A plain model becomes a
    float file, or a post-training quantized one where `format` asks for it.

    Args:
        model: A built Keras model, or a tf_keras one.
        path: The file to write, ending in ".tflite"; it appears whole or not at all.
        format: "float32", "float16", "weight_only_int8", "dynamic_int8", "static_int8", the same with "int4",
            "dynamic_int2", or with "mixed" where layers differ, or "static_int8_a16" with activations of 16 bits;
            `None`: what the model simulates, "float32" for a plain model.
        data: Samples to calibrate on, for static files; in any form that `bigmodel.as_data` takes, labels not needed.
        io: How a static file takes its inputs and gives its outputs: "float", or "int8" for integer-only devices.
        timeout_s: Seconds that each conversion may take.

    Returns:
        The path.

    Raises:
        ArgumentError: The format does not exist, does not fit the model, or needs data; or the path can't be used.
        ModelError: The model is not built or can't be traced.
        ConversionError: The converter refused the model, crashed, or took too long.

    Example:
        `bm.export_litert(bm.quantize(model, data, bits=4), "model.tflite")`
    """
    check_path(path)
    if is_tf_keras(model):
        return legacy_faces.export_litert(model, path, format=format, data=data, io=io, timeout_s=timeout_s)
    check_model(model)
    simulates = is_simulation(model)
    wanted = _wanted_format(model, format) if simulates else format_named(format or "float32")
    check_io(io, wanted)
    if wanted.name == "float32":
        return export_float(plain(model) if simulates else model, path, timeout_s=timeout_s)
    samples = _calibration(model, data) if data is not None or wanted.activations == "static" else None
    if not wanted.quantized:
        return _float16(plain(model) if simulates else model, path, wanted, timeout_s)
    if not simulates:
        _check_uniform(wanted)
        config = QuantizeConfig(bits=wanted.bits, activations="float", method="post_training")
        model = quantize_post_training(model, None, config).simulation
    (deployed,) = deploy(model, [(wanted, path)], samples, io=io, timeout_s=timeout_s)
    if isinstance(deployed, ConversionError):
        raise deployed
    if io == "int8" and deployed.written.float_ops:
        told = ", ".join(f"{count} {name}" for name, count in sorted(deployed.written.float_ops.items()))
        warnings.warn(f"{path} is not integer-only: the runtime computes {told} in float.", stacklevel=2)
    return deployed.written.path


@functools.wraps(evaluation.evaluate)
def evaluate(model_or_path: Any, data: Any, *, like: Any = None, **settings: Any) -> Evaluation:  # noqa: D103 - wrapped
    with legacy_faces.entered(model_or_path) as model, legacy_faces.entered(like) as reference:
        return evaluation.evaluate(model, data, like=reference, **settings)


def _float16(model: keras.Model, path: str | os.PathLike[str], wanted: Format, timeout_s: float) -> Path:
    with tempfile.TemporaryDirectory(prefix="bigmodel-float16-") as folder:
        source = export_float(model, Path(folder, "float.tflite"), timeout_s=timeout_s)
        (written,) = write_files(source, [(wanted, path)], timeout_s=timeout_s)
    if isinstance(written, ConversionError):
        raise written
    return written.path


def _wanted_format(simulation: keras.Model, name: str | None) -> Format:
    bits, activations = common_bits(simulation), activations_of(simulation)
    assert activations != "auto"  # a simulation knows
    wanted = format_of(bits, activations, activation_bits_of(simulation)) if name is None else format_named(name)
    if wanted.quantized and not wanted.mixed and (bits == "mixed" or wanted.bits != max(bits, 2)):
        raise ArgumentError(
            "The format does not fit the model.",
            received=f"format={name!r} for a model with weights of {bits} bits",
            expected=f"a format with weights of {bits} bits, 'float16' or 'float32'",
            fix=f"Quantize the float model to {wanted.bits} bits instead.",
        )
    return wanted


def _check_uniform(wanted: Format) -> None:
    if wanted.mixed:
        raise ArgumentError(
            "A plain model has no bits to mix.",
            received=f"format={wanted.name!r} for a model that is not quantized",
            expected="a format with the same bits for all layers",
            fix="Pass the result of bm.quantize(model, data, 'mixed').",
        )


def _calibration(model: keras.Model, data: Any) -> Any:
    if data is None:
        raise ArgumentError(
            "A static file needs data to calibrate on.",
            received="data=None",
            expected="samples in any form that bigmodel.as_data takes",
            fix="Pass data=x_train, or the data the model was quantized with.",
        )
    calibration = as_data(data, model=model, labels=False, validation_fraction=0, test_fraction=0).calibration
    assert calibration is not None
    return keras.tree.map_structure(np.asarray, calibration.arrays()[0])


def _config(value: Any, config: type[Any], number: str) -> Any:
    resolved = resolve(value, config, number)
    if resolved is None or resolved == "auto":
        raise _no_number(value, config, number)
    return resolved


def _no_number(value: Any, config: type[Any], number: str) -> ArgumentTypeError:
    return ArgumentTypeError(
        f"{number} can't be used.",
        received=describe(value),
        expected=f"a number or a {config.__name__}",
        fix=f"Pass {number} as a number; 'auto' and None belong to compress_and_tune.",
    )
