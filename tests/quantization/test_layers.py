"""The two layers of a simulation: what they compute, what they carry over from the layer inside, how they are saved."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from bigmodel.errors import ModelError
from bigmodel.quantization import RULES, FakeQuantize, Quantized, fake
from bigmodel.quantization.parts import find_weight, joined
from bigmodel.quantization.table import InputQuantization, WeightQuantization, rule_of, rules_of

RNG = np.random.default_rng(0)

# For each rule of the table a layer that follows it, and the shape of a batch for it.
ROWS = {
    layers.Dense: (lambda: layers.Dense(4, activation="relu"), (5, 6)),
    layers.EinsumDense: (lambda: layers.EinsumDense("abc,bcd->ad", 4, bias_axes="d"), (5, 3, 2)),
    layers.Conv1D: (lambda: layers.Conv1D(4, 3, padding="same"), (5, 8, 3)),
    layers.Conv2D: (lambda: layers.Conv2D(4, 3, strides=2), (5, 8, 8, 3)),
    layers.Conv3D: (lambda: layers.Conv3D(4, 2), (5, 4, 4, 4, 3)),
    layers.Conv1DTranspose: (lambda: layers.Conv1DTranspose(4, 3, strides=2), (5, 6, 3)),
    layers.Conv2DTranspose: (lambda: layers.Conv2DTranspose(4, 3, strides=2), (5, 6, 6, 3)),
    layers.Conv3DTranspose: (lambda: layers.Conv3DTranspose(4, 2), (5, 3, 3, 3, 2)),
    layers.DepthwiseConv1D: (lambda: layers.DepthwiseConv1D(3, depth_multiplier=2), (5, 8, 3)),
    layers.DepthwiseConv2D: (lambda: layers.DepthwiseConv2D(3, depth_multiplier=2), (5, 8, 8, 3)),
    layers.Embedding: (lambda: layers.Embedding(10, 4), (5, 6)),
    layers.LSTM: (lambda: layers.LSTM(4), (5, 6, 3)),
    layers.GRU: (lambda: layers.GRU(4, return_sequences=True), (5, 6, 3)),
    layers.SimpleRNN: (lambda: layers.SimpleRNN(4), (5, 6, 3)),
    layers.ConvLSTM2D: (lambda: layers.ConvLSTM2D(2, 3), (5, 3, 5, 5, 2)),
}


def batch(kind):
    _, shape = ROWS[kind]
    if kind is layers.Embedding:
        return RNG.integers(0, 10, shape)
    return RNG.normal(size=shape).astype("float32")


def built(kind, **changes):
    make, shape = ROWS[kind]
    layer = make()
    if changes:
        layer = type(layer).from_config({**layer.get_config(), **changes})
    layer.build(shape)
    return layer


def wrapped(layer, bits=8, *, dynamic=False, **kwargs):
    weights, inputs = {}, {}
    for path, (part, rule) in rules_of(layer).items():
        found = rule.weight_quantization(bits, part)
        weights |= {joined(path, name): quantization for name, quantization in found.items()}
        if dynamic and rule.inputs is not None:
            inputs[path] = rule.inputs(part, next(iter(found.values())).bits)
    return Quantized(layer, weights=weights, inputs=inputs.pop("", None), inner=inputs, **kwargs)


def test_every_rule_of_the_table_is_followed_by_a_row():
    followed = {type(part) for kind in ROWS for part, _ in rules_of(built(kind)).values()}
    assert followed == set(RULES)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("kind", ROWS, ids=lambda kind: kind.__name__)
def test_it_computes_as_the_layer_with_its_weights_put_on_the_grid_by_hand(kind, bits):
    layer, x = built(kind), batch(kind)
    by_hand = built(kind)
    for source, target in zip(layer.variables, by_hand.variables, strict=True):
        target.assign(source)
    layer = wrapped(layer, bits)
    for path, quantization in layer.quantized_weights.items():
        variable = find_weight(by_hand, path)
        w = variable.numpy()
        others = tuple(i for i in range(w.ndim) if i not in [axis % w.ndim for axis in quantization.axes])
        limit = 2 ** (quantization.bits - 1) - 1
        scale = np.abs(w).max(axis=others, keepdims=True) / np.float32(limit)
        variable.assign(np.rint(w / scale) * scale)
    before = [v.numpy() for v in layer.layer.variables]
    np.testing.assert_allclose(layer(x), by_hand(x), rtol=1e-5, atol=1e-6)
    for old, variable in zip(before, layer.layer.variables, strict=True):
        if "seed" not in variable.path:
            np.testing.assert_array_equal(old, variable.numpy())  # substituted, not assigned


@pytest.mark.parametrize("kind", ROWS, ids=lambda kind: kind.__name__)
def test_it_trains_and_its_weights_move(kind):
    shape = ROWS[kind][1]
    inputs = keras.Input(shape[1:], dtype="int32" if kind is layers.Embedding else "float32")
    layer = wrapped(built(kind), dynamic=True)
    model = keras.Model(inputs, layers.Flatten()(layer(inputs)))
    model.compile(optimizer=keras.optimizers.SGD(0.1), loss="mse")
    before = layer.get_weights()
    x = batch(kind)
    model.fit(x, np.ones((5, model.output_shape[1])), verbose=0)
    model.fit(x, np.ones((5, model.output_shape[1])), verbose=0)
    for path in layer.quantized_weights:
        kernel = find_weight(layer.layer, path)
        index = next(i for i, variable in enumerate(layer.weights) if variable is kernel)
        assert not np.array_equal(before[index], kernel.numpy())


@pytest.mark.parametrize("kind", ROWS, ids=lambda kind: kind.__name__)
def test_it_comes_back_from_its_config(kind):
    x, layer = batch(kind), wrapped(built(kind), 4, dynamic=True)
    expected = layer(x)
    again = Quantized.from_config(layer.get_config())
    again.build_from_config(layer.get_build_config())
    again.set_weights(layer.get_weights())
    assert again.get_config() == layer.get_config()
    np.testing.assert_array_equal(again(x), expected)


@pytest.mark.parametrize("kind", [layers.Dense, layers.Conv2D], ids=lambda kind: kind.__name__)
def test_fixed_scales_do_not_follow_the_weights(kind):
    layer = wrapped(built(kind))
    layer.fix_scales()
    (_, variable, _, scale), *_ = layer.grids()
    expected = np.asarray(RULES[kind].weight_quantization(8)["kernel"].min_max_scale(variable.value))
    np.testing.assert_array_equal(scale, expected)
    variable.assign(variable * 3.0)
    (_, _, _, later), *_ = layer.grids()
    np.testing.assert_array_equal(later, expected)
    inner = layer.layer
    plain = type(inner).from_config(inner.get_config())
    plain.build(ROWS[kind][1])
    plain.set_weights(inner.get_weights())
    plain.kernel.assign(np.clip(np.rint(variable.numpy() / expected), -127, 127) * expected)  # clipped, not rescaled
    x = batch(kind)
    np.testing.assert_allclose(layer(x), plain(x), rtol=1e-5, atol=1e-5)


def test_a_dynamic_input_is_quantized_before_the_kernel():
    layer, x = built(layers.Dense), batch(layers.Dense)
    expected = wrapped(layer)(np.asarray(fake.dynamic_fake_quantize(x, "row")))
    np.testing.assert_array_equal(wrapped(layer, dynamic=True)(x), expected)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_codes_under_mixed_precision_are_those_of_float32(policy):
    layer = built(layers.Conv2D, dtype=policy)
    assert layer.kernel.dtype == "float32"
    seen = []

    class Spy(layers.Conv2D):
        def call(self, inputs):
            seen.append((ops.convert_to_numpy(ops.cast(self.kernel, "float32")), self.compute_dtype))
            return super().call(inputs)

    spy = Spy.from_config(layer.get_config())
    spy.build(ROWS[layers.Conv2D][1])
    spy.kernel.assign(layer.kernel)
    outputs = Quantized(spy, weights={"kernel": WeightQuantization(8, (-1,))})(batch(layers.Conv2D))
    ((kernel, dtype),) = seen
    scale = np.abs(layer.kernel.numpy()).max(axis=(0, 1, 2)) / np.float32(127)
    assert dtype == policy.removeprefix("mixed_") == outputs.dtype.name
    # Rounded to the compute type after, and not before, it was put on the grid.
    on_grid = (np.rint(layer.kernel.numpy() / scale) * scale).astype("float32")
    np.testing.assert_array_equal(kernel, ops.convert_to_numpy(ops.cast(ops.cast(on_grid, dtype), "float32")))


def test_it_compiles_to_the_same_numbers():
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, wrapped(built(layers.Conv2D), dynamic=True)(inputs))
    x = batch(layers.Conv2D)
    model.compile(optimizer="sgd", loss="mse", jit_compile=True)
    np.testing.assert_allclose(model.predict(x, verbose=0), model(x), rtol=1e-5, atol=1e-5)
    assert np.isfinite(model.fit(x, np.zeros(model(x).shape), verbose=0).history["loss"][0])


def test_a_frozen_layer_is_quantized_and_stays():
    inner = built(layers.Dense)
    inner.trainable = False
    layer = wrapped(inner)
    assert layer.trainable_variables == []
    x = batch(layers.Dense)
    assert not np.array_equal(layer(x), inner(x))
    again = Quantized.from_config(layer.get_config())
    assert again.layer.trainable is False and again.trainable is False


def test_a_shared_layer_has_one_kernel_and_one_grid():
    layer = wrapped(built(layers.Dense, units=6))
    inputs = keras.Input((6,))
    model = keras.Model(inputs, layer(layer(inputs)))
    assert len(model.trainable_variables) == 2
    x = batch(layers.Dense)
    np.testing.assert_allclose(model(x), layer(layer(x)), rtol=1e-6)


# --- what a layer assigns and adds inside ---------------------------------------------------------------------------


@keras.saving.register_keras_serializable(package="tests")
class Counting(layers.Layer):
    """A dense layer with statistics, a counter and a loss of its own, all of them changed in its call."""

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 3), name="kernel")
        self.calls = self.add_weight(shape=(), initializer="zeros", trainable=False, name="calls")
        self.norm = layers.BatchNormalization(momentum=0.5)
        self.norm.build((None, 3))

    def call(self, inputs, training=False):
        self.calls.assign(self.calls + 1.0)
        self.add_loss(0.5 * ops.sum(ops.abs(self.kernel)))
        return self.norm(ops.matmul(inputs, self.kernel), training=training)


def test_state_assigned_inside_is_kept_and_losses_added_inside_count():
    inner = Counting()
    inner.build((None, 6))
    layer = Quantized(inner, weights={"kernel": WeightQuantization(4, (-1,))})
    x = batch(layers.Dense)
    outputs = layer(x, training=True)
    kernel = np.asarray(fake.fake_quantize_weights(inner.kernel.value, fake.symmetric_scale(inner.kernel, 4, (-1,)), 4))
    assert float(inner.calls) == 1.0
    np.testing.assert_allclose(inner.norm.moving_mean, 0.5 * (x @ kernel).mean(axis=0), rtol=1e-4, atol=1e-6)
    assert float(sum(layer.losses)) == pytest.approx(0.5 * np.abs(kernel).sum(), rel=1e-5)  # of the quantized kernel
    assert np.abs(np.asarray(outputs).mean(axis=0)).max() < 1e-5  # normalised by the batch
    layer(x)
    assert float(inner.calls) == 2.0 and len(layer.losses) == 1


def test_state_assigned_inside_is_kept_by_a_compiled_training():
    inner = Counting()
    inner.build((None, 6))
    inputs = keras.Input((6,))
    model = keras.Model(inputs, Quantized(inner, weights={"kernel": WeightQuantization(8, (-1,))})(inputs))
    model.compile(optimizer="sgd", loss="mse")
    before = float(inner.calls)
    model.fit(RNG.normal(size=(32, 6)), np.zeros((32, 3)), batch_size=8, epochs=2, verbose=0)
    assert float(inner.calls) == before + 8
    assert np.abs(inner.norm.moving_mean.numpy()).max() > 0


def test_dropout_inside_draws_anew_at_every_call():
    layer = wrapped(built(layers.LSTM, dropout=0.5, seed=3))
    x = np.ones((1, 6, 3), "float32")
    first, second = layer(x, training=True), layer(x, training=True)
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(layer(x), layer(x))


@pytest.mark.parametrize("name", ["kernel_regularizer", "activity_regularizer"])
def test_regularisers_count(name):
    inner = built(layers.Dense, **{name: keras.regularizers.L1(0.1)})
    x = batch(layers.Dense)
    layer = wrapped(inner)
    outputs = np.asarray(layer(x))
    expected = np.abs(inner.kernel.numpy()).sum() if name == "kernel_regularizer" else np.abs(outputs).sum() / len(x)
    assert float(sum(layer.losses)) == pytest.approx(0.1 * expected, rel=1e-4)


def test_masks_pass_through():
    tokens = np.array([[3, 5, 0, 0], [1, 2, 4, 0]])
    embedding = layers.Embedding(10, 4, mask_zero=True)
    embedding.build((None, 4))
    lstm = layers.LSTM(3)
    lstm.build((None, 4, 4))
    inputs = keras.Input((None,), dtype="int32")
    model = keras.Model(inputs, wrapped(lstm)(wrapped(embedding)(inputs)))
    short = model(tokens[:1, :2])
    np.testing.assert_allclose(model(tokens)[:1], short, rtol=1e-5, atol=1e-6)


# --- saved, and trained in several places ---------------------------------------------------------------------------


def test_a_model_loads_in_a_new_process_after_import_bigmodel_alone(python, tmp_path):
    inputs = keras.Input((8, 8, 3))
    x = wrapped(built(layers.Conv2D), 4, dynamic=True)(inputs)
    ranged = FakeQuantize(momentum=0.9, name="ranged")
    ranged.set_range(-1.0, 2.0)
    lstm = layers.LSTM(3)
    lstm.build((None, 9, 4))
    model = keras.Model(inputs, wrapped(lstm, fixed=True)(layers.Reshape((9, 4))(ranged(x))))
    model.save(tmp_path / "model.keras")
    x = batch(layers.Conv2D)
    np.save(tmp_path / "x.npy", x)
    code = (
        "import sys, bigmodel, keras, numpy as np\n"
        "model = keras.models.load_model(sys.argv[1] + '/model.keras')\n"
        "np.save(sys.argv[1] + '/y.npy', model.predict(np.load(sys.argv[1] + '/x.npy'), verbose=0))"
    )
    python(code, tmp_path)
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), model.predict(x, verbose=0), rtol=1e-5, atol=1e-6)


def test_the_table_may_be_the_first_thing_that_is_imported(python):
    # Its `import keras` brings in the layers, which need the table.
    assert python("import bigmodel.quantization.table as t; print(len(t.RULES))").split()[-1] == str(len(RULES))


@pytest.mark.slow
def test_it_trains_under_a_strategy_of_two_devices_as_on_one(python):
    code = """
import numpy as np, tensorflow as tf, keras
import bigmodel
from bigmodel.config import QuantizeConfig
from bigmodel.quantization.simulation import simulate
cpus = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpus[0], [tf.config.LogicalDeviceConfiguration()] * 2)
x, y = np.random.default_rng(0).normal(size=(32, 6)).astype("float32"), np.arange(32) % 3

def trained():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,))
    hidden = keras.layers.Dense(8, activation="relu")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(3)(hidden))
    model, _ = simulate(model, QuantizeConfig(bits=8, activations="dynamic"))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.SGD(0.1), loss=loss)
    model.fit(x, y, batch_size=16, epochs=2, shuffle=False, verbose=0)
    return model.get_weights()

one = trained()
with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
    two = trained()
print(max(float(np.abs(a - b).max()) for a, b in zip(one, two)))
"""
    assert float(python(code).splitlines()[-1]) < 1e-5


# --- FakeQuantize ---------------------------------------------------------------------------------------------------


def test_an_activation_lies_on_the_grid_of_its_range():
    layer = FakeQuantize()
    layer.set_range(-1.0, 3.0)
    x = RNG.normal(size=(4, 50)).astype("float32") * 2
    scale = 4.0 / 255
    zero_point = np.rint(-128 + 1.0 / scale)
    codes = np.clip(np.rint(x / np.float32(scale)) + zero_point, -128, 127)
    np.testing.assert_allclose(layer(x), (codes - zero_point) * scale, rtol=1e-5, atol=1e-6)


def test_a_grid_from_a_file_is_taken_as_it_is():
    layer = FakeQuantize()
    layer.set_grid(0.25, -128)
    np.testing.assert_array_equal(layer(np.float32([[-1.0, 0.3, 0.4, 100.0]])), [[0.0, 0.25, 0.5, 63.75]])


def test_a_range_moves_in_training_only():
    layer = FakeQuantize(momentum=0.9)
    layer.set_range(-1.0, 1.0)
    x = np.float32([[-3.0, 0.0, 5.0]])
    layer(x)
    assert (float(layer.low), float(layer.high)) == (-1.0, 1.0)
    layer(x, training=True)
    assert float(layer.low) == pytest.approx(0.9 * -1.0 + 0.1 * -3.0)
    assert float(layer.high) == pytest.approx(0.9 * 1.0 + 0.1 * 5.0)
    assert float(layer.scale) == pytest.approx((1.4 + 1.2) / 255, rel=1e-5)
    layer.momentum = None
    layer(x, training=True)
    assert float(layer.high) == pytest.approx(1.4)


def test_gradients_pass_a_range_that_moves_and_end_at_one_that_rests():
    layer = FakeQuantize(momentum=0.9)
    layer.set_range(-1.0, 1.0)
    x = tf.constant([[-3.0, -0.5, 0.5, 5.0]])

    def gradient():
        with tf.GradientTape() as tape:
            tape.watch(x)
            outputs = layer(x, training=True)
        return tape.gradient(outputs, x)

    np.testing.assert_array_equal(gradient(), [[1, 1, 1, 1]])
    layer.fix_range()
    np.testing.assert_array_equal(gradient(), [[0, 1, 1, 0]])


def test_a_range_layer_comes_back_from_its_config_and_keeps_half_precision():
    layer = FakeQuantize(momentum=0.8, name="r")
    assert FakeQuantize.from_config(layer.get_config()).get_config() == layer.get_config()
    assert layer(ops.cast(np.ones((2, 2)), "float16")).dtype == "float16"


# --- the table ------------------------------------------------------------------------------------------------------


def test_a_weight_that_is_not_there_is_an_error_that_names_those_that_are():
    layer = built(layers.Dense)
    with pytest.raises(ModelError, match="has no weight 'depthwise'") as caught:
        find_weight(layer, "depthwise")
    assert "kernel" in caught.value.received


def test_bits_without_a_kernel_become_the_next_more():
    weights = RULES[layers.DepthwiseConv2D].weight_quantization(4)
    assert weights["kernel"] == WeightQuantization(8, (-2, -1))


@pytest.mark.parametrize(
    ("layer", "shape", "bits", "expected"),
    [
        (layers.Dense(2), (None, 8), 4, InputQuantization("row")),
        (layers.Dense(2), (None, 7), 4, InputQuantization("row", "builtin")),
        (layers.Dense(2), (None, 7), 8, InputQuantization("row")),
        (layers.Conv2D(2, 1), (None, 4, 4, 3), 8, InputQuantization("row")),
        (layers.Conv2D(2, 1), (None, 4, 4, 3), 4, InputQuantization("sample", "builtin", (1, 1))),
        (layers.Conv2D(2, 1, strides=2), (None, 4, 4, 3), 8, InputQuantization("sample", "xnnpack", (1, 1))),
        (layers.Conv2D(4, 1, groups=2), (None, 4, 4, 4), 8, InputQuantization("sample", "xnnpack", (1, 1))),
        (layers.Conv1D(2, 3, dilation_rate=2), (None, 8, 3), 8, InputQuantization("sample", "xnnpack", (2,))),
        (layers.DepthwiseConv2D(3), (None, 8, 8, 3), 8, InputQuantization("sample", "builtin", (1, 1))),
        (
            layers.EinsumDense("abcd,cde->abe", (5, 2)),
            (None, 5, 3, 3),
            4,
            InputQuantization("row", "builtin", axes=(-2, -1)),
        ),
        (layers.EinsumDense("abc,bd->adc", (7, 6)), (None, 4, 6), 4, InputQuantization("row", axes=(-2,))),
        (layers.EinsumDense("...x,xy->...y", (5, 2)), (None, 5, 4), 8, InputQuantization("row")),
        (layers.EinsumDense("abc,bcd->abd", (5, 7)), (None, 5, 4), 8, None),
    ],
)
def test_the_kernel_that_runs_a_layer_decides_on_its_input(layer, shape, bits, expected):
    layer.build(shape)
    assert rule_of(layer).inputs(layer, bits) == expected
