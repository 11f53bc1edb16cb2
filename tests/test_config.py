"""What the configs mean beyond the contract that all of them share (tests/test_contracts.py)."""

from __future__ import annotations

import math
import types

import pytest

from bigmodel.config import PruneConfig, QuantizeConfig, Target, TrainConfig, resolve, resolve_quantize
from bigmodel.errors import ArgumentError, ArgumentTypeError


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (200_000, 200_000),
        ("200KB", 200_000),
        ("200 kb", 200_000),
        ("1.5MB", 1_500_000),
        ("512B", 512),
        ("2GB", 2_000_000_000),
        (None, None),
    ],
)
def test_a_size_is_bytes_or_text_with_decimal_units(size, expected):
    assert Target(size=size).size == expected


@pytest.mark.parametrize("size", ["200", "200KiB", "KB", "", "-1KB", "0KB", 0, -5, 1.5])
def test_a_size_that_can_not_be_read_is_refused(size):
    with pytest.raises(ArgumentError, match="size"):
        Target(size=size)


def test_the_defaults_are_the_documented_ones():
    assert Target() == Target(max_drop=0.01, size=None, latency_ms=None, optimize="balanced")
    assert TrainConfig().epochs == 5 and TrainConfig().pretrain_epochs == 0 and TrainConfig().precision == "auto"
    assert QuantizeConfig() == QuantizeConfig(bits=8, activations="auto", method="auto", where=None)


@pytest.mark.parametrize(
    ("value", "config", "number", "expected"),
    [
        (None, PruneConfig, "sparsity", None),
        ("auto", PruneConfig, "sparsity", "auto"),
        (0.5, PruneConfig, "sparsity", PruneConfig(sparsity=0.5)),
        (4, QuantizeConfig, "bits", QuantizeConfig(bits=4)),
        (PruneConfig(0.3), PruneConfig, "sparsity", PruneConfig(0.3)),
    ],
)
def test_a_shorthand_becomes_its_config(value, config, number, expected):
    assert resolve(value, config, number) == expected


@pytest.mark.parametrize("value", [True, "off", [0.5], {"sparsity": 0.5}, QuantizeConfig()])
def test_anything_else_is_refused_and_the_message_shows_the_way(value):
    with pytest.raises(ArgumentTypeError, match=r"PruneConfig\(sparsity=\.\.\.\)"):
        resolve(value, PruneConfig, "sparsity")


def test_a_shorthand_out_of_range_is_refused_like_the_config_itself():
    with pytest.raises(ArgumentError, match="sparsity"):
        resolve(1.5, PruneConfig, "sparsity")


@pytest.mark.parametrize(
    ("orders", "field"),
    [
        ({"bits": 8, "size": "20KB"}, "size"),
        ({"clipping": "learned", "method": "post_training"}, "clipping"),
        ({"observer": "learned", "method": "post_training"}, "observer"),
        ({"activation_bits": 16}, "activation_bits"),
        ({"activation_bits": 16, "activations": "static", "bits": 4}, "activation_bits"),
        ({"activation_bits": 16, "activations": "static", "observer": "mse"}, "observer"),
    ],
    ids=str,
)
def test_orders_of_quantization_that_contradict_each_other_are_refused(orders, field):
    with pytest.raises(ArgumentError, match=rf"QuantizeConfig\.{field}"):
        QuantizeConfig(**orders)


@pytest.mark.parametrize("bits", [3, 16, "int8", {}, {"head": 3}, {0: 4}, True])
def test_bits_that_no_weight_can_have_are_refused(bits):
    with pytest.raises(ArgumentError, match=r"QuantizeConfig\.bits"):
        QuantizeConfig(bits=bits)


def test_bits_by_layer_are_a_dict_of_names_or_a_function():
    head, body = (types.SimpleNamespace(name=name) for name in ("head", "body"))
    by_name = QuantizeConfig(bits={"body": 4})
    assert (by_name.bits_of(head), by_name.bits_of(body), by_name.label) == (8, 4, "mixed")
    by_function = QuantizeConfig(bits=lambda layer: 2 if layer is body else 8)
    assert (by_function.bits_of(head), by_function.bits_of(body)) == (8, 2)
    with pytest.raises(ArgumentError, match="not 5 as for 'head'"):
        QuantizeConfig(bits=lambda layer: 5).bits_of(head)
    assert {by_name: 1}[QuantizeConfig(bits={"body": 4})] == 1  # configs are keys


@pytest.mark.parametrize("value", [2, "mixed", {"head": 4}, QuantizeConfig(bits=4)])
def test_whatever_bits_can_be_is_a_shorthand_of_quantization(value):
    resolved = resolve_quantize(value)
    assert resolved == (value if isinstance(value, QuantizeConfig) else QuantizeConfig(bits=value))
    assert resolve_quantize("auto") == "auto" and resolve_quantize(None) is None


def test_a_function_does_not_go_to_json_and_the_message_names_the_field():
    with pytest.raises(ArgumentError, match=r"PruneConfig\.where"):
        PruneConfig(where=lambda layer: True).to_dict()


@pytest.mark.parametrize(
    "change",
    [{"version": 2}, {"config": "Target"}, {"sparsityy": 0.5}],
    ids=["newer version", "another config", "unknown field"],
)
def test_a_dict_of_something_else_is_refused(change):
    with pytest.raises(ArgumentError, match="version of bigmodel that wrote it"):
        PruneConfig.from_dict({**PruneConfig().to_dict(), **change})


def test_reading_does_not_change_the_callers_dict():
    values = PruneConfig(0.7).to_dict()
    before = dict(values)
    PruneConfig.from_dict(values)
    assert values == before


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_sparsity_is_a_finite_fraction(value):
    with pytest.raises(ArgumentError, match="sparsity"):
        PruneConfig(sparsity=value)


# --- one config for all patterns of pruning ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"round_to": 8}, "round_to"),
        ({"granularity": "block", "floor": 0.1}, "floor"),
        ({"criterion": "l2"}, "criterion"),
        ({"budget": {"macs": 0.5}}, "budget"),
        ({"granularity": "2:4", "max_drop": 0.01}, "max_drop"),
        ({"granularity": "2:4", "ranking": "global"}, "ranking"),
        ({"normalized": True}, "normalized"),
        ({"block_shape": (2, 2)}, "block_shape"),
        ({"granularity": "channel", "schedule": "constant"}, "schedule"),
        ({"granularity": "channel", "frequency": 10}, "frequency"),
        ({"granularity": "channel", "block_shape": (2, 2)}, "block_shape"),
    ],
)
def test_a_setting_of_another_pattern_is_a_contradiction(settings, field):
    with pytest.raises(ArgumentError, match=rf"PruneConfig\.{field} .*\n[\s\S]*its default with granularity"):
        PruneConfig(**settings)


def test_two_of_four_is_half():
    assert PruneConfig(granularity="2:4").share == 0.5
    with pytest.raises(ArgumentError, match=r"0\.5 with granularity='2:4'"):
        PruneConfig(sparsity=0.8, granularity="2:4")


@pytest.mark.parametrize("granularity", ["weight", "block", "2:4"])
@pytest.mark.parametrize("sparsity", [{"dense": 0.5}, lambda group: 0.5], ids=["dict", "function"])
def test_shares_by_layer_are_for_channels_alone(granularity, sparsity):
    with pytest.raises(ArgumentError, match="sparsity"):
        PruneConfig(sparsity=sparsity, granularity=granularity)
    assert PruneConfig(sparsity=sparsity, granularity="channel").sparsity is sparsity


@pytest.mark.parametrize("sparsity", [{"dense": 1.0}, {"dense": -0.1}, {"dense": True}, {"a": 0.5, "b": "0.5"}])
def test_every_share_of_a_dict_is_checked(sparsity):
    with pytest.raises(ArgumentError, match="sparsity"):
        PruneConfig(sparsity=sparsity, granularity="channel")


@pytest.mark.parametrize(
    "budget", [{}, {"flops": 0.5}, {"macs": 0}, {"macs": 1}, {"macs": 2.0}, {"macs": "half"}, 0.5, [("macs", 0.5)]]
)
def test_a_budget_is_a_dict_of_fractions_for_what_can_be_bounded(budget):
    with pytest.raises(ArgumentError, match="'macs', 'parameters', 'size', 'latency'"):
        PruneConfig(granularity="channel", budget=budget)


def test_shares_by_layer_and_budgets_survive_json():
    config = PruneConfig(
        sparsity={"stem+outer": 0.25, "dense": 0.0},
        granularity="channel",
        criterion="l1",
        ranking="global",
        floor=0.1,
        round_to=8,
        budget={"macs": 0.5, "latency": 0.25},
        max_drop=0.02,
        normalized=True,
    )
    assert PruneConfig.from_json(config.to_json()) == config


def test_the_share_is_the_sparsity_as_a_number():
    assert PruneConfig(0.7).share == 0.7 and PruneConfig(0.3, granularity="channel").share == 0.3
