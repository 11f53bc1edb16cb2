"""The public verbs for tf_keras models: into a shell, through the toolkit, and out again."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import keras

from bigmodel.config import PruneConfig, QuantizeConfig, TrainConfig
from bigmodel.data import as_data
from bigmodel.errors import ArgumentError, ConversionError
from bigmodel.export import export_float
from bigmodel.export.formats import Format, Written, check_io, format_named
from bigmodel.export.quantized import write_files
from bigmodel.legacy.compilation import compile_as
from bigmodel.legacy.files import deploy, deploy_weights
from bigmodel.legacy.grids import lies_on_grids
from bigmodel.legacy.loading import is_tf_keras
from bigmodel.legacy.network import check_configs
from bigmodel.legacy.quantization import is_aware
from bigmodel.legacy.shell import network_in, own_classes_known, shell
from bigmodel.legacy.steps import check_orders, prune_model, quantize_aware, round_weights
from bigmodel.run.plan import check_call
from bigmodel.training import prepare


@contextlib.contextmanager
def entered(model: Any) -> Iterator[keras.Model]:
    """Gives a tf_keras model in its shell, with classes of the caller's own known; any other model as it is."""
    model = shell(model) if is_tf_keras(model) else model
    with own_classes_known(model):
        yield model


def keras3_callbacks(model: Any, callbacks: Any) -> Any:
    """The callbacks that have to be Keras 3's: a tf_keras model takes those of either Keras."""
    if not is_tf_keras(model) or not isinstance(callbacks, Sequence):
        return callbacks
    return [callback for callback in callbacks if not is_tf_keras(callback)]


def prune(
    model: Any, data: Any, config: PruneConfig, *, train: TrainConfig, seed: int, verbose: int, callbacks: Sequence[Any]
) -> Any:
    """`bigmodel.prune` of a tf_keras model; a new tf_keras model, compiled like the caller's."""
    check_call(shell(model), seed=seed, verbose=verbose, callbacks=keras3_callbacks(model, callbacks))
    with entered(model) as inside:
        check_configs(model)
        ready = prepare(inside, data, seed=seed, test_fraction=0, batch_size=train.batch_size)
        made = prune_model(
            ready.model, ready.data, config, train=train, seed=seed, verbose=verbose, callbacks=callbacks
        )
    return compile_as(network_in(made), model)


def quantize(
    model: Any,
    data: Any,
    config: QuantizeConfig,
    *,
    train: TrainConfig,
    seed: int,
    verbose: int,
    callbacks: Sequence[Any],
) -> Any:
    """`bigmodel.quantize` of a tf_keras model: the toolkit's training, or for float activations weights on a grid.

    Raises:
        ArgumentError: A tf_keras model can't hold what is ordered: untrained ranges, or which weights stay float.
    """
    weights_alone = config.activations == "float" and config.method != "aware"
    if config.method == "post_training" and not weights_alone:
        raise ArgumentError(
            "A tf_keras model can't hold a post-training quantization.",
            received="method='post_training' for a tf_keras model",
            expected="method 'auto' or 'aware', which both train, or activations 'float'",
            fix="Pass the float model to bm.export_litert(model, path, format='static_int8', data=x).",
        )
    if weights_alone and config.where is not None:
        raise ArgumentError(
            "A tf_keras model can't hold which of its weights stay float.",
            received="`where` with activations='float' for a tf_keras model",
            expected="all layers",
            fix="Pass the config to bm.compress_and_tune(model, data, quantize=config), which writes the file.",
        )
    check_call(shell(model), seed=seed, verbose=verbose, callbacks=keras3_callbacks(model, callbacks))
    with entered(model) as inside:
        check_configs(model)
        ready = prepare(inside, data, seed=seed, test_fraction=0, batch_size=train.batch_size)
        if weights_alone:
            check_orders(inside, config)
            made = round_weights(ready.model)
        else:
            made, _ = quantize_aware(
                ready.model, ready.data, config, train=train, seed=seed, verbose=verbose, callbacks=callbacks
            )
    return compile_as(network_in(made), model)


def export_litert(
    model: Any, path: str | os.PathLike[str], *, format: str | None, data: Any, io: str, timeout_s: float
) -> Path:
    """`bigmodel.export_litert` of a tf_keras model: a float one, or one from `quantize`."""
    with entered(model) as inside:
        trained = is_aware(model)
        wanted = format_named(format or _simulated(model))
        check_io(io, wanted)
        if not wanted.quantized and not trained:
            return _float_file(inside, Path(path), wanted, timeout_s)
        if wanted.name == "weight_only_int8" and not trained:
            (written,) = deploy_weights(round_weights(inside), [(wanted, path)], timeout_s=timeout_s)
            return _path_of(written)
        samples = None if trained or wanted.activations != "static" else _calibration(inside, data)
        (written,) = deploy(inside, [(wanted, path)], samples, io=io, timeout_s=timeout_s)
    return _path_of(written)


def _simulated(network: Any) -> str:
    """The format whose file computes as the network does."""
    if is_aware(network):
        return "static_int8"
    return "weight_only_int8" if lies_on_grids(network) else "float32"


def _path_of(written: Written | ConversionError) -> Path:
    if isinstance(written, ConversionError):
        raise written
    return written.path


def _float_file(model: keras.Model, path: Path, wanted: Format, timeout_s: float) -> Path:
    exported = export_float(model, path, timeout_s=timeout_s)
    if wanted.name == "float32":
        return exported
    (written,) = write_files(exported, [(wanted, path)], timeout_s=timeout_s)
    if isinstance(written, ConversionError):
        exported.unlink()
        raise written
    return written.path


def _calibration(model: keras.Model, data: Any) -> Any:
    if data is None:
        raise ArgumentError(
            "A static file needs data to calibrate on.",
            received="data=None",
            expected="samples in any form that bigmodel.as_data takes",
            fix="Pass data=x_train.",
        )
    calibration = as_data(data, model=model, labels=False, validation_fraction=0, test_fraction=0).calibration
    assert calibration is not None
    return calibration.arrays()[0]
