"""The embedded data set: real handwritten digits, small enough to ship in the wheel."""

from __future__ import annotations

from importlib import resources

import numpy as np

_TEST_EVERY = 4


def load_digits() -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Loads the Optical Recognition of Handwritten Digits data set, without a download.

    The split is fixed and stratified: of each class, in the order of the original file, every fourth image is a test
    image. Both parts keep the order of the file. Fresh arrays are returned at each call.

    Returns:
        `(x_train, y_train), (x_test, y_test)`. Images are uint8 of shape (n, 8, 8) with values 0 to 16 (not 255),
        labels are int64 of shape (n,) from 0 to 9. There are 1352 images to train and 445 to test with.

    References:
        E. Alpaydin and C. Kaynak (1998). Optical Recognition of Handwritten Digits. UCI Machine Learning Repository,
        https://doi.org/10.24432/C50P49, licensed under CC BY 4.0; `digits.txt` in this package says more.

    Example:
        >>> (x_train, y_train), (x_test, y_test) = load_digits()
        >>> x_train.shape, x_train.dtype, int(x_train.max()), y_test.shape
        ((1352, 8, 8), dtype('uint8'), 16, (445,))
    """
    with resources.files(__package__).joinpath("digits.npz").open("rb") as file, np.load(file) as arrays:
        images, labels = arrays["x"], arrays["y"].astype("int64")
    test = np.zeros(len(labels), dtype=bool)
    for digit in range(10):
        test[np.flatnonzero(labels == digit)[_TEST_EVERY - 1 :: _TEST_EVERY]] = True
    return (images[~test], labels[~test]), (images[test], labels[test])
