"""The embedded data set."""

from importlib import resources

import numpy as np

from bigmodel.data import load_digits


def test_shapes_values_and_classes():
    (x_train, y_train), (x_test, y_test) = load_digits()
    for x, y in ((x_train, y_train), (x_test, y_test)):
        assert x.shape == (len(y), 8, 8) and x.dtype == np.uint8
        assert (x.min(), x.max()) == (0, 16)
        assert set(y) == set(range(10))
    # The counts per class that UCI publishes for its 1797 test images; a fourth of each, rounded down, is test here.
    published = [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert np.bincount(np.concatenate([y_train, y_test])).tolist() == published
    assert np.bincount(y_test).tolist() == [count // 4 for count in published]


def test_no_image_is_in_both_parts():
    (x_train, _), (x_test, _) = load_digits()
    assert not {image.tobytes() for image in x_train} & {image.tobytes() for image in x_test}


def test_calls_return_arrays_of_their_own():
    load_digits()[0][0][:] = 99
    assert load_digits()[0][0].max() == 16


def test_it_is_small_and_says_its_licence():
    package = resources.files("bigmodel.data")
    assert len(package.joinpath("digits.npz").read_bytes()) < 200_000
    text = package.joinpath("digits.txt").read_text()
    assert "CC BY 4.0" in text and "archive.ics.uci.edu" in text
