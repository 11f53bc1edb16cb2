from __future__ import annotations

import json

import pytest

from bigmodel.pruning.schedules import constant, polynomial

STEPS = [0, 10, 11, 37, 60, 109, 110, 500]


@pytest.mark.parametrize("power", [1, 2, 3])
def test_polynomial_follows_its_formula_and_is_held_outside(power):
    progress = polynomial(10, 110, power)
    for step in range(10, 111):
        assert progress(step) == pytest.approx(1 - (1 - (step - 10) / 100) ** power, abs=1e-12)
    assert progress(0) == progress(10) == 0.0
    assert progress(110) == progress(10_000) == 1.0


def test_polynomial_of_no_length_is_a_step():
    assert [polynomial(5, 5)(step) for step in (4, 5, 6)] == [0.0, 1.0, 1.0]


def test_constant_is_a_step():
    assert [constant(3)(step) for step in (0, 2, 3, 100)] == [0.0, 0.0, 1.0, 1.0]


def test_polynomial_equals_the_decay_of_tfmot(python):
    code = """
import json, sys
import tf_keras
import tensorflow as tf
from tensorflow_model_optimization.python.core.sparsity.keras.pruning_schedule import PolynomialDecay
decay = PolynomialDecay(0.2, 0.9, begin_step=10, end_step=110, power=3)
print(json.dumps([float(decay(tf.constant(step))[1]) for step in json.loads(sys.argv[1])]))
"""
    theirs = json.loads(python(code, json.dumps(STEPS)).splitlines()[-1])
    progress = polynomial(10, 110)
    assert [0.2 + (0.9 - 0.2) * progress(step) for step in STEPS] == pytest.approx(theirs, abs=1e-6)
