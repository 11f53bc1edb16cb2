"""Which weight of a float file lies on which grid, and how codes lie in a buffer: plain functions of arrays."""

import types

import numpy as np
import pytest

from bigmodel.export.placement import channel_scale, channels, stored_codes
from bigmodel.export.writer import _same

RNG = np.random.default_rng(0)


def grid(count=6, values=20, limit=127):
    codes = RNG.integers(-limit, limit + 1, (count, values)).astype(np.int8)
    return codes, RNG.uniform(0.001, 0.1, count).astype(np.float32)


@pytest.mark.parametrize("limit", [127, 7])
def test_the_scale_is_found_from_values_and_codes(limit):
    codes, scale = grid(limit=limit)
    np.testing.assert_allclose(channel_scale(codes * scale[:, None], codes), scale, rtol=1e-6)


def test_a_channel_that_was_multiplied_by_any_factor_keeps_its_codes():
    codes, scale = grid()
    factor = np.float32([-3.0, 0.1, 1.0, -0.5, 7.0, 2.0])
    folded = (codes * scale[:, None]) * factor[:, None]
    np.testing.assert_allclose(channel_scale(folded, codes), scale * np.abs(factor), rtol=1e-6)


def test_a_grid_whose_top_code_is_unused_is_not_stretched():
    codes, scale = grid()
    codes = np.clip(codes, -60, 60)
    np.testing.assert_allclose(channel_scale(codes * scale[:, None], codes), scale, rtol=1e-6)


def test_zero_channels_lie_on_any_grid():
    codes, scale = grid()
    codes[2] = 0
    found = channel_scale(codes * scale[:, None], codes)
    assert found[2] > 0
    np.testing.assert_allclose(np.delete(found, 2), np.delete(scale, 2), rtol=1e-6)


@pytest.mark.parametrize("change", ["another value", "rows scaled", "another shape", "nonzero for zero"])
def test_other_weights_are_not_taken_for_it(change):
    codes, scale = grid()
    codes[1] = 0
    values = codes * scale[:, None]
    if change == "another value":
        values[3, 4] += scale[3]
    elif change == "rows scaled":
        values = values * RNG.uniform(0.9, 1.1, values.shape[1]).astype(np.float32)
    elif change == "another shape":
        values = values.T
    else:
        values[1, 0] = 1e-3
    assert channel_scale(values, codes) is None


def test_channels_are_taken_from_their_axis():
    values = np.arange(24).reshape(1, 2, 3, 4)
    np.testing.assert_array_equal(channels(values, 3)[1], values[..., 1].ravel())
    np.testing.assert_array_equal(channels(values, None), values.reshape(1, -1))


def test_values_are_the_same_whatever_their_shape_and_rounding():
    values = RNG.normal(size=(4, 5)).astype(np.float32)
    assert _same(values.reshape(4, 1, 5), values * (1 + 1e-6))
    assert not _same(values, values + 1e-2) and not _same(values[:2], values)
    assert not _same(np.full_like(values, np.nan), values)


@pytest.mark.parametrize("shape", [(3, 5), (2, 4)])
def test_two_codes_of_four_bits_share_a_byte_the_first_in_the_low_half(shape):
    codes = RNG.integers(-7, 8, shape)
    flat = [*codes.ravel().tolist(), *([0] if codes.size % 2 else [])]
    raw = bytes((low & 15) | ((high & 15) << 4) for low, high in zip(flat[::2], flat[1::2], strict=True))
    model = types.SimpleNamespace(buffers=[types.SimpleNamespace(data=np.frombuffer(raw, np.uint8))])
    tensor = types.SimpleNamespace(buffer=0, shape=list(shape))
    np.testing.assert_array_equal(stored_codes(model, tensor, 4), codes)


def test_eight_bits_are_a_byte():
    codes = RNG.integers(-127, 128, (3, 5)).astype(np.int8)
    model = types.SimpleNamespace(buffers=[types.SimpleNamespace(data=np.frombuffer(codes.tobytes(), np.uint8))])
    np.testing.assert_array_equal(stored_codes(model, types.SimpleNamespace(buffer=0, shape=[3, 5]), 8), codes)
