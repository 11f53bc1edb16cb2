from __future__ import annotations

import numpy as np
import pytest

from bigmodel.errors import DataError
from bigmodel.evaluation.outputs import class_accuracy, join, kind_of, output_agreement

SOFTMAX = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4], [0.9, 0.05, 0.05]])


@pytest.mark.parametrize(
    ("output", "label", "kind"),
    [
        (SOFTMAX, np.array([0, 1, 1, 2]), "classes"),
        (SOFTMAX, np.array([[0], [1], [1], [2]]), "classes"),
        (SOFTMAX, np.eye(3)[[0, 1, 1, 2]], "classes"),
        (SOFTMAX, np.array([[1, 1, 0]] * 4), "binary"),
        (SOFTMAX[:, :1], np.array([1, 0, 0, 1]), "binary"),
        (SOFTMAX[:, :1] * 9 - 3, np.array([1, 0, 0, 1]), "logits"),
        (SOFTMAX, SOFTMAX[::-1], "classes"),
        (SOFTMAX, SOFTMAX * 0.9, "values"),
        (SOFTMAX[:, :1], np.array([1.5, 0, 2, 1]), "values"),
        (np.ones((2, 4, 4, 3)), np.zeros((2, 4, 4), int), "classes"),
        (SOFTMAX, None, "values"),
    ],
)
def test_kind(output: np.ndarray, label: np.ndarray | None, kind: str) -> None:
    assert kind_of(output, label) == kind


def test_classes_by_hand() -> None:
    label = np.array([0, 1, 1, 2])
    assert class_accuracy(SOFTMAX, label, "classes") == {"0": 1.0, "1": 0.5, "2": 0.0}
    yes = np.array([1, 0, 1, 1])
    assert class_accuracy(SOFTMAX[:, :1], yes, "binary") == {"0": 1.0, "1": 2 / 3}
    assert class_accuracy(SOFTMAX, SOFTMAX, "values") is None


def test_several_independent_labels_have_one_accuracy_each() -> None:
    label = np.array([[1, 0, 0], [0, 1, 1], [1, 0, 0], [1, 1, 0]])
    assert class_accuracy(SOFTMAX, label, "binary") == {"0": 0.75, "1": 0.75, "2": 0.75}


def test_of_a_picture_every_pixel_counts() -> None:
    output = np.eye(3)[np.array([[[0, 1], [2, 2]]])]
    label = np.array([[[0, 1], [2, 0]]])
    assert class_accuracy(output, label, "classes") == {"0": 0.5, "1": 1.0, "2": 1.0}


def test_agreement_by_hand() -> None:
    other = SOFTMAX.copy()
    other[2] = [0.5, 0.4, 0.1]
    assert output_agreement(SOFTMAX, other, "classes") == 0.75
    assert output_agreement(SOFTMAX[:, :1], 1 - SOFTMAX[:, :1], "binary") == 0.0
    values = np.array([[0.0], [2.0]])
    assert output_agreement(values, values + 0.25, "values") == pytest.approx(1 - 0.25 / 1.0)
    assert output_agreement(values, values + 99, "values") == 0.0
    assert output_agreement(np.zeros((3, 1)), np.zeros((3, 1)), "values") == 1.0
    assert output_agreement(values, values * np.nan, "values") == 0.0


def test_batches_of_different_shape_are_refused() -> None:
    with pytest.raises(DataError, match="from batch to batch"):
        join([np.zeros((2, 5, 3)), np.zeros((2, 6, 3))], "predictions")
