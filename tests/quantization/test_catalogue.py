"""Every public layer of the installed Keras has its class, the page says what the code does, and rules can be added."""

import re

import keras
import numpy as np
import pytest
import small_networks
from keras import layers as L

from bigmodel.config import QuantizeConfig
from bigmodel.quantization import RULES, LayerRule, Quantized, catalogue, register_rule, table
from bigmodel.quantization.catalogue import KINDS, layers_page, treatment_of, treatments
from bigmodel.quantization.files import deploy
from bigmodel.quantization.simulation import quantized_layers, simulate
from bigmodel.quantization.table import dense_input, rule_of, rules_of

PUBLIC = {
    name: value
    for name, value in vars(L).items()
    if isinstance(value, type) and issubclass(value, keras.layers.Layer) and not name.startswith("_")
}


@pytest.fixture
def rules(monkeypatch):
    """The table, to which rules may be added for the time of a test."""
    monkeypatch.setattr(table, "RULES", {**table.RULES})


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_layer_of_keras_has_a_class(name):
    treatment = treatments()[PUBLIC[name]]
    assert treatment.kind in KINDS
    assert treatment.note or PUBLIC[name] in RULES  # the reason, in words


def test_the_table_names_no_layer_twice():
    names = [name for _, _, group in catalogue._GROUPS for name in group.split()]
    names += [kind.__name__ for kind in RULES]
    assert len(names) == len(set(names))


def test_the_page_is_up_to_date(root):
    page = (root / "docs" / "quantized-layers.md").read_text(encoding="utf-8")
    hint = "write bigmodel.quantization.catalogue.layers_page() to docs/quantized-layers.md"
    assert page == layers_page(), hint


def test_the_page_names_every_layer_once():
    named = re.findall(r"`(\w+)`", "\n".join(line for line in layers_page().splitlines() if line.startswith("| `")))
    for kind in set(PUBLIC.values()):
        assert kind.__name__ in named, kind.__name__


def test_the_example_of_the_page_quantizes_its_layer(rules, tmp_path, in_process):
    space = {}
    (code,) = re.findall(r"^```python\n(.*?)^```$", layers_page(), re.MULTILINE | re.DOTALL)
    exec(compile(code, "docs/quantized-layers.md", "exec"), space)
    with keras.saving.custom_object_scope({"LowRank": space["LowRank"]}):
        model = keras.Sequential([keras.Input((12,)), space["LowRank"](10, 6), L.Dense(3)])
        simulation, skipped = simulate(model, QuantizeConfig(bits=4, activations="dynamic"))
        for layer in quantized_layers(simulation):
            layer.fix_scales()
        x = np.random.default_rng(0).normal(size=(16, 12)).astype("float32")
        (deployed,) = deploy(simulation, [(small_networks.dynamic(4), tmp_path / "a.tflite")], x)
    assert skipped == ()
    assert len(deployed.written.exact) == 3 and all(deployed.written.exact.values())


class Same(L.Dense):
    """A subclass that computes as its parent does."""


class Other(L.Dense):
    """A subclass that does not."""

    def call(self, inputs):
        return super().call(2.0 * inputs)


def test_a_subclass_follows_its_parent_where_it_computes_as_that_does():
    assert rule_of(Same(2)) is RULES[L.Dense]
    assert rule_of(Other(2)) is None and treatment_of(Other(2)).kind == "float"


def test_a_rule_may_be_given_to_a_layer_of_ones_own(rules):
    rule = LayerRule({"kernel": (-1,)}, dense_input)
    register_rule(Other, rule)
    assert rule_of(Other(2)) is rule
    layer = Other(3)
    layer.build((None, 4))
    assert list(rules_of(layer)) == [""]


def test_a_layer_without_a_rule_stays_float_and_is_said():
    model = small_networks.chain(Other(3, name="own"), L.Dense(2, name="known"), shape=(4,))
    with keras.saving.custom_object_scope({"Other": Other}):
        simulation, skipped = simulate(model, QuantizeConfig(bits=8, activations="dynamic"))
    assert [layer.name for layer in simulation.layers if isinstance(layer, Quantized)] == ["known"]
    assert [s.layer for s in skipped] == ["own"] and "stays float" in skipped[0].reason
