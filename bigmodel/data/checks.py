"""Checks of the samples themselves, before anything runs and without a model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from bigmodel.data.elements import named_leaves
from bigmodel.errors import DataError


def check_lengths(elements: tuple[Any, ...], name: str) -> None:
    """Checks that all arrays hold the same number of samples, and at least one.

    Raises:
        DataError: They do not.
    """
    lengths = {label: len(leaf) for label, leaf in named_leaves(elements)}
    if len(set(lengths.values())) > 1:
        raise DataError(
            f"The arrays of the {name} data differ in length.",
            received=", ".join(f"{label}: {length}" for label, length in lengths.items()),
            expected="one label, and one weight, for every sample",
            fix="Align the arrays. A list of arrays is several inputs (np.stack makes it one array); two pairs of "
            "arrays are bm.Data(train=(x, y), test=(x, y)).",
        )
    if not lengths or not max(lengths.values()):
        raise DataError(
            f"The {name} data is empty.",
            received=f"{len(lengths)} arrays without samples",
            expected="at least one sample",
            fix="Check the filter or slice that made it.",
        )


def check_values(head: Iterable[tuple[Any, ...]], name: str) -> None:
    """Checks batches for their lengths, NaN and infinity.

    Args:
        head: NumPy batches.
        name: The split's name.

    Raises:
        DataError: There is no batch, or one is malformed.
    """
    number = -1
    for number, elements in enumerate(head):
        check_lengths(elements, name)
        for label, leaf in named_leaves(elements):
            if leaf.dtype.kind not in "biuSUO" and not np.isfinite(leaf).all():
                wrong = ~np.isfinite(leaf.reshape(len(leaf), -1)).all(axis=1)
                raise DataError(
                    f"{name} {label} holds NaN or infinity.",
                    received=f"{wrong.sum()} of {len(leaf)} samples checked in one go, first at {wrong.argmax()} "
                    f"of block {number}",
                    expected="finite numbers",
                    fix="Drop or impute these samples: keep = np.isfinite(x.reshape(len(x), -1)).all(1).",
                )
    if number < 0:
        raise DataError(
            f"The {name} data is empty.",
            received="no batch",
            expected="at least one sample",
            fix="Check the filter or slice that made it.",
        )
