"""What a legacy run leaves behind in the process: nothing. Each test is a process of its own."""

from __future__ import annotations

import pytest

RUN = """
import os, subprocess, sys
import numpy as np
import bigmodel as bm, keras
x = np.random.default_rng(0).normal(size=(64, 8)).astype("float32")
y = (x[:, 0] > 0).astype("int64")
train = bm.TrainConfig(epochs=1, batch_size=16)

def native():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(2)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"])
    made = bm.quantize(bm.prune(model, (x, y), 0.5, train=train, verbose=0), (x, y), 4, train=train, verbose=0)
    return made.predict(x, verbose=0)

def legacy():
    import tf_keras
    layers = [tf_keras.Input((8,)), tf_keras.layers.Dense(8, "relu"), tf_keras.layers.Dense(2)]
    model = tf_keras.Sequential(layers)
    loss = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"])
    return bm.quantize(bm.prune(model, (x, y), 0.5, train=train, verbose=0), (x, y), train=train, verbose=0)
"""

CHILD = "import tensorflow as tf; print(tf.keras.__version__)"


@pytest.mark.slow
def test_tf_keras_is_keras_3_after_a_legacy_run_here_and_in_children(python):
    code = f"""
legacy()
import tensorflow as tf
assert "tensorflow_model_optimization" in sys.modules and "TF_USE_LEGACY_KERAS" not in os.environ
child = subprocess.run([sys.executable, "-c", {CHILD!r}], capture_output=True, text=True, check=True)
print(tf.keras.__version__, child.stdout.strip(), keras.__version__)
"""
    here, child, wanted = python(RUN + code).split()
    assert here == child == wanted and wanted.startswith("3.")


def test_native_runs_before_and_after_a_legacy_one_are_equal(python):
    code = """
before = native()
legacy()
print(np.array_equal(before, native()))
"""
    assert python(RUN + code).strip() == "True"


@pytest.mark.slow
def test_models_of_tf_keras_under_the_switch_are_taken_and_the_switch_stays(python):
    code = """
import os
os.environ["TF_USE_LEGACY_KERAS"] = "1"
import numpy as np, tensorflow as tf
import bigmodel as bm
model = tf.keras.Sequential([tf.keras.Input((4,)), tf.keras.layers.Dense(8, "relu"), tf.keras.layers.Dense(2)])
x, y = np.random.default_rng(0).normal(size=(64, 4)).astype("float32"), np.arange(64) % 2
made = bm.prune(model, (x, y), 0.5, train=bm.TrainConfig(epochs=1), verbose=0)
assert isinstance(made, tf.keras.Model) and os.environ["TF_USE_LEGACY_KERAS"] == "1"
print((made.layers[0].kernel.numpy() == 0).mean())
"""
    assert python(code).strip() == "0.5"


def test_a_missing_package_names_the_extra(python):
    code = """
import sys
sys.modules["tf_keras"] = None
import bigmodel as bm
try:
    bm.from_legacy("model.h5")
except bm.errors.DependencyError as error:
    print(error.fix)
"""
    assert python(code).strip() == 'Run: pip install "bigmodel[legacy]"'
