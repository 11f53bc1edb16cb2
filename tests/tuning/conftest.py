from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
from searches import network

from bigmodel.data import Data, as_data
from bigmodel.export import export_float


@pytest.fixture(scope="session")
def data() -> Data:
    """Two classes that a line parts, with enough samples for every fold."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(600, 8)).astype("float32")
    y = (x[:, 0] + 0.5 * x[:, 1] > 0).astype("int32")
    return as_data((x, y), validation_fraction=0.3, test_fraction=0)


@pytest.fixture(scope="session")
def trained(data: Data) -> keras.Model:
    model = network()
    x, y, _ = data.train.arrays()
    model.fit(x, y, epochs=4, batch_size=32, verbose=0)
    return model


@pytest.fixture(scope="session")
def float_file(trained: keras.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The float file of the trained network, written once."""
    return export_float(trained, tmp_path_factory.mktemp("float") / "float.tflite")
