from __future__ import annotations

import itertools

import numpy as np
import pytest

from bigmodel.evaluation.arena import Lifetime, plan_arena


@pytest.mark.parametrize("seed", range(20))
def test_never_less_than_what_lives_at_once_and_never_more_than_all(seed: int) -> None:
    rng = np.random.default_rng(seed)
    starts = rng.integers(0, 10, 12)
    tensors = [
        Lifetime(int(size) * 64, int(first), int(first + length))
        for size, first, length in zip(rng.integers(1, 20, 12), starts, rng.integers(0, 5, 12), strict=True)
    ]
    at_once = max(sum(t.size_bytes for t in tensors if t.first <= step <= t.last) for step in range(16))
    assert at_once <= plan_arena(tensors) <= sum(t.size_bytes for t in tensors)


def test_order_does_not_matter_and_sizes_are_aligned() -> None:
    tensors = [Lifetime(100, 0, 1), Lifetime(30, 1, 2), Lifetime(7, 2, 3)]
    assert {plan_arena(order) for order in itertools.permutations(tensors)} == {128 + 64}
    assert plan_arena([]) == 0
