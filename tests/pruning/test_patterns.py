from __future__ import annotations

import re

import keras
import numpy as np
import pytest

from bigmodel.callbacks import KeepZeros, MagnitudePruning
from bigmodel.config import PruneConfig, QuantizeConfig, TrainConfig
from bigmodel.data import as_data
from bigmodel.errors import ArgumentError
from bigmodel.evaluation import inspect_file
from bigmodel.export import export_float
from bigmodel.export.formats import format_of
from bigmodel.pruning import patterns, prunable, prune_weights, sparsity_of
from bigmodel.pruning.layers import input_axis
from bigmodel.pruning.masks import lowest_mask, magnitude_mask
from bigmodel.quantization import deploy, quantize_aware

layers = keras.layers
RNG = np.random.default_rng(0)
X = RNG.normal(size=(128, 12)).astype("float32")
Y = RNG.integers(0, 4, 128)


def network():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((12,)), layers.Dense(30, "relu"), layers.Dense(4, "softmax")])
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def kernels(model):
    return [np.asarray(kernel) for _, kernel in prunable(model)]


def trained(callback, model=None, epochs=2):
    model = model or network()
    model.fit(X, Y, batch_size=16, epochs=epochs, verbose=0, callbacks=[callback])
    return model


def keeps_two_of_four(kernel, axis=-2):
    lines = np.moveaxis(kernel, axis, -1)
    starts = range(0, lines.shape[-1], 4)
    return all((np.count_nonzero(lines[..., i : i + 4], axis=-1) <= 2).all() for i in starts)


def whole_blocks(kernel, rows, columns):
    blocks = [
        kernel[..., i : i + rows, j : j + columns] != 0
        for i in range(0, kernel.shape[-2], rows)
        for j in range(0, kernel.shape[-1], columns)
    ]
    return all((block.all(axis=(-2, -1)) | ~block.any(axis=(-2, -1))).all() for block in blocks)


# --- the maths ------------------------------------------------------------------------------------------------------


def test_the_lowest_go_and_ties_go_in_order():
    scores = RNG.normal(size=(7, 9)).astype("float32")
    for zeros in (0, 1, 20, 62):
        dropped = np.argsort(scores.ravel(), kind="stable")[:zeros]
        np.testing.assert_array_equal(np.flatnonzero(~lowest_mask(scores, zeros)), np.sort(dropped))
    assert lowest_mask([1.0, -np.inf, 1.0, -np.inf, 2.0], 3).tolist() == [False, False, True, False, True]


@pytest.mark.parametrize(("keep", "of"), [(2, 4), (1, 4), (3, 8)])
@pytest.mark.parametrize("shape", [(8, 3), (10, 3), (3, 3, 9, 5)])
def test_n_of_m_keeps_the_largest_of_each_group_by_brute_force(keep, of, shape):
    scores = RNG.random(shape)
    mask = patterns.n_of_m_mask(scores, keep, of)
    lines, kept = np.moveaxis(scores, -2, -1), np.moveaxis(mask, -2, -1)
    for place in np.ndindex(lines.shape[:-1]):
        for start in range(0, shape[-2], of):
            group = lines[place][start : start + of]
            best = set(np.argsort(group)[-keep:])
            assert set(np.flatnonzero(kept[place][start : start + of])) == best


def test_two_of_four_and_blocks_are_those_of_tfmot(python, tmp_path):
    # Where two rows or more are missing in the last block, tfmot averages over other blocks than it drops.
    shapes = {"dense": (15, 12), "odd": (11, 7), "conv": (3, 3, 8, 4)}
    weights = {name: RNG.normal(size=shape).astype("float32") for name, shape in shapes.items()}
    np.savez(tmp_path / "weights.npz", **weights)
    code = """
import sys
import numpy as np
import tf_keras
import tensorflow as tf
from tensorflow_model_optimization.python.core.sparsity.keras.pruning_impl import Pruning
from tensorflow_model_optimization.python.core.sparsity.keras.pruning_schedule import ConstantSparsity
masks = {}
for name, weights in np.load(sys.argv[1]).items():
    pruning = Pruning(lambda: tf.constant(0), [], ConstantSparsity(0.5, 0), [1, 1], "AVG", (2, 4))
    masks[f"{name}/2:4"] = pruning._maybe_update_block_mask(tf.constant(weights))[1].numpy()
    for shape in ([1, 4], [4, 4], [3, 2]) if weights.ndim == 2 else ():
        pruning = Pruning(lambda: tf.constant(0), [], ConstantSparsity(0.6, 0), shape, "AVG")
        masks[f"{name}/{shape[0]}x{shape[1]}"] = pruning._maybe_update_block_mask(tf.constant(weights))[1].numpy()
np.savez(sys.argv[2], **masks)
"""
    python(code, tmp_path / "weights.npz", tmp_path / "masks.npz")
    theirs = np.load(tmp_path / "masks.npz")
    assert len(theirs.files) == 3 + 2 * 3
    for key in theirs.files:
        name, pattern = key.split("/")
        scores = np.abs(weights[name])
        if pattern == "2:4":
            ours = patterns.n_of_m_mask(scores, 2, 4)
        else:
            rows, columns = map(int, pattern.split("x"))
            ours = patterns.block_mask(scores, 0.6, (rows, columns))
        np.testing.assert_array_equal(ours, theirs[key].astype(bool), err_msg=key)


@pytest.mark.parametrize("shape", [(4, 8), (5, 7), (2, 3, 5, 6)])
def test_blocks_go_by_their_mean(shape):
    scores = RNG.random(shape)
    mask = patterns.block_mask(scores, 0.5, (2, 3))
    starts = [(i, j) for i in range(0, shape[-2], 2) for j in range(0, shape[-1], 3)]
    blocks = [(*place, i, j) for place in np.ndindex(shape[:-2]) for i, j in starts]

    def block(array, at):
        *place, i, j = at
        return array[tuple(place)][i : i + 2, j : j + 3]

    order = sorted(blocks, key=lambda at: block(scores, at).mean())
    gone = order[: round(0.5 * len(blocks))]
    assert all(not block(mask, at).any() for at in gone)
    assert all(block(mask, at).all() for at in blocks if at not in gone)


def test_scores_are_comparable_as_in_lamp():
    scores = RNG.random(50)
    squares = scores**2
    expected = [square / squares[squares >= square].sum() for square in squares]
    np.testing.assert_allclose(patterns.comparable(scores), expected)
    np.testing.assert_allclose(patterns.comparable(1000 * scores), expected)
    np.testing.assert_allclose(patterns.comparable(np.zeros(4)), [1 / 4, 1 / 3, 1 / 2, 1])


def test_a_global_ranking_has_one_threshold_and_a_floor():
    scores = [RNG.random((20, 30)), 1e-3 * RNG.random((10, 5)), RNG.random((5, 4)) ** 8]
    masks = patterns.global_masks(scores, 0.8)
    sizes = [mask.size for mask in masks]
    assert sum(int((~mask).sum()) for mask in masks) == round(0.8 * sum(sizes))
    ranked = [patterns.comparable(kernel) for kernel in scores]
    # Where no floor holds, everything below the threshold goes, in whichever kernel it is.
    kept = min(r[m].min() for r, m in zip(ranked, masks, strict=True) if m.sum() > round(0.1 * 0.2 * m.size))
    dropped = max(r[~m].max() for r, m in zip(ranked, masks, strict=True))
    assert dropped <= kept
    sparser = patterns.global_masks(scores, 0.99)
    assert [int(mask.sum()) >= max(1, round(0.1 * 0.01 * mask.size)) for mask in sparser] == [True] * 3


def test_on_its_way_two_of_four_drops_the_lowest_of_what_will_not_stay():
    scores, pattern = RNG.random((16, 6)), patterns.Pattern("2:4")
    full = pattern.mask(scores, 0.5)
    np.testing.assert_array_equal(full, patterns.n_of_m_mask(scores, 2, 4))
    half = pattern.mask(scores, 0.25)
    going = np.sort(scores[~full])[: round(0.25 * scores.size)]
    np.testing.assert_array_equal(half, ~np.isin(scores, going))


def test_the_input_axis_is_the_innermost_one_of_the_file():
    built = {
        layers.Dense(3): ((None, 4), -2),
        layers.Conv2D(3, 2): ((None, 8, 8, 4), -2),
        layers.Conv2DTranspose(3, 2): ((None, 8, 8, 4), -1),
        layers.Embedding(9, 4): ((None,), -1),
        layers.LSTM(3): ((None, 5, 4), -2),
        layers.EinsumDense("abc,cde->abde", (None, 2, 3)): ((None, 5, 4), -3),
    }
    for layer, (shape, axis) in built.items():
        layer.build(shape)
        kernel = next(v for v in layer.weights if v.name in ("kernel", "embeddings", "recurrent_kernel"))
        assert input_axis(layer, kernel) == axis
    attention = layers.MultiHeadAttention(2, 3)
    attention.build((None, 5, 4), (None, 5, 4))
    axes = {
        kernel.path.split("/")[-2]: input_axis(attention, kernel) for _, kernel in prunable(attention_model(attention))
    }
    assert axes == {"query": -3, "key": -3, "value": -3, "attention_output": -2}


def attention_model(attention):
    x = keras.Input((5, 4))
    return keras.Model(x, attention(x, x))


# --- the callback ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "holds"),
    [
        ({"granularity": "2:4", "sparsity": 0.5}, keeps_two_of_four),
        ({"granularity": "block", "sparsity": 0.6, "block_shape": (2, 2)}, lambda k: whole_blocks(k, 2, 2)),
        (
            {"granularity": "block", "sparsity": 0.6, "block_shape": (4, 1), "ranking": "global"},
            lambda k: whole_blocks(k, 4, 1),
        ),
        ({"ranking": "global", "sparsity": 0.7}, lambda k: sparsity_of(k) > 0),
    ],
    ids=["2:4", "block", "global blocks", "global"],
)
def test_kernels_hold_the_pattern_after_fit_and_after_the_next(arguments, holds):
    model = trained(MagnitudePruning(**arguments, frequency=2))
    found = kernels(model)
    assert all(holds(kernel) for kernel in found)
    if arguments.get("ranking") == "global":
        assert sum((k == 0).sum() for k in found) == pytest.approx(arguments["sparsity"] * 480, abs=4)
        assert sparsity_of(found[0]) != pytest.approx(sparsity_of(found[1]), abs=0.02)
    else:
        assert sparsity_of(found[0]) == pytest.approx(arguments["sparsity"], abs=0.01)
    after = kernels(trained(KeepZeros(), model))
    for now, then in zip(after, found, strict=True):
        np.testing.assert_array_equal(now == 0, then == 0)
        assert (now != then).any()


def test_zeros_that_are_there_stay_whatever_pattern_comes_on_top():
    model = trained(MagnitudePruning(0.4))
    before = [kernel == 0 for kernel in kernels(model)]
    for pruning in (MagnitudePruning(0.5, granularity="2:4"), MagnitudePruning(0.7, ranking="global")):
        trained(pruning, model)
        assert all((kernel[zero] == 0).all() for kernel, zero in zip(kernels(model), before, strict=True))
    assert all(keeps_two_of_four(kernel) for kernel in kernels(model))


def test_a_criterion_of_ones_own():
    class MagnitudeIncrease(MagnitudePruning):
        """Keeps the weights that training has made larger (Zhou et al., 2019)."""

        def on_train_begin(self, logs=None):
            self.before = {v.path: np.abs(v.numpy()) for v in self.model.trainable_variables}
            super().on_train_begin(logs)

        def score(self, weights, variable):
            return np.abs(weights) - self.before[variable.path]

    model = network()
    start = kernels(model)[0]
    pruned = trained(MagnitudeIncrease(0.5, end_step=8, frequency=100), model, epochs=1)
    assert sparsity_of(kernels(pruned)[0]) == 0.5
    # The largest are no longer the ones that are kept.
    assert ((kernels(pruned)[0] != 0) != magnitude_mask(start, 0.5)).mean() > 0.2


def test_a_pattern_of_ones_own():
    class Rows(MagnitudePruning):
        """Prunes inputs: whole rows of a kernel."""

        def mask(self, scores, sparsity, variable):
            rows = np.argsort(scores.sum(axis=-1))
            kept = scores == scores
            kept[rows[: round(sparsity * len(rows))]] = False
            return kept

    zero = kernels(trained(Rows(0.5)))[0] == 0
    assert (zero.all(axis=1) | ~zero.any(axis=1)).all() and zero.mean() == 0.5


def test_a_criterion_of_another_shape_is_refused():
    class Wrong(MagnitudePruning):
        def score(self, weights, variable):
            return np.abs(weights).sum(axis=0)

    with pytest.raises(ArgumentError, match="does not fit the kernel"):
        trained(Wrong(0.5))


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"sparsity": 0.5, "granularity": "4:2"}, "granularity"),
        ({"sparsity": 0.5, "granularity": "channel"}, "granularity"),
        ({"sparsity": 0.6, "granularity": "2:4"}, "sparsity"),
        ({"sparsity": 0.5, "granularity": "2:4", "ranking": "global"}, "ranking"),
        ({"sparsity": 0.5, "ranking": "layers"}, "ranking"),
        ({"sparsity": 0.5, "granularity": "block", "block_shape": (0, 4)}, "block_shape"),
        ({"sparsity": 0.5, "granularity": "block", "block_shape": 4}, "block_shape"),
    ],
)
def test_patterns_that_do_not_exist_are_refused(arguments, name):
    with pytest.raises(ArgumentError, match=name):
        MagnitudePruning(**arguments)


# --- the step and the file ------------------------------------------------------------------------------------------


def codes(path):
    """The weight tensors of a file as they are stored, outputs first."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))
    tensors = {tensor["name"]: tensor["index"] for tensor in interpreter.get_tensor_details()}
    names = [op.weight_tensor for op in inspect_file(path).ops if op.weight_tensor]
    return [interpreter.get_tensor(tensors[name]) for name in names]


def test_the_step_prunes_in_each_pattern():
    data, train = as_data((X, Y), test_fraction=0), TrainConfig(epochs=1, batch_size=32)
    two_of_four = prune_weights(network(), data, PruneConfig(granularity="2:4"), train=train)
    assert all(keeps_two_of_four(kernel) and sparsity_of(kernel) > 0.45 for kernel in kernels(two_of_four))
    blocks = prune_weights(network(), data, PruneConfig(0.75, granularity="block", block_shape=(3, 2)), train=train)
    assert all(whole_blocks(kernel, 3, 2) and sparsity_of(kernel) == 0.75 for kernel in kernels(blocks))
    ranked = prune_weights(network(), data, PruneConfig(0.75, ranking="global"), train=train)
    assert sum(int((kernel == 0).sum()) for kernel in kernels(ranked)) == 360


def test_the_patterns_are_in_the_file(tmp_path):
    model = network()
    hidden, head = model.layers
    two_of_four = MagnitudePruning(0.5, granularity="2:4", where=lambda layer: layer is hidden)
    blocks = MagnitudePruning(0.5, granularity="block", block_shape=(3, 2), where=lambda layer: layer is head)
    model.fit(X, Y, epochs=2, verbose=0, callbacks=[two_of_four, blocks])
    path = export_float(model, tmp_path / "float.tflite")
    first, second = codes(path)  # A file holds kernels with their outputs first.
    assert first.shape == (30, 12) and keeps_two_of_four(first, axis=-1)
    assert second.shape == (4, 30) and whole_blocks(second, 2, 3)
    assert [op.sparsity for op in inspect_file(path).ops if op.weight_tensor] == [0.5, 0.5]


def test_two_of_four_is_kept_by_quantization_aware_training_and_in_its_8_bit_file(tmp_path):
    data, quantize = as_data((X, Y), test_fraction=0), QuantizeConfig(bits=8, activations="dynamic")
    pruned = trained(MagnitudePruning(0.5, granularity="2:4", schedule="constant"))
    aware, _ = quantize_aware(pruned, data, quantize, train=TrainConfig(epochs=1), callbacks=[KeepZeros()])
    path = tmp_path / "aware.tflite"
    deploy(aware, [(format_of(8, "dynamic"), path)], X[:8])
    assert [op.weight_bits for op in inspect_file(path).ops if op.weight_tensor] == [8, 8]
    for stored, kernel in zip(codes(path), kernels(pruned), strict=True):
        assert (stored.T[kernel == 0] == 0).all() and keeps_two_of_four(stored, axis=-1)


@pytest.mark.slow
def test_the_examples_of_the_page_run_and_print_what_their_comments_say(root, tmp_path, monkeypatch, capsys):
    page = (root / "docs" / "patterns.md").read_text(encoding="utf-8")
    code = "\n".join(re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL))
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "docs/patterns.md", "exec"), {"__name__": "patterns"})
    said = [eval(value) for value in re.findall(r"^print\(.*# (\S+)$", code, re.MULTILINE)]
    printed = [eval(line) for line in capsys.readouterr().out.splitlines()]
    assert [round(value, 2) for value in printed] == said and len(said) == 10
