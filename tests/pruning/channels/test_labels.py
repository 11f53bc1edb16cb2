"""The channel algebra, on arrays alone: what a reshape, a join or an addition does to labels."""

import numpy as np
import pytest

from bigmodel.pruning.channels.labels import Channels, Labelled, broadcast, concatenate, reshape


def carried(channels, shape, axis):
    axes = [None] * len(shape)
    axes[axis] = channels.new(shape[axis])
    return Labelled(shape, tuple(axes))


def equivalence(channels, axis):
    """The axis as a picture: equal numbers are tied."""
    return np.unique(channels.resolve(axis), return_inverse=True)[1].tolist()


def element_labels(x):
    """The label of every element of a tensor of which one axis carries labels."""
    (axis,) = [i for i, labels in enumerate(x.axes) if labels is not None]
    view = [1] * x.rank
    view[axis] = -1
    return np.broadcast_to(x.axes[axis].reshape(view), x.shape)


@pytest.mark.parametrize(
    ("old", "axis", "new"),
    [
        ((2, 3, 4), 2, (24,)),
        ((2, 3, 4), 1, (24,)),
        ((2, 3, 4), 2, (6, 4)),
        ((5, 6), 0, (5, 1, 2, 3)),
        ((4, 6), 1, (1, 4, 6)),
    ],
)
def test_merging_keeps_the_label_of_every_element(old, axis, new):
    channels = Channels()
    x = carried(channels, old, axis)
    y = reshape(channels, x, new, "")
    np.testing.assert_array_equal(element_labels(y), element_labels(x).reshape(new))


@pytest.mark.parametrize(("new", "carrier"), [((3, 8), 1), ((8, 3), 0), ((2, 3, 4), 2)])
def test_splitting_ties_each_element_to_the_label_of_its_position_on_the_longest_axis(new, carrier):
    channels = Channels()
    x = carried(channels, (24,), 0)
    y = reshape(channels, x, new, "")
    assert [axis is not None for axis in y.axes] == [i == carrier for i in range(len(new))]
    expected = np.indices(new)[carrier].ravel().tolist()
    assert equivalence(channels, x[0]) == expected
    np.testing.assert_array_equal(channels.resolve(element_labels(y).ravel()), channels.resolve(x[0]))


def test_unknown_sizes_keep_the_last_axis_and_pin_what_they_hide():
    channels = Channels()
    x = Labelled((None, 6, 4), (None, channels.new(6), channels.new(4)))
    y = reshape(channels, x, (None, 4), "hidden")
    np.testing.assert_array_equal(y[1], x[2])
    assert {channels.reason(label) for label in x[1]} == {"hidden"}
    assert {channels.reason(label) for label in x[2]} == {None}


def test_two_labelled_axes_that_merge_are_pinned():
    channels = Channels()
    x = Labelled((3, 4), (channels.new(3), channels.new(4)))
    assert reshape(channels, x, (12,), "both").axes == (None,)
    assert all(channels.reason(label) == "both" for axis in x.axes for label in axis)


def test_adding_ties_equal_axes_and_stretches_axes_of_size_1():
    channels = Channels()
    x, scale = carried(channels, (None, 8, 8, 3), 3), carried(channels, (None, 1, 1, 3), 3)
    y = broadcast(channels, [x, scale], "met")
    assert y.shape == (None, 8, 8, 3)
    np.testing.assert_array_equal(channels.resolve(x[3]), channels.resolve(scale[3]))
    assert channels.reason(x[3][0]) is None


def test_adding_something_without_labels_pins():
    channels = Channels()
    x = carried(channels, (None, 3), 1)
    broadcast(channels, [x, Labelled.fixed((None, 3))], "met")
    assert [channels.reason(label) for label in x[1]] == ["met"] * 3


def test_a_label_does_not_stretch_over_many_positions():
    channels = Channels()
    one, many = carried(channels, (None, 1), 1), carried(channels, (None, 3), 1)
    y = broadcast(channels, [one, many], "stretched")
    np.testing.assert_array_equal(y[1], many[1])
    assert channels.reason(one[1][0]) == "stretched" and channels.reason(many[1][0]) is None


def test_joining_puts_labels_side_by_side_and_pins_only_the_part_without():
    channels = Channels()
    x, y = carried(channels, (None, 2), 1), carried(channels, (None, 3), 1)
    joined = concatenate(channels, [x, Labelled.fixed((None, 2)), y], -1, "beside")
    assert joined.shape == (None, 7)
    np.testing.assert_array_equal(joined[1][[0, 1, 4, 5, 6]], np.concatenate([x[1], y[1]]))
    assert [channels.reason(label) for label in joined[1]] == [None, None, "beside", "beside", None, None, None]


def test_reasons_survive_later_ties():
    channels = Channels()
    a, b, c = channels.new(2), channels.new(2), channels.new(2)
    channels.pin(b, "first")
    channels.tie(a, b, "")
    channels.pin(a, "second")
    channels.tie(c, a, "")
    assert [channels.reason(label) for label in c] == ["first", "first"]
