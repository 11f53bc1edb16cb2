"""What the arguments of `compress_and_tune` order."""

from __future__ import annotations

from typing import Any

import keras
import pytest

import bigmodel as bm
from bigmodel.errors import ArgumentError, ArgumentTypeError, BigmodelError, ModelError
from bigmodel.run.plan import Plan, check_call


def plan(**orders: Any) -> Plan:
    return Plan.of(**{**dict.fromkeys(("target", "augment", "tune", "prune", "quantize", "train")), **orders})


def formats(plan: Plan) -> list[str]:
    return [f.name for f in plan.float_formats] + [f.name for fs in plan.quantized_formats().values() for f in fs]


INT8 = ["weight_only_int8", "dynamic_int8", "static_int8"]
INT4 = ["weight_only_int4", "dynamic_int4", "static_int4"]
MIXED = ["weight_only_mixed", "dynamic_mixed", "static_mixed"]


@pytest.mark.parametrize(
    ("quantize", "compete"),
    [
        (None, ["float32", "float16", "weight_only_int8"]),
        (8, INT8),
        (4, INT4),
        (bm.QuantizeConfig(activations="static"), ["static_int8"]),
        (bm.QuantizeConfig(activations="static", activation_bits=16), ["static_int8_a16"]),
        (bm.QuantizeConfig(bits=4, activations="float"), ["weight_only_int4"]),
        (2, ["dynamic_int2"]),
        (1, ["dynamic_int2"]),
        (bm.QuantizeConfig(bits=2, activations="static"), ["static_mixed"]),  # its two bits are stored in four
        ("mixed", ["dynamic_mixed"]),
        ({"head": 8, "body": 4}, MIXED),
        (lambda layer: 4, MIXED),
        ("auto", ["float32", "float16", *INT8, *INT4]),
    ],
    ids=lambda value: "function" if callable(value) else str(value),  # the same in every process
)
def test_what_competes_under_an_order(quantize, compete):
    assert sorted(formats(plan(quantize=quantize))) == sorted(compete)


def test_mixed_bits_are_allotted_within_the_size_of_the_target():
    for order, size in [("mixed", 40_000), (bm.QuantizeConfig(bits="mixed", size=30_000), 30_000), (4, None)]:
        assert plan(target=bm.Target(size="40KB"), quantize=order).quantize.size == size


def test_without_quantization_nothing_is_trained_for_storage():
    (config,) = plan(quantize=None).quantized_formats()
    assert (config.method, config.activations) == ("post_training", "float")


@pytest.mark.parametrize(
    ("prune", "sparsities"),
    [
        ("auto", []),
        (None, []),
        ([], []),
        (0.0, []),
        (0.5, [0.5]),
        (bm.PruneConfig(sparsity=0.8), [0.8]),
        ([0.5, bm.PruneConfig(sparsity=0.8)], [0.5, 0.8]),
        ((0.3,), [0.3]),
    ],
    ids=str,
)
def test_prunings_in_their_order(prune, sparsities):
    assert [config.sparsity for config in plan(prune=prune).prunes] == sparsities


@pytest.mark.parametrize("prune", [["auto"], [0.5, "auto"], [None], "half", {0.5}, True], ids=str)
def test_what_is_no_pruning_is_refused(prune):
    with pytest.raises(ArgumentTypeError) as caught:
        plan(prune=prune)
    assert caught.value.received and caught.value.expected and caught.value.fix


@pytest.mark.parametrize(
    ("orders", "says"),
    [
        ({"prune": 1.5}, "PruneConfig.sparsity"),
        ({"prune": [0.5, -1]}, "PruneConfig.sparsity"),
        ({"quantize": 3}, "QuantizeConfig.bits"),
        ({"quantize": "int8"}, "QuantizeConfig"),
        ({"quantize": bm.PruneConfig()}, "QuantizeConfig"),
        ({"tune": 0}, "TuneConfig.max_trials"),
        ({"tune": "many"}, "TuneConfig"),
        ({"tune": 20, "quantize": "mixed"}, "The orders contradict each other."),
        ({"augment": "flip"}, "AugmentConfig"),
        ({"augment": ["flip"]}, "AugmentConfig.transforms"),
        ({"target": 0.01}, "target can't be used"),
        ({"train": 5}, "train can't be used"),
        (
            {"quantize": bm.QuantizeConfig(method="aware"), "train": bm.TrainConfig(epochs=0)},
            "The orders contradict each other.",
        ),
    ],
)
def test_an_order_that_can_not_be_followed_is_refused_in_three_parts(orders, says):
    with pytest.raises(BigmodelError) as caught:
        plan(**orders)
    assert says in caught.value.problem
    assert caught.value.received and caught.value.expected and caught.value.fix


@pytest.mark.parametrize(
    ("augment", "transforms"),
    [
        (["noise"], ("noise",)),
        (("mixup", "noise"), ("mixup", "noise")),
        ({"noise": 0.3}, {"noise": 0.3}),
        (0.5, "auto"),
    ],
)
def test_shorthands_of_an_augmentation(augment, transforms):
    config = plan(augment=augment).augment
    assert config.transforms == transforms and config.strength == (0.5 if augment == 0.5 else 1.0)


@pytest.mark.parametrize(("max_drop", "told"), [(0.5, False), (1.0, True), (5, True)])
def test_a_bound_that_no_accuracy_can_break_is_told(max_drop, told):
    notes = plan(target=bm.Target(max_drop=max_drop)).notes
    assert any("0.05 is five points" in note for note in notes) is told


def test_what_was_left_open_is_told():
    notes = plan(augment="auto", prune="auto").notes
    assert [note.split("=")[0] for note in notes] == ["prune"]
    assert plan().notes == ()


def where(layer: keras.layers.Layer) -> bool:
    return layer.name != "head"


def test_equal_orders_are_equal_dicts_and_other_orders_are_not():
    orders: list[dict[str, Any]] = [
        {},
        {"prune": 0.5},
        {"prune": [0.5, 0.5]},
        {"prune": bm.PruneConfig(sparsity=0.5, where=where)},
        {"prune": bm.PruneConfig(sparsity=0.5, schedule="constant")},
        {"quantize": 8},
        {"quantize": "auto"},
        {"train": bm.TrainConfig(epochs=1)},
        {"target": bm.Target(size="1KB")},
    ]
    dicts = [plan(**order).to_dict() for order in orders]
    assert all((a == b) == (i == j) for i, a in enumerate(dicts) for j, b in enumerate(dicts))
    assert plan(prune=0.5).to_dict() == plan(prune=bm.PruneConfig()).to_dict()
    assert plan(prune=bm.PruneConfig(where=where)).to_dict()["prune"][0]["where"] == f"{__name__}.where"


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"model": "model.keras"}, ArgumentTypeError),
        ({"model": keras.Sequential([keras.layers.Dense(2)])}, ModelError),
        ({"seed": -1}, ArgumentError),
        ({"seed": 1.5}, ArgumentTypeError),
        ({"verbose": None}, ArgumentTypeError),
        ({"callbacks": keras.callbacks.TerminateOnNaN()}, ArgumentTypeError),
        ({"callbacks": [keras.callbacks.TerminateOnNaN]}, ArgumentTypeError),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_the_call_itself_is_checked(wrong, error):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    right = {"model": model, "seed": 0, "verbose": 1, "callbacks": [keras.callbacks.TerminateOnNaN()]}
    check_call(right.pop("model"), **right)
    arguments = {"model": model, **right, **wrong}
    with pytest.raises(error) as caught:
        check_call(arguments.pop("model"), **arguments)
    assert caught.value.received and caught.value.expected and caught.value.fix
