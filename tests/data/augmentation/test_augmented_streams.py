"""Augmented streams: the same for the same seed, exact where a formula says what comes out, else untouched."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from bigmodel.config import AugmentConfig
from bigmodel.config.augmentation import TRANSFORMS
from bigmodel.data import Data, as_data, load_digits
from bigmodel.data.augmentation import augment, kind_of
from bigmodel.data.augmentation.images import value_range
from bigmodel.errors import ArgumentError

RNG = np.random.default_rng(0)
SERIES = np.cumsum(RNG.normal(size=(60, 30, 2)), axis=1).astype("float32")
ROWS = RNG.normal(size=(400, 4)).astype("float32")


def read(data: Data, epoch: int = 0, batch_size: int = 32, shuffle: bool = False) -> list[np.ndarray]:
    """One epoch of train as whole arrays."""
    batches = data.train.batches(batch_size, shuffle=shuffle, epoch=epoch).as_numpy_iterator()
    return [np.concatenate(leaves) for leaves in zip(*map(keras.tree.flatten, batches), strict=True)]


def augmented(arrays: tuple, transforms: object, **arguments: object) -> list[np.ndarray]:
    data = as_data(arrays, validation_fraction=0, test_fraction=0)
    return read(augment(data, AugmentConfig(transforms), **arguments))


def images(count: int = 64, channels: int = 1) -> np.ndarray:
    return RNG.random((count, 8, 8, channels)).astype("float32")


EVERY = {
    "image": (images(), np.arange(64) % 3),
    "sequence": (SERIES, np.arange(60) % 3),
    "tabular": (ROWS, np.arange(400) % 3),
    "tokens": (RNG.integers(1, 50, (64, 12)), np.arange(64) % 3),
}


def embedding_model(length: int = 12) -> keras.Model:
    layers = [keras.layers.Embedding(50, 4), keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(3)]
    return keras.Sequential([keras.Input((length,), dtype="int32"), *layers])


@pytest.mark.parametrize("kind", sorted(TRANSFORMS))
def test_the_same_seed_and_epoch_give_the_same_stream_and_any_other_another(kind):
    model = embedding_model() if kind == "tokens" else None
    names = [name for name in TRANSFORMS[kind] if name != "randaugment"]
    first, second = (augment(EVERY[kind], AugmentConfig(names), seed=3, model=model) for _ in range(2))
    other = augment(EVERY[kind], AugmentConfig(names), seed=4, model=model)
    one, again = read(first, epoch=2, shuffle=True), read(second, epoch=2, shuffle=True)
    for a, b in zip(one, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(one[0], read(first, epoch=3, shuffle=True)[0])
    assert not np.array_equal(read(first)[0], read(other)[0])
    plain = read(as_data(first, model=model)) if kind != "tokens" else one
    assert plain[0].shape == read(first)[0].shape and one[0].dtype == read(first)[0].dtype


def test_a_stream_of_counted_epochs_goes_on_after_a_resume_as_it_would_have():
    data = augment(EVERY["image"], AugmentConfig(["rotation", "mixup"]), seed=1)
    unbroken = data.train.batches(16, shuffle=True, seed=5)
    epochs = [[batch[0] for batch in unbroken.as_numpy_iterator()] for _ in range(3)]
    resumed = [batch[0] for batch in data.train.batches(16, shuffle=True, seed=5, epoch=lambda: 2).as_numpy_iterator()]
    np.testing.assert_array_equal(np.concatenate(resumed), np.concatenate(epochs[2]))
    assert data.train.batches(16).cardinality() == unbroken.cardinality() == len(resumed)


def test_only_the_batches_of_train_are_varied():
    x, y = EVERY["image"]
    plain = as_data((x, y))
    data = augment(plain, AugmentConfig(["rotation"]))
    assert data.validation is plain.validation and data.calibration is plain.calibration and data.test is plain.test
    for split in (data.train, data.train.sample(10), data.train.sample(10_000)):
        rows = split.arrays()[0]
        np.testing.assert_array_equal(rows, (plain.train.sample(len(rows))).arrays()[0])
    sampled = data.train.sample(10_000)
    np.testing.assert_array_equal(next(sampled.batches(8).as_numpy_iterator())[0], sampled.arrays()[0][:8])
    assert plain.train.augmentation is None and as_data(data).train is data.train


@pytest.mark.parametrize(("name", "axis"), [("flip_horizontal", 2), ("flip_vertical", 1)])
def test_a_flip_of_all_images_is_numpys_and_its_masks_follow(name, axis):
    x = (images()[..., 0] * 255).astype("uint8")
    masks = (x > 100).astype("int64")
    flipped, moved = augmented((x, masks), {name: 1.0})
    assert flipped.dtype == np.uint8 and moved.dtype == np.int64
    np.testing.assert_array_equal(flipped, np.flip(x, axis))
    np.testing.assert_array_equal(moved, np.flip(masks, axis))


def test_masks_move_with_rotated_shifted_and_zoomed_images():
    masks = np.zeros((64, 16, 16), "int32")
    masks[:, 3:9, 4:12] = 1
    moved, labels = augmented((masks.astype("float32"), masks), ["rotation", "translation", "zoom"], seed=2)
    assert set(np.unique(labels)) == {0, 1} and not np.array_equal(labels, masks)
    assert ((moved > 0.5) == labels).mean() > 0.96  # bilinear pixels against nearest ones
    assert ((moved > 0.5) == masks).mean() < 0.93


def test_noise_has_the_deviation_that_was_asked_for_and_brightness_stays_in_range():
    x = np.full((200, 8, 8, 1), 0.5, "float32")
    x[0, 0, 0] = 0.0
    x[0, 0, 1] = 1.0
    noisy, _ = augmented((x, np.zeros(200)), {"noise": 0.05})
    assert (noisy - x).std() == pytest.approx(0.05, rel=0.05)
    bright, _ = augmented((x * 255, np.zeros(200)), {"brightness": 0.8, "contrast": 0.5})
    assert bright.min() >= 0 and bright.max() <= 255 and bright.std() > 50


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 255], (0, 255)),
        ([0.0, 0.7], (0, 1)),
        ([-0.5, 0.9], (-1, 1)),
        ([0, 16], (0, 16)),
        ([-2.1, 2.6], (-2.1, 2.6)),
    ],
)
def test_the_value_range_is_found_from_the_pixels(values, expected):
    assert value_range(np.array(values)) == expected


def test_cutout_erases_up_to_the_share_that_was_asked_for():
    x = images(100)
    cut, _ = augmented((x, np.zeros(100)), {"cutout": 0.25})
    changed = (cut != x).mean((1, 2, 3))
    assert 0.25 * 1.4 > changed.max() > 0.05  # sides are rounded to whole pixels
    assert np.unique(cut[cut != x]).size == 1


def test_randaugment_takes_grey_and_coloured_images():
    for channels in (1, 3):
        x = images(32, channels)
        data = augment((x, np.zeros(32)), AugmentConfig({"randaugment": 0.5}))
        first, second = read(data)[0], read(data)[0]
        assert first.shape[1:] == x.shape[1:] and first.min() >= 0 and first.max() <= 1
        np.testing.assert_array_equal(first, second)
        assert not np.array_equal(first, read(data, epoch=1)[0])


def test_mixup_mixes_one_hot_labels_as_it_mixes_inputs():
    classes = np.eye(4, dtype="float32")[np.arange(256) % 4]
    weights = 1.0 + np.arange(256) % 4
    x, y, w = augmented((classes, classes, weights.astype("float32")), {"mixup": 1.0})
    np.testing.assert_allclose(x @ np.array([1, 2, 3, 4]), w, rtol=1e-5)
    share = x * np.array([1, 2, 3, 4])  # a heavy sample's label weighs more
    np.testing.assert_allclose(y, share / share.sum(1, keepdims=True), atol=1e-5)
    assert ((y > 0).sum(1) > 1).mean() > 0.5


def test_mixup_gives_no_say_to_labels_of_weight_zero():
    rows = np.arange(256)
    classes = np.where(rows % 4 == 0, 9, rows % 3)
    _, y, _ = augmented((ROWS[:256], classes, (classes != 9).astype("float32")), {"mixup": 1.0})
    weightless = (classes == 9).sum()
    assert (y == 9).sum() < weightless  # only where two of them meet, or one is left as it was


def test_mixup_draws_classes_by_number_with_their_shares():
    classes = np.arange(4000) % 4
    data = as_data((np.eye(4, dtype="float32")[classes], classes), validation_fraction=0, test_fraction=0)
    x, y = read(augment(data, AugmentConfig({"mixup": 1.0})), batch_size=500)
    assert y.dtype == np.int64 and (x[np.arange(4000), y] > 0).all()
    surprise = np.eye(4)[y] - x  # has mean 0 given x: tested against x itself, where a bias would show
    deviation = np.sqrt((x * x * x * (1 - x)).sum(0))
    assert (np.abs((surprise * x).sum(0)) < 4 * deviation).all()


def test_cutmix_shares_labels_by_pixels_and_pastes_masks():
    classes = np.arange(64) % 4
    pixels = np.broadcast_to(classes[:, None, None], (64, 8, 8)).astype("float32")
    x, y, mask = augmented((pixels, (np.eye(4, dtype="float32")[classes], pixels.astype("int32"))), {"cutmix": 1.0})
    shares = np.stack([(x == c).mean((1, 2)) for c in range(4)], 1)
    np.testing.assert_allclose(y, shares, atol=1e-6)
    np.testing.assert_array_equal(mask, x)
    assert ((y > 0).sum(1) > 1).any()


def test_a_loss_tells_whether_labels_are_classes():
    x, y = ROWS, (np.arange(400) % 2).astype("int64")
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, "sigmoid")])
    model.compile(loss="binary_crossentropy")
    _, mixed = read(augment((x, y), AugmentConfig({"mixup": 1.0}), model=model))
    assert mixed.dtype == np.float32 and ((mixed > 0) & (mixed < 1)).any()


def test_time_is_warped_and_sliced_smoothly_and_labels_of_steps_follow():
    ramp = np.tile(np.arange(40, dtype="float32"), (50, 1))
    steps = np.rint(ramp).astype("int32")
    for name in ("time_warp", "window_slice"):
        x, y = augmented((ramp[..., None], steps), {name: 0.4})
        assert (np.diff(x[..., 0]) > 0).all() and x.min() >= 0 and x.max() <= 39
        assert not np.allclose(x[..., 0], ramp)
        np.testing.assert_array_equal(y, np.rint(x[..., 0]))
    assert (np.diff(x[:, [0, -1], 0]) >= 0.6 * 39 - 1e-3).all()
    np.testing.assert_allclose(np.diff(x[..., 0], 2), 0, atol=1e-4)  # a slice keeps one speed


def test_time_masking_jitter_and_scaling_have_the_size_that_was_asked_for():
    masked, _ = augmented((SERIES, np.zeros(60)), {"time_masking": 0.5})
    share = (masked != SERIES).any(-1).mean(1)
    assert share.max() < 0.5 + 1 / 30 and 0.15 < share.mean() < 0.35
    jittered, _ = augmented((SERIES, np.zeros(60)), {"jitter": 0.1})
    deviation = (jittered - SERIES).std((0, 1)) / SERIES.std((0, 1))
    np.testing.assert_allclose(deviation, 0.1, rtol=0.1)
    scaled, _ = augmented((SERIES, np.zeros(60)), {"scaling": 0.1})
    factors = scaled / SERIES
    np.testing.assert_allclose(factors, np.broadcast_to(factors[:, :1], factors.shape), rtol=1e-3)
    assert factors[:, 0].std() == pytest.approx(0.1, rel=0.3)


def test_tables_keep_their_codes_and_masked_features_take_values_of_their_column():
    codes = np.arange(400)[:, None] % 5
    x = np.concatenate([ROWS, codes], 1).astype("float32")
    noisy, _ = augmented((x, np.zeros(400)), {"noise": 0.1})
    np.testing.assert_array_equal(noisy[:, 4], x[:, 4])
    np.testing.assert_allclose((noisy - x)[:, :4].std(0) / x[:, :4].std(0), 0.1, rtol=0.2)
    masked, _ = augmented((x, np.zeros(400)), {"feature_masking": 0.3})
    assert (masked != x)[:, :4].mean() == pytest.approx(0.3, abs=0.05)
    assert all(np.isin(masked[:, j], x[:, j]).all() for j in range(5))


@pytest.mark.parametrize("side", ["before", "after"])
def test_tokens_are_deleted_masked_and_swapped_without_touching_the_padding(side):
    text = np.tile(np.arange(2, 11), (64, 1))
    padding = np.zeros((64, 3), int)
    ids = np.concatenate([padding, text] if side == "before" else [text, padding], 1).astype("int32")
    run = {"model": embedding_model(), "seed": 1}
    deleted, _ = augmented((ids, np.zeros(64)), {"token_deletion": 0.3}, **run)
    for row in deleted:
        left = row[row > 0]
        assert (np.diff(left) > 0).all()  # a part of the text, in its order
        np.testing.assert_array_equal(
            row, np.pad(left, (12 - len(left), 0) if side == "before" else (0, 12 - len(left)))
        )
    assert (deleted > 0).sum() / (ids > 0).sum() == pytest.approx(0.7, abs=0.06)
    masked, _ = augmented((ids, np.zeros(64)), {"token_masking": 0.3}, **run)
    assert (masked == 1).sum() / (ids > 0).sum() == pytest.approx(0.3, abs=0.06)
    assert ((masked == ids) | ((masked == 1) & (ids > 0))).all()
    swapped, _ = augmented((ids, np.zeros(64)), {"token_swap": 0.5}, **run)
    np.testing.assert_array_equal(np.sort(swapped, 1), np.sort(ids, 1))
    np.testing.assert_array_equal(swapped == 0, ids == 0)
    assert np.abs(swapped - ids).max() == 1 and 0.2 < (swapped != ids)[ids > 0].mean() < 0.7


def test_the_first_layer_that_decides_tells_the_kind():
    grey = keras.Input((12, 12), name="grey")
    wave = keras.Input((12, 12), name="wave")
    words = keras.Input((12,), name="words")
    table = keras.Input((12,), name="table")
    parts = [
        keras.layers.Flatten()(keras.layers.Conv2D(2, 3)(keras.layers.Reshape((12, 12, 1))(grey))),
        keras.layers.LSTM(2)(keras.layers.Rescaling(0.1)(wave)),
        keras.layers.Flatten()(keras.layers.Embedding(20, 2)(words)),
        keras.layers.Dense(2)(table),
    ]
    model = keras.Model([grey, wave, words, table], keras.layers.Dense(1)(keras.layers.Concatenate()(parts)))
    x = {"grey": SERIES[:20, :12].repeat(6, 2), "table": ROWS[:20].repeat(3, 1)}
    x |= {"wave": x["grey"], "words": np.arange(240).reshape(20, 12) % 20}
    data = as_data((x, np.zeros(20)), model=model)
    assert kind_of(data, model) == ("image", "tabular", "sequence", "tokens")  # by name
    varied = augment(data, AugmentConfig(["flip_vertical", "jitter", "mixup"]), model=model)
    assert any("nothing is mixed" in note for note in varied.notes)
    before, after = read(data), read(varied)
    changed = [not np.array_equal(a, b) for a, b in zip(before, after, strict=True)]
    assert changed == [True, False, True, False, False]  # grey, table, wave, words, labels


def test_auto_picks_by_the_kind_and_says_so():
    (x, y), _ = load_digits()
    data = augment((x, y), AugmentConfig())
    assert data.notes[-1].startswith("augmentation of x (image): rotation 0.04, zoom 0.1")
    assert augment(EVERY["tabular"], AugmentConfig(strength=2)).notes[-1] == "augmentation of x (tabular): noise 0.1"
    off = augment((x, y), AugmentConfig(strength=0))
    np.testing.assert_array_equal(read(off)[0], read(as_data((x, y)))[0])


def test_a_transform_of_another_kind_is_refused():
    with pytest.raises(ArgumentError, match="rotation can't be applied") as caught:
        augment(EVERY["tabular"], AugmentConfig(["noise", "rotation"]))
    assert "tabular: noise, feature_masking, mixup" in caught.value.expected


def test_a_model_trains_on_an_augmented_stream():
    (x, y), _ = load_digits()
    x = x.astype("float32") / 16
    model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10, "softmax")])
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    data = augment((x, y), AugmentConfig(["rotation", "mixup", "cutmix"]), model=model)
    history = model.fit(data.train.batches(64, shuffle=True), epochs=3, shuffle=False, verbose=0).history
    assert history["loss"][-1] < history["loss"][0]
