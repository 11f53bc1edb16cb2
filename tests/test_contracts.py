"""What every config, callback and step promises, each found by discovery: a new one is tested because it exists."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import json
import math
from typing import Any

import keras
import numpy as np
import pytest

import bigmodel as bm
from bigmodel.config import Config
from bigmodel.errors import ArgumentError

PUBLIC = {name: getattr(bm, name) for name in bm.__all__ if name != "__version__"}

# --- configs ------------------------------------------------------------------------------------------------------

CONFIGS = {name: value for name, value in PUBLIC.items() if isinstance(value, type) and issubclass(value, Config)}

# One row for each config: values that differ from the defaults, for fields that JSON can carry and that go together.
VALUES: dict[str, dict[str, Any]] = {
    "Target": {
        "max_drop": 0.002,
        "size": 1000,
        "latency_ms": 0.5,
        "optimize": "size",
        "threads": 4,
        "delegate": None,
    },
    "TuneConfig": {
        "max_trials": 3,
        "tuner": "random",
        "max_seconds": 60.0,
        "objective": "f1",
        "direction": "max",
        "space": "joint",
        "parallel_trials": 2,
        "holdout": 0.5,
        "tensorboard": "logs",
    },
    "TrainConfig": {
        "epochs": 2,
        "batch_size": 16,
        "learning_rate": 1e-4,
        "pretrain_epochs": 1,
        "precision": "mixed_bfloat16",
        "patience": 1,
        "distillation": 0.5,
    },
    "AugmentConfig": {"transforms": {"rotation": 0.1, "mixup": 0.3}, "strength": 0.5},
    "PruneConfig": {"sparsity": 0.75, "schedule": "constant", "frequency": 5},
    "QuantizeConfig": {
        "bits": "mixed",
        "activations": "static",
        "method": "aware",
        "size": 20_000,
        "observer": "learned",
        "clipping": "learned",
        "granularity": "tensor",
        "rounding": "adaptive",
        "equalization": True,
        "bias_correction": False,
        "delay": 10,
        "freeze": 20,
    },
}

# One row for each field: values that must be refused.
NOT_A_NUMBER = ["1", True, math.nan, None]
WRONG: dict[str, dict[str, list[Any]]] = {
    "TuneConfig": {
        "max_trials": [0, 1.5, *NOT_A_NUMBER],
        "tuner": ["hill", None],
        "max_seconds": [0, -1, "1", True, math.nan],
        "objective": ["", None, 3],
        "direction": ["up", "max"],  # the last one: with "auto", which is to be small
        "space": ["everything", 3],
        "build": [3, "model"],
        "parallel_trials": [0, 1.5, *NOT_A_NUMBER],
        "holdout": [-0.1, 1.0, *NOT_A_NUMBER],
        "tensorboard": [3, True],
    },
    "Target": {
        "max_drop": [-0.01, *NOT_A_NUMBER],
        "size": [0, -1, 1.5, "big", True],
        "latency_ms": [0, -1.0, "1", True, math.nan],
        "optimize": ["fast", None],
        "threads": [0, 1.5, *NOT_A_NUMBER],
        "delegate": ["gpu", 3],
    },
    "TrainConfig": {
        "epochs": [-1, 1.5, *NOT_A_NUMBER],
        "batch_size": [0, 1.5, *NOT_A_NUMBER],
        "learning_rate": [-1e-3, "1", True, math.nan],
        "pretrain_epochs": [-1, 1.5, *NOT_A_NUMBER],
        "precision": ["float16", 16, None],
        "patience": [0, 1.5, "1", True, math.nan],
        "distillation": [-0.1, 1.1, "1", True, math.nan],
    },
    "AugmentConfig": {
        "transforms": ["rotation", ("blur",), {"rotation": 2.0}, {"rotation": "0.1"}, {"blur": 0.1}, None, 0.5],
        "strength": [-0.1, 3.1, *NOT_A_NUMBER],
    },
    "PruneConfig": {
        "sparsity": [-0.1, 1.0, 80, *NOT_A_NUMBER],
        "granularity": ["layer", None],
        "schedule": ["cubic", None, 3],
        "where": ["dense", 3],
        "frequency": [0, 1.5, *NOT_A_NUMBER],
        "block_shape": [4, (0, 4), (1, 2, 3), None, (2, 2)],  # the last one: a pattern without blocks
        "criterion": ["l3", None, "l1"],  # the last ones, from here on: settings of channels, with single weights
        "ranking": ["model", None],
        "floor": [-0.1, 1.1, *NOT_A_NUMBER, 0.5],
        "round_to": [0, 1.5, *NOT_A_NUMBER, 8],
        "budget": [0.5, {}, {"flops": 0.5}, {"macs": 1.0}, {"macs": 0.5}],
        "max_drop": [-0.1, "1", True, math.nan, 0.01],
        "normalized": ["yes", None, True],
    },
    "QuantizeConfig": {
        "bits": [0, 7, 16, "8", None, {}, {"head": 3}],
        "activations": ["int8", None],
        "method": ["qat", None],
        "where": ["dense", 3],
        "size": [0, 1.5, "big", "20KB"],  # the last one: bits that are not mixed
        "activation_bits": [4, None, 8.0, 16],  # the last one: with activations that are not static
        "observer": ["max", None],
        "clipping": ["pact", None],
        "granularity": ["row", "2:4", None],
        "rounding": ["up", None],
        "equalization": ["yes", None],
        "bias_correction": ["yes", None],
        "delay": [-1, 0.5, *NOT_A_NUMBER],
        "freeze": [-1, 0.5, "1", True, math.nan],
    },
}
UNCHECKED = {("TrainConfig", "strategy")}  # whatever tf.distribute offers
FUNCTIONS = {("PruneConfig", "where"), ("QuantizeConfig", "where")}  # not carried by JSON


def cases(table: dict[str, dict[str, list[Any]]]) -> list[tuple[str, str, Any]]:
    return [(name, field, value) for name, row in table.items() for field, values in row.items() for value in values]


def test_every_config_and_every_field_has_its_row():
    fields = {(name, field.name) for name, config in CONFIGS.items() for field in dataclasses.fields(config)}
    assert {(name, field) for name, row in WRONG.items() for field in row} == fields - UNCHECKED
    assert set(VALUES) == set(CONFIGS)


@pytest.mark.parametrize("name", sorted(CONFIGS))
@pytest.mark.parametrize("changed", [False, True], ids=["defaults", "changed"])
def test_a_config_goes_to_a_dict_and_to_json_and_back(name, changed):
    config = CONFIGS[name](**(VALUES[name] if changed else {}))
    assert CONFIGS[name].from_dict(config.to_dict()) == config
    assert CONFIGS[name].from_json(config.to_json()) == config
    assert config.to_dict()["version"] == 1 and json.loads(config.to_json()) == config.to_dict()


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_a_config_is_frozen_and_copies_equal(name):
    config = CONFIGS[name](**VALUES[name])
    for field in dataclasses.fields(config):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(config, field.name, getattr(config, field.name))
    assert copy.deepcopy(config) == config == dataclasses.replace(config)
    assert config != CONFIGS[name]()


@pytest.mark.parametrize(("name", "field", "value"), cases(WRONG))
def test_a_config_refuses_a_wrong_value_in_three_parts(name, field, value):
    with pytest.raises(ArgumentError) as caught:
        CONFIGS[name](**{field: value})
    error = caught.value
    assert field in error.problem and error.received and error.expected and error.fix


# --- a small job ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(192, 6)).astype("float32")
    return x, (x[:, 0] + x[:, 1] > 0).astype("int32")


@pytest.fixture(scope="module")
def trained(data) -> keras.Model:
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.layers.Input((6,), name="features"),
            keras.layers.Dense(16, activation="relu", kernel_constraint=keras.constraints.MaxNorm(4.0)),
            keras.layers.Dense(2),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.Adam(1e-2), loss=loss, metrics=["accuracy"])
    model.fit(*data, epochs=2, verbose=0)
    return model


def state(model: keras.Model) -> dict[str, Any]:
    """Everything of a model that a caller could see changing."""
    return {
        "config": json.dumps(model.get_config(), default=str),
        "compile": json.dumps(model.get_compile_config(), default=str),
        "weights": [weight.tobytes() for weight in model.get_weights()],
        "optimizer": [np.asarray(v).tobytes() for v in model.optimizer.variables],
        "constraints": [(v.path, v.constraint, v.trainable) for v in model.variables],
        "identity": [id(layer) for layer in model.layers],
    }


# --- callbacks ------------------------------------------------------------------------------------------------------

CALLBACKS = {
    name: value
    for name, value in vars(bm.callbacks).items()
    if isinstance(value, type)
    and issubclass(value, keras.callbacks.Callback)
    and value.__module__.startswith("bigmodel")
}
# Arguments that make a callback do something within a few steps; one that is not named here is made without any.
ARGUMENTS: dict[str, dict[str, Any]] = {
    "MagnitudePruning": {"sparsity": 0.5, "frequency": 1},
    "GroupLasso": {"strength": 0.1},
    "QuantizationDelay": {"steps": 2},
}


# One row for each argument of each callback: values that must be refused.
NO_LAYERS = {"where": ["dense", 3]}
NO_STEPS = [-1, 1.5, "1", True, math.nan]
WRONG_ARGUMENTS: dict[str, dict[str, list[Any]]] = {
    "Distillation": {
        "teacher": ["model", None],
        "share": [-0.1, 1.1, np.array([0.5]), *NOT_A_NUMBER],
        "temperature": [0, -1.0, math.inf, *NOT_A_NUMBER],
    },
    "FreezeRanges": {"step": NO_STEPS},
    "GroupLasso": {"strength": [-0.1, math.inf, np.array([0.1]), *NOT_A_NUMBER], **NO_LAYERS},
    "KeepClusters": {"clusters": [1, *NO_STEPS, None], **NO_LAYERS},
    "KeepZeros": NO_LAYERS,
    "MagnitudePruning": {
        "sparsity": [-0.1, 1.0, 80, *NOT_A_NUMBER],
        "granularity": ["layer", "4:2", None, 3],
        "ranking": ["model", None],
        "block_shape": [4, (0, 4), (1, 2, 3), (1.0, 4), b"ab", None],
        "schedule": ["cubic", None, 3],
        "begin_step": [*NO_STEPS, None],
        "end_step": NO_STEPS,
        "frequency": [0, *NO_STEPS, None],
        **NO_LAYERS,
    },
    "QuantizationDelay": {"steps": [*NO_STEPS, None]},
    "SparsityLog": {"log_dir": [3, True], **NO_LAYERS},
    "WeightClustering": {"clusters": [1, *NO_STEPS, None], "initialization": ["random", None], **NO_LAYERS},
}
# Flags, samples that the model itself takes or refuses, and a map that `find_channels` makes.
UNCHECKED_ARGUMENTS = {("MagnitudePruning", "frozen"), ("FreezeRanges", "samples"), ("GroupLasso", "channels")}


def make(name: str, trained: keras.Model, **changed: Any) -> keras.callbacks.Callback:
    teacher = {"teacher": trained} if "teacher" in inspect.signature(CALLBACKS[name]).parameters else {}
    return CALLBACKS[name](**{**ARGUMENTS.get(name, {}), **teacher, **changed})


def fitted(model: keras.Model, data: tuple[np.ndarray, np.ndarray], callback: keras.callbacks.Callback) -> keras.Model:
    model = keras.models.clone_model(model)
    keras.utils.set_random_seed(2)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.Adam(1e-2), loss=loss, metrics=["accuracy"])
    for weight in model.weights:  # clone_model draws new weights; every clone starts from the same ones here
        weight.assign(np.random.default_rng(3).normal(scale=0.3, size=weight.shape))
    model.fit(*data, epochs=2, batch_size=48, shuffle=False, verbose=0, callbacks=[callback])
    return model


def test_there_are_callbacks_and_every_row_is_of_one():
    assert set(ARGUMENTS) <= set(CALLBACKS)
    assert CALLBACKS


def test_every_argument_of_every_callback_has_its_row():
    arguments = {(name, a) for name, callback in CALLBACKS.items() for a in inspect.signature(callback).parameters}
    rows = {(name, argument) for name, row in WRONG_ARGUMENTS.items() for argument in row}
    assert rows == arguments - UNCHECKED_ARGUMENTS


@pytest.mark.parametrize(("name", "argument", "value"), cases(WRONG_ARGUMENTS))
def test_a_callback_refuses_a_wrong_value_in_three_parts(name, argument, value, trained):
    with pytest.raises(ArgumentError) as caught:
        make(name, trained, **{argument: value})
    error = caught.value
    assert argument in error.problem and error.received and error.expected and error.fix


@pytest.mark.parametrize("name", sorted(CALLBACKS))
def test_a_callback_leaves_the_models_structure_alone(name, trained, data, tmp_path):
    callback = make(name, trained)
    model = keras.models.clone_model(trained)
    model.compile(optimizer="adam", loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(*data, epochs=1, verbose=0)  # the training step has been traced before the callback comes
    before = state(model)
    model.fit(*data, epochs=1, verbose=0, callbacks=[callback])
    after = state(model)
    assert {key: after[key] for key in ("config", "compile", "constraints", "identity")} == {
        key: before[key] for key in ("config", "compile", "constraints", "identity")
    }
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras", custom_objects={})
    assert {type(layer).__module__.split(".")[0] for layer in again.layers} == {"keras"}


@pytest.mark.parametrize("name", sorted(CALLBACKS))
def test_one_callback_serves_two_fits_and_its_copy_serves_like_it(name, trained, data):
    callback = make(name, trained)
    copied = copy.deepcopy(callback)
    first, second, third = (fitted(trained, data, c).get_weights() for c in (callback, callback, copied))
    for a, b, c in zip(first, second, third, strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(a, c)
    assert copy.deepcopy(callback) is not callback  # and it can be copied after a fit, too


# --- steps ----------------------------------------------------------------------------------------------------------


def takes_model_and_data(value: object) -> bool:
    return inspect.isfunction(value) and list(inspect.signature(value).parameters)[:2] == ["model", "data"]


STEPS = {name: value for name, value in PUBLIC.items() if takes_model_and_data(value)}
TRAIN = bm.TrainConfig(epochs=1, batch_size=48)
# One row for each step: arguments that make it do its work, all of it, in a moment.
CALLS: dict[str, dict[str, Any]] = {
    "synthesize": {"method": "gaussian", "share": 0.2},
    "tune": {"config": bm.TuneConfig(2, space="training", tuner="random"), "train": TRAIN, "verbose": 0},
    "prune": {"sparsity": 0.5, "train": TRAIN},
    "quantize": {"bits": bm.QuantizeConfig(bits=8, method="aware"), "train": TRAIN},
    "compress_and_tune": {"prune": 0.5, "quantize": 8, "train": TRAIN, "verbose": 0},
}


def outcome(value: Any) -> list[Any]:
    """What has to be the same twice."""
    if isinstance(value, keras.Model):
        return [weight.tobytes() for weight in value.get_weights()]
    if isinstance(value, bm.Tuned):
        return [value.hyperparameters, value.value, *outcome(value.model)]
    if isinstance(value, bm.Data):
        return [array.tobytes() for array in value.train.arrays()[:2]]
    if isinstance(value, bm.Result):
        return [value.litert_path.read_bytes(), *outcome(value.model)]
    return [repr(value)]


def test_every_step_has_its_row():
    assert set(CALLS) == set(STEPS)


@pytest.fixture(scope="module", params=sorted(STEPS))
def step(request, trained, data):
    """One step taken twice: its name, the states around the first time, and both outcomes."""
    arguments = CALLS[request.param]
    copies = copy.deepcopy((data, arguments))
    before = state(trained)
    first = STEPS[request.param](trained, data, **arguments)
    after = state(trained)
    second = STEPS[request.param](trained, data, **arguments)
    return {"before": before, "after": after, "outcomes": (first, second), "copies": copies, "arguments": arguments}


def test_a_step_does_not_change_the_callers_model(step, trained):
    assert step["after"] == step["before"]
    assert all(value is not trained for value in step["outcomes"])


def test_a_step_does_not_change_the_callers_data_and_configs(step, data):
    for array, original in zip(data, step["copies"][0], strict=True):
        np.testing.assert_array_equal(array, original)
    assert step["arguments"] == step["copies"][1]


def test_a_step_with_the_same_seed_ends_in_the_same_place(step):
    first, second = map(outcome, step["outcomes"])
    assert first == second
