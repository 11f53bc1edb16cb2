"""Synthetic samples: where they lie, what marks them, and that none of them is a held-out sample."""

from __future__ import annotations

import sys

import keras
import numpy as np
import pytest

from bigmodel.config import AugmentConfig
from bigmodel.data import Data, as_data, load_digits
from bigmodel.data.synthesis import METHODS, embed, synthesize, synthesize_features
from bigmodel.data.synthesis.embedding import invented
from bigmodel.data.synthesis.leaks import nearest
from bigmodel.errors import ArgumentError, DataError, DependencyError, ModelError

RNG = np.random.default_rng(0)
CLASSES = np.repeat([0, 1, 2], [150, 40, 10])
POINTS = (RNG.normal(size=(200, 3)) + 8 * CLASSES[:, None]).astype("float32")


@pytest.fixture(scope="module")
def model() -> keras.Model:
    layers = [keras.Input((3,)), keras.layers.Dense(6, "tanh"), keras.layers.Dense(3), keras.layers.Softmax()]
    model = keras.Sequential(layers)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


@pytest.fixture(scope="module")
def data(model) -> Data:
    return as_data((POINTS, CLASSES), model=model)


def made(data: Data) -> tuple[np.ndarray, np.ndarray]:
    x, y, _ = data.train.arrays()
    return x[data.train.synthetic], y[data.train.synthetic]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_marks_its_samples_and_leaves_the_rest(method, model, data):
    config = AugmentConfig(["noise"])
    first, second = (synthesize(model, data, method, share=0.5, seed=1, augment=config) for _ in range(2))
    other = synthesize(model, data, method, share=0.5, seed=2, augment=config)
    real = data.train.size
    assert first.train.synthetic.sum() == first.train.size - real <= real // 2
    np.testing.assert_array_equal(first.train.arrays()[0][~first.train.synthetic], data.train.arrays()[0])
    assert first.validation.source is data.validation.source and first.test.source is data.test.source
    assert any(f"synthesis by {method}" in note for note in first.notes) and data.notes == as_data(data).notes
    for a, b in zip(first.train.arrays()[:2], second.train.arrays()[:2], strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(made(first)[0], made(other)[0])
    x, y = made(first)
    assert np.isfinite(x).all() and (np.abs(x - 8 * y[:, None]) < 6).all()  # each lies within its own class


def test_the_mark_follows_the_samples(model, data):
    more = synthesize(model, data, "resample", share=1.0)
    sample = more.train.sample(50, seed=1)
    x = sample.arrays()[0]
    known = nearest(x, data.train.arrays()[0])[0] == 0
    np.testing.assert_array_equal(sample.synthetic, ~known)
    again = synthesize(model, more, "resample", share=0.5)
    assert (~again.train.synthetic).sum() == data.train.size  # from the real ones, and next to these alone
    assert not data.train.synthetic.any()


def test_rare_classes_are_raised_to_one_level(model, data):
    for method in ("balance", "smote"):
        more = synthesize(model, data, method, share=0.4, perturbation=0.0)
        sizes = np.bincount(more.train.arrays()[1])
        before = np.bincount(data.train.arrays()[1])
        assert sizes[0] == before[0] and abs(int(sizes[1]) - int(sizes[2])) <= 3  # a few leaks were dropped


def test_smote_lies_between_neighbours_of_a_class(model, data):
    x, y = made(synthesize(model, data, "smote", share=0.3))
    real, classes, _ = data.train.arrays()
    for point, c in zip(x[:20], y[:20], strict=True):
        own = real[classes == c]
        ways = own[:, None] - own[None]
        length = (ways**2).sum(-1)
        share = np.clip(((own[:, None] - point) * ways).sum(-1) / np.maximum(length, 1e-9), 0, 1)
        distance = np.linalg.norm(own[:, None] - share[..., None] * ways - point, axis=-1)
        assert distance.min() < 1e-4  # on a line between two samples


def test_smote_without_its_package_names_the_extra(data, monkeypatch):
    monkeypatch.setitem(sys.modules, "imblearn.over_sampling", None)
    with pytest.raises(DependencyError, match="bigmodel\\[synthesis\\]"):
        synthesize(None, data, "smote")


def test_interpolation_extrapolation_and_gaussians_have_the_geometry_of_their_names():
    features = np.array([[0.0, 0.0], [1.0, 0.0], [10.0, 10.0], [10.0, 14.0]])
    classes = np.array([0, 0, 1, 1])
    inside, owners = invented(features, classes, 300, 0, "interpolate")
    low = classes[owners] == 0
    assert (inside[low][:, 1] == 0).all() and (inside[low][:, 0] >= 0).all() and (inside[low][:, 0] <= 1).all()
    beyond, owners = invented(features, classes, 300, 0, "extrapolate")
    low = classes[owners] == 0
    reach = beyond[low][:, 0]
    assert reach.min() >= -0.5 and reach.max() <= 1.5 and ((reach <= 0) | (reach >= 1)).all()
    cloud = RNG.normal(size=(2000, 2)) @ np.array([[2.0, 1.0], [0.0, 0.5]]) + 3
    drawn, _ = invented(cloud, np.zeros(2000, int), 20_000, 0, "gaussian")
    np.testing.assert_allclose(drawn.mean(0), cloud.mean(0), atol=0.1)
    np.testing.assert_allclose(np.cov(drawn.T), np.cov(cloud.T), rtol=0.05)


def test_near_duplicates_of_held_out_samples_are_dropped(model):
    train = (POINTS[::2], CLASSES[::2])
    held = (POINTS[1::2], CLASSES[1::2])
    # The held-out samples stand between two training samples each, where interpolation would meet them.
    between = ((POINTS[0] + POINTS[2]) / 2)[None]
    split = as_data(Data(train=(POINTS[[0, 2]], np.zeros(2, int)), validation=(between, np.zeros(1, int))))
    more = synthesize(model, split, "interpolate", share=10, seed=0)
    assert all(np.linalg.norm(made(more)[0] - between, axis=1) > 0.1 * np.linalg.norm(POINTS[0] - POINTS[2]) / 2 * 0.5)
    clean = synthesize(model, as_data(Data(train=train, validation=held, test=held)), "interpolate", share=1.0)
    assert [note for note in clean.notes if "near" in note and note.endswith("of test")]


def test_exact_copies_of_a_held_out_sample_are_found():
    x = np.concatenate([POINTS, POINTS[:1] + 1e-7])
    split = as_data(Data(train=(POINTS[1:], CLASSES[1:]), test=(x[-1:], CLASSES[:1])), validation_fraction=0)
    from bigmodel.data.synthesis.leaks import without_leaks
    from bigmodel.data.synthesis.rows import Rows

    kept, notes = without_leaks(Rows(POINTS, CLASSES), Rows(POINTS[1:], CLASSES[1:]), split)
    assert kept.size == 199 and notes == ("synthesis: 1 of 200 samples dropped as (near) duplicates of test",)


def test_the_parts_of_a_model_are_the_model(model):
    before = model.get_config()
    parts = embed(model)
    np.testing.assert_allclose(parts.head(parts.encoder(POINTS)), model(POINTS), rtol=1e-5)
    np.testing.assert_allclose(parts.model(POINTS), model(POINTS), rtol=1e-5)
    assert model.get_config() == before and parts.head.weights[0] is parts.model.weights[2]
    assert not any(own is other for own in parts.model.weights for other in model.weights)
    with pytest.raises(ModelError, match="no encoder"):
        embed(keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]))


def test_features_train_the_head_of_the_copy(model, data):
    more, parts = synthesize_features(model, data, "gaussian", share=1.0)
    assert more.train.size == 2 * data.train.size and more.train.synthetic.sum() == data.train.size
    np.testing.assert_allclose(more.validation.arrays()[0], parts.encoder(data.validation.arrays()[0]), rtol=1e-5)
    parts.head.compile(keras.optimizers.Adam(0.05), "sparse_categorical_crossentropy")
    encoder, head = parts.model.get_weights()[0], parts.model.get_weights()[2]
    parts.head.fit(more.train.batches(32), epochs=2, verbose=0, shuffle=False)
    np.testing.assert_array_equal(parts.model.get_weights()[0], encoder)
    assert not np.array_equal(parts.model.get_weights()[2], head)


def test_images_keep_their_form_and_tokens_are_real_ones():
    (x, y), _ = load_digits()
    more = synthesize(None, (x[:300], y[:300]), "transform", share=0.2, augment=AugmentConfig(["rotation", "zoom"]))
    assert more.train.arrays()[0].dtype == np.uint8 and made(more)[0].shape[1:] == (8, 8)
    ids = RNG.integers(1, 20, (60, 7))
    layers = [keras.layers.Embedding(20, 4), keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(2)]
    model = keras.Sequential([keras.Input((7,), dtype="int32"), *layers])
    drawn = made(synthesize(model, (ids, np.arange(60) % 2), "gaussian", share=1.0))[0]
    assert (nearest(drawn.astype(float), ids.astype(float))[0] == 0).all()


def test_what_can_not_be_done_is_refused(model, data):
    for arguments in ({"method": "gan"}, {"share": 0}, {"share": 11}, {"share": "1"}, {"perturbation": -1}):
        with pytest.raises(ArgumentError):
            synthesize(model, data, **arguments)
    with pytest.raises(DataError, match="no classes to balance"):
        synthesize(None, (POINTS, RNG.normal(size=200)), "balance")
    import tensorflow as tf

    stream = tf.data.Dataset.from_tensor_slices((POINTS, CLASSES)).batch(8)
    with pytest.raises(DataError, match="stream"):
        synthesize(None, stream, "resample")
