from __future__ import annotations

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from legacy_networks import chain, randomised
from tf_keras import Input, Model, layers

import bigmodel as bm
from bigmodel.errors import ArgumentTypeError, ModelError

RNG = np.random.default_rng(1)
IMAGES = RNG.random((3, 16, 16, 3)).astype("float32")
SERIES = RNG.random((3, 7, 5)).astype("float32")
WORDS = RNG.integers(1, 50, (3, 7)) * (np.arange(7) < [[7], [4], [5]])  # 0 is padding


def assert_equal(model, x, custom_objects=None):
    made = bm.from_legacy(model, custom_objects=custom_objects)
    wanted = tf.nest.flatten(model(x, training=False))
    given = keras.tree.flatten(made(x, training=False))
    assert len(given) == len(wanted)
    for a, b in zip(given, wanted, strict=True):
        assert np.std(b) > 1e-3, "an output that never changes shows nothing"
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)
    return made


def test_convolutions_with_their_normalisations_and_renamed_arguments():
    model = chain(
        (16, 16, 3),
        layers.Rescaling(0.5, offset=[1.0, 2.0, 3.0]),
        layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2, name="depth/wise"),
        layers.BatchNormalization(),
        layers.ReLU(6.0),
        layers.SeparableConv2D(6, 3),
        layers.LeakyReLU(alpha=0.1),
        layers.Conv2D(6, 3, groups=3),
        layers.Conv2DTranspose(4, 3, strides=2),
        layers.PReLU(shared_axes=[1, 2]),
        layers.GroupNormalization(2),
        layers.GlobalAveragePooling2D(),
        layers.Dense(3, activation="swish"),
    )
    made = assert_equal(model, IMAGES)
    assert made.get_layer("depth_wise").depth_multiplier == 2


def test_a_text_model_of_recurrent_layers_with_masks_and_keras_2s_hard_sigmoid():
    model = chain(
        (7,),
        layers.Embedding(50, 8, mask_zero=True),
        layers.Bidirectional(layers.LSTM(6, return_sequences=True, recurrent_activation="hard_sigmoid")),
        layers.TimeDistributed(layers.Dense(5, activation="tanh")),
        layers.LSTM(4),
        layers.Dense(2),
        dtype="int32",
    )
    assert_equal(model, WORDS)


def test_recurrent_layers_and_cells():
    model = chain(
        (7, 5),
        layers.GRU(6, return_sequences=True, reset_after=False),
        layers.GRU(6, return_sequences=True, implementation=1),
        layers.RNN([layers.LSTMCell(4), layers.GRUCell(3)], return_sequences=True),
        layers.SimpleRNN(5, return_sequences=True),
        layers.Conv1D(4, 3, padding="causal"),
        layers.LayerNormalization(),
        layers.GlobalMaxPooling1D(),
        layers.Dense(2),
    )
    assert_equal(model, SERIES)


def test_initial_states_are_handed_over():
    entry = Input((7, 5))
    sequence, *states = layers.LSTM(4, return_state=True, return_sequences=True)(entry)
    assert_equal(randomised(Model(entry, layers.LSTM(4)(sequence, initial_state=states))), SERIES)


def test_attention_tensorflow_functions_and_several_outputs():
    entry = Input((7, 5))
    y = layers.Add()([entry, layers.MultiHeadAttention(2, 3, value_dim=4)(entry, entry)])
    y = layers.Activation("gelu")(layers.LayerNormalization(epsilon=1e-6)(y))
    first = layers.Dense(3, activation=tf.nn.relu6)(y[:, 0]) * 2.0 + tf.reduce_mean(y, axis=1)[:, :3]
    second = tf.concat([first, tf.nn.relu(1.0 - first)], axis=-1)
    assert_equal(randomised(Model(entry, [first, second])), SERIES)


def test_nested_and_shared_networks_stay_so_with_their_frozen_part():
    image = Input((16, 16, 3))
    y = layers.BatchNormalization()(layers.Conv2D(4, 3, activation="swish")(image))
    inner = Model(image, layers.GlobalAveragePooling2D()(y), name="inner")
    inner.trainable = False
    a, b = Input((16, 16, 3), name="a"), Input((16, 16, 3), name="b")
    model = Model({"a": a, "b": b}, layers.Dense(2)(layers.Subtract()([inner(a, training=False), inner(b)])))
    made = assert_equal(randomised(model), {"a": IMAGES, "b": IMAGES[::-1]})
    assert isinstance(made.get_layer("inner"), keras.Model) and not made.get_layer("inner").trainable_variables
    assert len(made.trainable_variables) == 2

    frames = Input((2, 16, 16, 3))
    assert_equal(randomised(Model(frames, layers.LSTM(3)(layers.TimeDistributed(inner)(frames)))), IMAGES[:2][None])


def test_statistics_of_a_normalization_come_along():
    adapted = layers.Normalization()
    adapted.adapt(SERIES)
    assert_equal(tf_keras.Sequential([Input((7, 5)), adapted, layers.Dense(2)]), SERIES)


@pytest.mark.parametrize("name", ["model.h5", "model.keras", "saved_model"])
def test_files_of_keras_2_with_depthwise_convolutions(name, tmp_path):
    model = chain((16, 16, 3), layers.DepthwiseConv2D(3), layers.Flatten(), layers.Dense(2))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="You are saving your model as an HDF5 file")
        model.save(tmp_path / name)
    np.testing.assert_allclose(bm.from_legacy(tmp_path / name)(IMAGES), model(IMAGES), rtol=0, atol=1e-5)


def test_the_translation_trains_saves_and_loads_after_import_bigmodel_alone(tmp_path, python):
    model = chain((7, 5), layers.LSTM(4, recurrent_activation="hard_sigmoid"), layers.Dense(2))
    made = bm.from_legacy(model)
    made.save(tmp_path / "made.keras")
    np.save(tmp_path / "x.npy", SERIES)
    np.save(tmp_path / "y.npy", model(SERIES))
    python(
        "import sys, bigmodel, keras, numpy as np; x, y = np.load(sys.argv[2]), np.load(sys.argv[3]);"
        "np.testing.assert_allclose(keras.models.load_model(sys.argv[1])(x), y, rtol=0, atol=1e-5);"
        "assert 'tf_keras' not in sys.modules",
        *(tmp_path / name for name in ("made.keras", "x.npy", "y.npy")),
    )


def test_what_it_was_compiled_with_comes_along():
    model = chain((7, 5), layers.Flatten(), layers.Dense(2))
    rate = tf_keras.optimizers.schedules.CosineDecay(1e-2, 100)
    model.compile(
        tf_keras.optimizers.Adam(rate, beta_1=0.8),
        tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy", tf_keras.metrics.SparseTopKCategoricalAccuracy(2)],
    )
    made, y = bm.from_legacy(model), np.array([0, 1, 1])
    assert made.optimizer.beta_1 == 0.8
    assert float(made.optimizer.learning_rate) == pytest.approx(1e-2)
    wanted = model.evaluate(SERIES, y, verbose=0)
    np.testing.assert_allclose(made.evaluate(SERIES, y, verbose=0), wanted, rtol=1e-5)


class Twice(layers.Layer):
    def call(self, x):
        return 2 * x


class Twice3(keras.layers.Layer):
    def call(self, x):
        return 2 * x


def test_a_layer_of_ones_own_is_named_and_custom_objects_are_the_way_out():
    model = chain((7, 5), Twice(name="double"), layers.Dense(2))
    with pytest.raises(ModelError, match=r"'double'.*Twice.*[\s\S]*custom_objects=\{'Twice'"):
        bm.from_legacy(model)
    assert_equal(model, SERIES, {"Twice": Twice3})
    assert_equal(model, SERIES, {"double": keras.layers.Rescaling(2.0)})


def test_a_function_without_translation_is_named_and_may_be_given():
    entry = Input((7, 5))
    model = Model(entry, tf.math.cumsum(entry, axis=1))
    with pytest.raises(ModelError, match=r"tf\.math\.cumsum"):
        bm.from_legacy(model)
    assert_equal(model, SERIES, {"math.cumsum": lambda x, axis: keras.ops.cumsum(x, axis=axis)})


def test_an_argument_without_counterpart_is_named():
    model = chain((7, 5), layers.LSTM(4, time_major=True, name="turned"), layers.Dense(2))
    with pytest.raises(ModelError, match=r"'turned': LSTM\(time_major=True"):
        bm.from_legacy(model)


def test_what_is_no_tf_keras_model_is_refused(tmp_path):
    with pytest.raises(ArgumentTypeError, match="needs no translation"):
        bm.from_legacy(keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)]))
    with pytest.raises(ModelError, match="can't be read"):
        bm.from_legacy(tmp_path / "nothing.h5")


FAMILIES = {
    **dict.fromkeys(("MobileNet", "MobileNetV2", "MobileNetV3Small", "EfficientNetB0", "EfficientNetV2B0"), 32),
    **dict.fromkeys(("DenseNet121", "ResNet50", "ResNet50V2", "NASNetMobile", "ConvNeXtTiny", "VGG16"), 32),
    **{"Xception": 71, "InceptionV3": 75, "InceptionResNetV2": 75},
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[] if n in ("MobileNet", "MobileNetV3Small") else pytest.mark.slow) for n in FAMILIES],
)
@pytest.mark.filterwarnings("ignore:The .keras.initializers.serialize:UserWarning")  # of EfficientNetV2 in tf_keras
def test_every_family_of_applications_that_both_have(name):
    size = FAMILIES[name]
    kind = getattr(tf_keras.applications, name)
    head = {} if name == "NASNetMobile" else {"classifier_activation": None}
    model = kind(weights=None, input_shape=(size, size, 3), classes=10, **head)
    assert_equal(randomised(model), RNG.random((2, size, size, 3)).astype("float32"))
