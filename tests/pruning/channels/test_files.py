"""Smaller models become files that give the same outputs, at the predicted cost."""

import keras
import numpy as np
import pytest
from networks import NETWORKS, sequential_cnn
from reference import flat_outputs, random_keep, randomise, relative_difference, samples

from bigmodel.evaluation import inspect_file
from bigmodel.export.float import export_floats
from bigmodel.litert import LiteModel
from bigmodel.pruning.channels import CostModel, find_channels, remove_channels


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """For each network its smaller model, inputs of one sample, and its file."""
    folder = tmp_path_factory.mktemp("files")
    smaller = []
    for network in NETWORKS:
        model = randomise(network())
        smaller.append(remove_channels(model, random_keep(find_channels(model))))
    paths = export_floats([(model, folder / f"{i}.tflite") for i, model in enumerate(smaller)])
    return {network.__name__: pair for network, *pair in zip(NETWORKS, smaller, paths, strict=True)}


@pytest.mark.parametrize("name", [network.__name__ for network in NETWORKS])
def test_the_file_gives_the_outputs_of_the_smaller_model(name, files):
    model, path = files[name]
    if isinstance(path, Exception):
        raise path
    x = samples(model, 3)
    file = keras.tree.flatten(LiteModel(path).predict(x))
    assert relative_difference([np.asarray(y) for y in file], flat_outputs(model, x)) < 1e-4


def test_the_predicted_macs_are_those_of_the_file(files):
    _, path = files["sequential_cnn"]
    model = sequential_cnn()
    channels = find_channels(model)
    assert CostModel(model, channels).after(random_keep(channels)).macs == inspect_file(path).macs
