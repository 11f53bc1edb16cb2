"""Training that does not fit the device's memory goes on in smaller parts, with the same batch for each update."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import keras
import tensorflow as tf
from tensorflow.python.framework import ops as tf_ops

from bigmodel.errors import ModelError


@contextlib.contextmanager
def forgotten_gradients() -> Iterator[None]:
    """Makes TensorFlow forget the custom gradients that are traced within, once the models made there are dropped.

    It registers each for good, and with it the graph of the training that it is part of: some megabytes a model. The
    registry has no public way out; where it is not found, nothing is forgotten.
    """
    registry = getattr(getattr(tf_ops, "gradient_registry", None), "_registry", {})
    before = set(registry)
    try:
        yield
    finally:
        for name in [name for name in registry if name not in before and name.startswith("CustomGradient-")]:
            del registry[name]


def is_out_of_memory(error: BaseException) -> bool:
    """Says whether an error of TensorFlow or XLA means that the device's memory was full."""
    return isinstance(error, tf.errors.ResourceExhaustedError) or "RESOURCE_EXHAUSTED" in str(error)


def share_gpus() -> tuple[str, ...]:
    """Lets TensorFlow take the memory of GPUs as it needs it, where that can still be set.

    Returns:
        What could not be set, for the report: a GPU that is in use already keeps what it took.
    """
    notes = []
    for gpu in tf.config.list_physical_devices("GPU"):
        try:
            tf.config.experimental.set_memory_growth(gpu, True)
        except RuntimeError:
            notes.append(f"{gpu.name} was in use before: it keeps all the memory that it took")
    return tuple(notes)


def in_parts(batches: tf.data.Dataset, parts: int, samples: int | None) -> tf.data.Dataset:
    """Returns the same samples in the same order, in batches of a part of the size.

    Args:
        batches: Batches whose first is the largest.
        parts: How many parts a whole batch makes.
        samples: Samples of all batches together; `None`: unknown.

    Raises:
        ModelError: A batch has fewer samples than parts.
    """
    if parts == 1:
        return batches
    size = next(len(leaf) for batch in batches.take(1) for leaf in keras.tree.flatten(batch))
    if size < parts:
        raise ModelError(
            "The model does not fit the memory of the device.",
            received=f"out of memory in training with {'one sample' if size == 1 else f'{size} samples'} a batch",
            expected="memory for one sample at least",
            fix="Use a smaller model or smaller inputs, precision='mixed_float16', or a device with more memory.",
        )
    micro = -(-size // parts)
    split = batches.rebatch(micro)
    # Keras counts the steps of an epoch by this, and the schedule of the learning rate with it.
    return split if samples is None else split.apply(tf.data.experimental.assert_cardinality(-(-samples // micro)))
