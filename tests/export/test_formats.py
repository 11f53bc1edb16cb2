"""The table of formats and the ways to name one."""

import dataclasses

import numpy as np
import pytest

from bigmodel.errors import ArgumentError
from bigmodel.export.formats import FORMATS, Format, Grid, format_named, format_of


def test_names_are_keys_and_say_what_a_file_holds():
    for name, format_ in FORMATS.items():
        assert format_.name == name and format_named(name) is format_
        held = "mixed" if format_.mixed else f"int{format_.bits}"
        assert format_.quantized == (format_.bits <= 8) == (held in name)
        assert (format_.activations != "float") == name.startswith(("dynamic", "static"))


def test_bits_and_activations_name_one_format():
    found = {("mixed" if f.mixed else f.bits, f.activations, f.activation_bits): f for f in FORMATS.values()}
    assert len(found) == len(FORMATS)
    assert all(format_of(*wanted) is format_ for wanted, format_ in found.items())
    assert format_of(8, "static") is FORMATS["static_int8"]


@pytest.mark.parametrize(
    ("bits", "activations", "activation_bits"),
    [(3, "static", 8), (16, "dynamic", 8), (32, "static", 8), (4, "static", 16), (8, "dynamic", 16)],
)
def test_what_the_runtime_does_not_have_is_refused(bits, activations, activation_bits):
    with pytest.raises(ArgumentError) as caught:
        format_of(bits, activations, activation_bits)
    assert str(bits) in caught.value.received and activations in caught.value.received
    assert "dynamic_int8" in caught.value.expected and caught.value.fix


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(ArgumentError) as caught:
        format_named("int8")
    assert all(name in caught.value.expected for name in FORMATS)


def test_they_are_values():
    with pytest.raises(dataclasses.FrozenInstanceError):
        FORMATS["float32"].bits = 4
    assert Format("a", 8) == Format("a", 8)
    assert Grid("dense", "kernel", 8, np.zeros((1, 1), np.int8), np.ones(1, np.float32)).name == "dense/kernel"
