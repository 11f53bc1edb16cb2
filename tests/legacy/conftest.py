"""A tf_keras network trained on the embedded digits, and what the steps make of it, each trained once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from legacy_networks import TRAIN, digits_network

import bigmodel as bm


@pytest.fixture(scope="session")
def digits() -> bm.Data:
    (x_train, y_train), (x_test, y_test) = bm.data.load_digits()
    images, held_out = (x[..., np.newaxis].astype("float32") / 16 for x in (x_train, x_test))
    return bm.Data(train=(images, y_train), test=(held_out, y_test))


@pytest.fixture(scope="session")
def network(digits) -> Any:
    model = digits_network()
    model.fit(*digits.train, epochs=8, batch_size=64, verbose=0)
    return model


@pytest.fixture(scope="session")
def pruned(network, digits) -> Any:
    return bm.prune(network, digits, 0.75, train=TRAIN, verbose=0)


@pytest.fixture(scope="session")
def aware(pruned, digits) -> Any:
    return bm.quantize(pruned, digits, train=TRAIN, verbose=0)
