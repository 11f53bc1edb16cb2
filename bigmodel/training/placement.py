"""Where and in which precision a model trains."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from bigmodel.training.cloning import clone_uncompiled, copy_variables


def resolve_precision(precision: str) -> str:
    """Resolves "auto": the mixed policy that all GPUs have fast units for, else float32.

    Example:
        >>> resolve_precision("mixed_bfloat16")
        'mixed_bfloat16'
    """
    if precision != "auto":
        return precision
    gpus = tf.config.list_physical_devices("GPU")
    capabilities = [tf.config.experimental.get_device_details(gpu).get("compute_capability", (0, 0)) for gpu in gpus]
    if not capabilities or min(capabilities) < (7, 0):
        return "float32"
    return "mixed_bfloat16" if min(capabilities) >= (8, 0) else "mixed_float16"


@contextlib.contextmanager
def placed(model: keras.Model, *, precision: str, strategy: Any) -> Iterator[keras.Model]:
    """Gives the model to train: itself, or its replica in the scope of a strategy, in the precision asked for.

    When the context ends without an error, the model has the trained weights and its own precision.

    Args:
        model: The model; its variables stay float32, and its output layers compute in float32 throughout.
        precision: A Keras dtype policy; layers that are not plain float32 keep their own.
        strategy: A `tf.distribute` strategy, or `None`.
    """
    if strategy is None:
        with _precision(model, precision):
            yield model
        return
    with strategy.scope():
        replica = clone_uncompiled(model)
    with _precision(replica, precision):
        yield replica
    copy_variables(replica, model)


@contextlib.contextmanager
def _precision(model: keras.Model, precision: str) -> Iterator[None]:
    layers = [layer for layer in model._flatten_layers() if layer.dtype_policy.name == "float32"]
    kept = {id(layer) for layer in _output_layers(model)} if precision != "float32" else set()
    changed = [layer for layer in layers if precision != "float32" and id(layer) not in kept]
    before = [layer.dtype_policy for layer in changed]
    for layer in changed:
        layer.dtype_policy = precision
    try:
        yield
    finally:
        for layer, policy in zip(changed, before, strict=True):
            layer.dtype_policy = policy


def fed(batches: tf.data.Dataset, strategy: Any) -> tf.data.Dataset:
    """Returns the same batches, on a machine with one GPU copied to it while the step before them runs.

    Args:
        batches: The batches.
        strategy: The `tf.distribute` strategy that shares them among its devices, or `None`.
    """
    gpus = tf.config.list_logical_devices("GPU")
    if strategy is None and len(gpus) == 1:
        return batches.apply(tf.data.experimental.prefetch_to_device(gpus[0].name))
    return batches


def _output_layers(model: keras.Model) -> Iterator[keras.Layer]:
    for output in keras.tree.flatten(getattr(model, "outputs", None) or []):
        operation = output._keras_history.operation
        if isinstance(operation, keras.Model):
            yield from _output_layers(operation)
        elif isinstance(operation, keras.Layer):
            yield from operation._flatten_layers()
