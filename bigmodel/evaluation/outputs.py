"""Predictions and labels as arrays: what kind of answer they are, who is right, how far two of them are apart.

Every function takes flat lists with one array per output of the model, first axis the sample. Plain NumPy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from bigmodel.errors import DataError

Kind = Literal["classes", "binary", "logits", "values"]
"""What an output answers: one of several classes, yes or no as a probability, yes or no as a logit, or values."""


def kind_of(output: np.ndarray, label: np.ndarray | None) -> Kind:
    """Returns what an output answers, from its shape and its labels.

    Labels that are whole numbers and lack the output's last axis (or have size 1 there), or are shares of the classes
    (one-hot ones are), mean classes.
    Labels of 0 and 1 in the output's shape mean a yes or no for every unit: a probability where all outputs lie in
    0..1, else a logit. All others are values.

    Args:
        output: Predictions, shape (samples, ..., units).
        label: Labels of the same samples, or `None`.

    Example:
        >>> kind_of(np.ones((3, 10)), np.array([1, 2, 0])), kind_of(np.ones((3, 10)), np.ones((3, 10)) / 3)
        ('classes', 'values')
    """
    if label is None or output.ndim < 1:
        return "values"
    label = _like_output(output, label)
    units = output.shape[-1] if output.ndim > 1 else 1
    if units > 1 and label.shape[: output.ndim - 1] == output.shape[:-1] and label.shape != output.shape:
        return "classes" if bool(np.all(label == np.floor(label))) else "values"
    if label.shape != output.shape:
        return "values"
    if units > 1 and bool(np.all(label >= 0)) and np.allclose(label.sum(axis=-1, dtype=np.float64), 1, atol=1e-3):
        return "classes"
    if not bool(np.all((label == 0) | (label == 1))):
        return "values"
    return "binary" if bool(np.all((output >= -1e-6) & (output <= 1 + 1e-6))) else "logits"


def decisions(output: np.ndarray, kind: Kind) -> np.ndarray:
    """Returns what an output decides: the index of the largest unit, or whether it lies on the side of "yes"."""
    if kind == "classes":
        return output.argmax(axis=-1)
    return output > (0.5 if kind == "binary" else 0.0)


def class_accuracy(output: np.ndarray, label: np.ndarray | None, kind: Kind) -> dict[str, float] | None:
    """Returns the accuracy of each class that occurs in the labels, by its index; `None` for values."""
    if kind == "values" or label is None:
        return None
    label = _like_output(output, label)
    decided = decisions(output, kind)
    if kind == "classes":
        truth = label.argmax(axis=-1) if label.shape == output.shape else label.reshape(decided.shape)
    else:
        if output.ndim > 1 and output.shape[-1] > 1:  # several independent labels: one accuracy for each
            right = (decided == (label > 0.5)).reshape(-1, output.shape[-1])
            return {str(i): float(share) for i, share in enumerate(right.mean(axis=0))}
        truth = (label > 0.5).astype(int)
    classes, index = np.unique(truth.astype(np.int64), return_inverse=True)
    right = np.bincount(index.ravel(), weights=(decided == truth).ravel())
    total = np.bincount(index.ravel())
    return {str(c): float(r / t) for c, r, t in zip(classes, right, total, strict=True)}


def output_agreement(reference: np.ndarray, other: np.ndarray, kind: Kind) -> float:
    """Returns how far two predictions of the same samples agree, 0..1.

    Classes: the share of equal top-1 decisions (of pixels or time steps where a sample has several). Yes or no: the
    share on the same side. Values: `1 - mean|reference - other| / std(reference)`, clipped to 0..1, where a reference
    that never changes counts its own magnitude.
    """
    if kind != "values":
        return float(np.mean(decisions(reference, kind) == decisions(other, kind)))
    difference = float(np.mean(np.abs(reference.astype(np.float64) - other)))
    spread = float(np.std(reference, dtype=np.float64)) or float(np.mean(np.abs(reference)))
    if difference == 0:
        return 1.0
    return float(np.clip(1 - difference / spread, 0, 1)) if spread and np.isfinite(difference) else 0.0


def per_sample(values: np.ndarray) -> np.ndarray:
    """Returns the mean over all axes but the first, as float64 of shape (samples,)."""
    return np.asarray(values, np.float64).reshape(len(values), -1).mean(axis=1)


def join(batches: Sequence[np.ndarray], what: str) -> np.ndarray:
    """Returns batches as one array.

    Raises:
        DataError: Their samples differ in shape.
    """
    shapes = {batch.shape[1:] for batch in batches}
    if len(shapes) > 1:
        raise DataError(
            f"The {what} differ in shape from batch to batch.",
            received=f"shapes {sorted(shapes)[:3]}",
            expected="one shape for all samples",
            fix="Pad or crop the samples of the evaluated split to one size.",
        )
    return np.concatenate(batches)


def _like_output(output: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Adds or drops a last axis of size 1, as Keras does between labels and predictions."""
    if label.ndim == output.ndim - 1 and output.shape[-1] == 1:
        return label[..., None]
    if label.ndim == output.ndim + 1 and label.shape[-1] == 1:
        return label[..., 0]
    return label
