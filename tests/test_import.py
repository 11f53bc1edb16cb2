"""Importing bigmodel costs nothing, and registers our layers whenever Keras is or gets imported."""

from __future__ import annotations

import importlib.util

import pytest

HEAVY = ("keras", "tensorflow", "tf_keras", "keras_tuner", "tensorflow_model_optimization", "ai_edge_quantizer")


@pytest.mark.parametrize(
    "code",
    [
        "import bigmodel",
        "import bigmodel as bm; dir(bm); bm.Target(size='200KB'); bm.PruneConfig(); bm.errors.DataError('no')",
        "import bigmodel as bm; bm.LiteModel",
        "import bigmodel as bm; bm.report.Record",
        "import bigmodel.evaluation.latency",
        "import bigmodel.evaluation.file",
        "import bigmodel.__main__",
        "import importlib.util as u; import bigmodel; u.find_spec('keras')",
    ],
)
def test_what_needs_no_keras_loads_no_keras(code, python):
    loaded = python(f"import sys; {code}; print(*sys.modules)").split()
    assert not set(HEAVY) & set(loaded)
    assert "bigmodel" in loaded


def test_the_import_is_fast(python):
    code = "import time; start = time.perf_counter(); import bigmodel; print(time.perf_counter() - start)"
    seconds = min(float(python(code)) for _ in range(3))
    assert seconds < 0.1  # Keras alone takes seconds


def test_the_hook_leaves_the_way_keras_is_found_unchanged():
    from bigmodel._registration import _AfterKeras

    ours, plain = _AfterKeras().find_spec("keras", None), importlib.util.find_spec("keras")
    assert (ours.name, ours.origin, type(ours.loader)) == (plain.name, plain.origin, type(plain.loader))
    assert _AfterKeras().find_spec("json", None) is None


# A stand-in for Keras, so that the orders can be tried in milliseconds; the real one follows below.
FAKES = """
import sys, types, pathlib, tempfile
folder = pathlib.Path(tempfile.mkdtemp()); sys.path.insert(0, str(folder))
(folder / "keras.py").write_text("import json\\nREADY = True\\n")
layers = types.ModuleType("bigmodel.quantization.layers")
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "bigmodel.quantization.layers":
            import importlib.machinery
            return importlib.machinery.ModuleSpec(name, self)
    def create_module(self, spec): return layers
    def exec_module(self, module):
        import keras
        module.saw_keras_ready = keras.READY
sys.meta_path.insert(0, Finder())
room = types.ModuleType("bigmodel.quantization"); room.__path__ = []
sys.modules["bigmodel.quantization"] = room  # only the hook's timing is at stake here
for name in ("bigmodel.legacy.layer", "bigmodel.legacy.activations"):
    sys.modules[name] = types.ModuleType(name)
"""


@pytest.mark.parametrize("order", ["import bigmodel; import keras", "import keras; import bigmodel"])
def test_layers_are_loaded_after_keras_in_both_orders(order, python):
    assert python(f"{FAKES}{order}; print(layers.saw_keras_ready)").strip() == "True"


def test_a_failing_keras_import_fails_as_itself_and_can_be_tried_again(python):
    code = """
(folder / "keras.py").write_text("raise RuntimeError('broken keras')")
import bigmodel, importlib
sys.dont_write_bytecode = True
try:
    import keras
except RuntimeError as error:
    print(error)
(folder / "keras.py").write_text("READY = True")
importlib.invalidate_caches()
import keras
print(layers.saw_keras_ready)
"""
    assert python(FAKES + code).splitlines() == ["broken keras", "True"]


SAVE = """
import sys, keras, numpy as np, bigmodel as bm
keras.utils.set_random_seed(0)
model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(8, activation="relu"), keras.layers.Dense(3)])
model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
y = np.arange(64) % 3
quantized = bm.quantize(model, (x, y), bits=8, train=bm.TrainConfig(epochs=1))
quantized.save(sys.argv[1])
np.save(sys.argv[2], quantized.predict(x[:8], verbose=0))
"""
LOAD = """
import sys
{order}
import numpy as np
model = keras.models.load_model(sys.argv[1])
x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
np.testing.assert_array_equal(model.predict(x[:8], verbose=0), np.load(sys.argv[2]))
print(sorted({{type(layer).__module__.split(".")[0] for layer in model._flatten_layers()}}))
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory, python):
    folder = tmp_path_factory.mktemp("saved")
    python(SAVE, folder / "model.keras", folder / "outputs.npy")
    return folder / "model.keras", folder / "outputs.npy"


@pytest.mark.parametrize(
    "order",
    [
        "import bigmodel; import keras",
        "import keras; import bigmodel",
        "import bigmodel.quantization.layers; import keras",
        *(
            pytest.param(order, marks=pytest.mark.slow)
            for order in (
                "import bigmodel, tensorflow; keras = tensorflow.keras",
                "import bigmodel.training; import keras",
                "import bigmodel.pipeline; import keras",
            )
        ),
    ],
)
def test_a_quantized_model_loads_in_a_new_process(order, saved, python):
    assert "'bigmodel'" in python(LOAD.format(order=order), *saved)  # our layers are in there, and were found
