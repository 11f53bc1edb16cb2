"""What a data set is made of: `(x,)`, `(x, y)` or `(x, y, sample_weight)`, each an array or a structure of arrays.

Lists of inputs become tuples, as Keras does itself: tf.data reads a list as one tensor.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np

from bigmodel.errors import DataError, describe

PARTS = ("x", "y", "sample_weight")


def to_elements(parts: Sequence[Any], name: str, *, single: bool = False) -> tuple[Any, ...]:
    """Turns `(x[, y[, sample_weight]])` of any array-likes into a tuple of NumPy structures.

    Args:
        parts: One to three array-likes or structures of them; trailing `None` are dropped.
        name: The split's name, for errors.
        single: The parts are one sample of a stream, whose leaves may be scalars.

    Returns:
        A tuple of the parts that are there.

    Raises:
        DataError: There are more than three parts, labels are missing beside weights, or a part is no array.
    """
    parts = list(parts)
    while parts and parts[-1] is None:
        parts.pop()
    if not 1 <= len(parts) <= len(PARTS) or any(part is None for part in parts):
        raise DataError(
            f"The {name} data is not made of x, y and sample_weight.",
            received=f"{len(parts)} parts: {', '.join('None' if p is None else type(p).__name__ for p in parts)}",
            expected="(x,), (x, y) or (x, y, sample_weight)",
            fix="Pass several inputs as one structure: ([x1, x2], y) or ({'a': x1, 'b': x2}, y).",
        )
    return tuple(_to_structure(part, f"{name} {PARTS[i]}", single) for i, part in enumerate(parts))


def _to_structure(value: Any, label: str, single: bool) -> Any:
    if isinstance(value, dict):
        return {key: _to_structure(item, f"{label}[{key!r}]", single) for key, item in value.items()}
    if isinstance(value, (list, tuple)) and value and all(_is_input(item, value) for item in value):
        return tuple(_to_structure(item, f"{label}[{i}]", single) for i, item in enumerate(value))
    return _to_array(value, label, single)


def _is_input(item: Any, parent: list | tuple) -> bool:
    # A list of arrays is several inputs, a list of numbers (or of lists of numbers) is one array: Keras' own rule.
    # In a tuple, which nobody writes for an array, lists are inputs too.
    if isinstance(item, (dict, tuple)) or getattr(item, "ndim", False):
        return True
    return isinstance(parent, tuple) and isinstance(item, list)


def _to_array(value: Any, label: str, single: bool) -> np.ndarray:
    try:
        # pandas and polars say themselves how they become NumPy; neither is imported for it.
        array = np.asarray(value.to_numpy() if hasattr(value, "to_numpy") else value)
    except (ValueError, TypeError) as error:
        raise _no_array(label, value) from error
    if array.dtype.kind not in "biufUS" and array.dtype.name != "bfloat16":
        raise _no_array(label, value)
    if not array.ndim and not single:
        raise DataError(
            f"{label} is a single value.",
            received=describe(value),
            expected="an array whose first axis counts the samples",
            fix="Pass an array of shape (samples, ...).",
        )
    return array


def _no_array(label: str, value: Any) -> DataError:
    return DataError(
        f"{label} can't be read as an array of numbers.",
        received=describe(value),
        expected="numbers of one shape for all samples",
        fix="Pad sequences of different length (keras.utils.pad_sequences, or .to_tensor() of a ragged tensor), "
        "densify sparse matrices with .toarray(), and encode text, dates and missing values as numbers.",
    )


def named_leaves(elements: tuple[Any, ...]) -> Iterator[tuple[str, Any]]:
    """Yields every array with its name, such as `x`, `x['image']` or `y[1]`."""
    for part, structure in zip(PARTS, elements, strict=False):
        for path, leaf in keras.tree.flatten_with_path(structure):
            yield part + "".join(f"[{key!r}]" for key in path), leaf


def floatx(leaf: Any) -> str | None:
    """Returns the dtype that Keras gives an array: doubles become `keras.config.floatx()`, the rest stays (`None`)."""
    return keras.config.floatx() if leaf.dtype == np.float64 else None


def in_batches(x: Any, size: int) -> Iterator[Any]:
    """Yields an array, or a structure of arrays, in batches of `size` samples and a last one of what is left.

    Example:
        >>> [batch["a"].tolist() for batch in in_batches({"a": np.array([1, 2, 3])}, 2)]
        [[1, 2], [3]]
    """
    arrays = keras.tree.map_structure(np.asarray, x)
    for start in range(0, len(keras.tree.flatten(arrays)[0]), size):
        yield keras.tree.map_structure(lambda leaf, at=start: leaf[at : at + size], arrays)


def join(batches: Sequence[tuple[Any, ...]]) -> tuple[tuple[Any, ...], bool]:
    """Concatenates batches of arrays along the samples.

    Batches whose other axes differ, as `padded_batch` makes them, are padded with zeros at the end.

    Returns:
        The elements, and whether something was padded.
    """
    padded = False

    def concatenate(*leaves: np.ndarray) -> np.ndarray:
        nonlocal padded
        longest = np.max([leaf.shape[1:] for leaf in leaves], axis=0).astype(int)
        if all(leaf.shape[1:] == tuple(longest) for leaf in leaves):
            return np.concatenate(leaves)
        padded = True
        fill = [[(0, 0), *((0, int(m - s)) for m, s in zip(longest, leaf.shape[1:], strict=True))] for leaf in leaves]
        return np.concatenate([np.pad(leaf, width) for leaf, width in zip(leaves, fill, strict=True)])

    return keras.tree.map_structure(concatenate, *batches), padded
