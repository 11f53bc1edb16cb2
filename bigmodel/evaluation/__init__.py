"""The same metrics for a Keras model and for a .tflite file; agreement, latency, size and memory of files.

Names load on first use, so that measuring files needs no Keras.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

_HOMES = {
    "Evaluation": "evaluation",
    "FileFacts": "file",
    "Latency": "latency",
    "Metric": "metric",
    "OpFacts": "file",
    "agreement": "comparison",
    "drop_interval": "comparison",
    "evaluate_file": "evaluation",
    "evaluate_model": "evaluation",
    "inspect_file": "file",
    "measure_latency": "latency",
    "output_difference": "comparison",
    "primary_metric": "metric",
}

__all__ = [
    "Evaluation",
    "FileFacts",
    "Latency",
    "Metric",
    "OpFacts",
    "agreement",
    "drop_interval",
    "evaluate",
    "evaluate_file",
    "evaluate_model",
    "inspect_file",
    "measure_latency",
    "output_difference",
    "primary_metric",
]

if TYPE_CHECKING:
    from bigmodel.evaluation.comparison import agreement, drop_interval, output_difference
    from bigmodel.evaluation.evaluation import Evaluation, evaluate_file, evaluate_model
    from bigmodel.evaluation.file import FileFacts, OpFacts, inspect_file
    from bigmodel.evaluation.latency import Latency, measure_latency
    from bigmodel.evaluation.metric import Metric, primary_metric


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def evaluate(
    model_or_path: Any, data: Any, *, like: Any = None, threads: int = 1, batch_size: int = 128, seed: int = 0
) -> Evaluation:
    """Evaluates a Keras model or a .tflite file, with the same Keras metrics for both. Nothing is changed.

    Args:
        model_or_path: A compiled Keras model, or the path of a .tflite file.
        data: The samples with labels: a `Split`, a `Data` (its test split, else validation, else train), or any form
            that `bigmodel.as_data` takes, of which all samples count.
        like: The compiled model whose loss and metrics count; needed for a file.
        threads: CPU threads of the runtime, for a file.
        batch_size: Samples per prediction.
        seed: Seed of the reading order where data comes as a stream that shuffles.

    Returns:
        The metric, the predictions and the accuracy of each class.

    Raises:
        ArgumentError: `like` is missing for a file, or the path does not exist.
        DataError: The data is malformed or has no labels.
        ModelError: The model that counts is not compiled.

    Example:
        `bm.evaluate("model.tflite", (x_test, y_test), like=model).metrics`
    """
    from bigmodel.errors import ArgumentError, describe
    from bigmodel.evaluation.evaluation import evaluate_file, evaluate_model

    is_path = isinstance(model_or_path, (str, os.PathLike))
    if is_path and like is None:
        raise ArgumentError(
            "A file has no metrics of its own.",
            received=f"{describe(model_or_path)} without like=",
            expected="the compiled Keras model whose loss and metrics count",
            fix="Pass evaluate(path, data, like=model).",
        )
    split = _split_of(data, model=like if is_path else model_or_path, seed=seed, batch_size=batch_size)
    if is_path:
        return evaluate_file(model_or_path, split, like=like, threads=threads, batch_size=batch_size)
    return evaluate_model(model_or_path, split, batch_size=batch_size, like=like)


def _split_of(data: Any, *, model: Any, seed: int, batch_size: int) -> Any:
    from bigmodel.data import Data, Split, as_data

    if isinstance(data, Split):
        return data
    if not isinstance(data, Data):
        data = Data(train=data)
    held_out = data.test if data.test is not None else data.validation if data.validation is not None else data.train
    if isinstance(held_out, Split):
        return held_out
    whole = as_data(
        Data(train=held_out), model=model, seed=seed, validation_fraction=0, test_fraction=0, batch_size=batch_size
    )
    return whole.train
