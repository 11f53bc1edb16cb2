from __future__ import annotations

import keras
import numpy as np
import pytest

from bigmodel.callbacks import GroupLasso, KeepZeros
from bigmodel.errors import ArgumentError, ModelError
from bigmodel.pruning.channels import find_channels, remove_channels
from bigmodel.pruning.lasso import kept_channels, shrinkage

layers = keras.layers
RNG = np.random.default_rng(0)
X = RNG.normal(size=(256, 12)).astype("float32")
Y = (X[:, 0] + X[:, 1] > 0).astype("int64") + 2 * (X[:, 2] > 0)


def network(optimizer=None, **compiled):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((12,)),
            layers.Dense(24, use_bias=False, name="a"),
            layers.BatchNormalization(name="norm"),
            layers.ReLU(),
            layers.Dense(20, "relu", name="b"),
            layers.Dense(4, "softmax", name="head", dtype="float32"),
        ]
    )
    model.compile(
        optimizer or keras.optimizers.SGD(0.2), "sparse_categorical_crossentropy", metrics=["accuracy"], **compiled
    )
    return model


def train(model, *callbacks, epochs=25, **arguments):
    return model.fit(X, Y, batch_size=32, epochs=epochs, verbose=0, callbacks=list(callbacks), **arguments)


def hidden(layer):
    return layer.name != "head"


def zero_columns(model):
    return [int((np.asarray(model.get_layer(name).kernel) == 0).all(axis=0).sum()) for name in ("a", "b")]


def test_the_shrinkage_minimises_the_penalised_distance():
    weights, threshold = RNG.normal(size=(5, 7)), np.array([0.5, 1.0, 2.0, 3.0, 9.0])
    norms = np.linalg.norm(weights, axis=1)
    shrunk = np.asarray(shrinkage(norms, threshold))[:, None] * weights

    def objective(candidate):
        return 0.5 * ((candidate - weights) ** 2).sum(axis=1) + threshold * np.linalg.norm(candidate, axis=1)

    best = objective(shrunk)
    for _ in range(200):
        assert (best <= objective(shrunk + RNG.normal(scale=0.1, size=weights.shape)) + 1e-9).all()
    np.testing.assert_array_equal((shrunk == 0).all(axis=1), norms <= threshold)


def test_one_step_is_the_gradient_step_and_then_the_shrinkage():
    rate, strength = 0.05, 0.4
    plain, model = (network(keras.optimizers.SGD(rate)) for _ in range(2))
    for each, callbacks in ((plain, []), (model, [GroupLasso(strength, where=hidden)])):
        each.fit(X, Y, batch_size=256, epochs=1, verbose=0, callbacks=callbacks)
    for name in ("a", "b"):
        updated, ours = (np.asarray(m.get_layer(name).kernel) for m in (plain, model))
        factors = np.maximum(1 - rate * strength * np.sqrt(updated.shape[0]) / np.linalg.norm(updated, axis=0), 0)
        np.testing.assert_allclose(ours, updated * factors, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(plain.get_layer("head").kernel, model.get_layer("head").kernel)


COMPILED = {
    "plain": {},
    "jit_compile": {"jit_compile": True},
    "steps_per_execution": {"steps_per_execution": 4},
    "gradient accumulation": {"optimizer": lambda: keras.optimizers.SGD(0.4, gradient_accumulation_steps=2)},
    "schedule": {"optimizer": lambda: keras.optimizers.SGD(keras.optimizers.schedules.CosineDecay(0.4, 200))},
}


@pytest.mark.parametrize("name", COMPILED)
def test_whole_channels_become_exactly_zero_however_the_model_is_compiled(name):
    model = network(**{key: value() if callable(value) else value for key, value in COMPILED[name].items()})
    train(model, epochs=1)
    log = train(model, GroupLasso(1e-2, where=hidden)).history
    gone = zero_columns(model)
    assert 0 < sum(gone) < 30
    assert log["zero_channels"][-1] == sum(gone) / 44
    assert log["accuracy"][-1] > 0.7
    assert all(variable.constraint is None for variable in model.variables)
    train(model, KeepZeros(), epochs=1)
    assert all(now >= then for now, then in zip(zero_columns(model), gone, strict=True))


def test_accumulated_gradients_are_penalised_once_for_each_update():
    updates = {steps: network(keras.optimizers.SGD(0.05, gradient_accumulation_steps=steps)) for steps in (None, 4)}
    for steps, model in updates.items():
        before = np.linalg.norm(model.get_layer("b").kernel, axis=0)
        still = np.zeros_like(X)  # Without an input there is no gradient: what is left is the penalty.
        model.fit(still, Y, batch_size=256 // (steps or 1), epochs=1, verbose=0, callbacks=[GroupLasso(0.4)])
        after = np.linalg.norm(model.get_layer("b").kernel, axis=0)
        np.testing.assert_allclose(before - after, 0.05 * 0.4 * np.sqrt(24), rtol=1e-3)


def test_mixed_precision_scales_the_loss_and_not_the_penalty():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = network()
    finally:
        keras.config.set_dtype_policy("float32")
    assert type(model.optimizer).__name__ == "LossScaleOptimizer"
    log = train(model, GroupLasso(1e-2, where=hidden)).history
    assert 0 < sum(zero_columns(model)) < 30 and log["accuracy"][-1] > 0.7


def test_no_strength_equals_plain_training():
    ours, plain = network(), network()
    train(ours, GroupLasso(0.0), epochs=2, shuffle=False)
    train(plain, epochs=2, shuffle=False)
    for a, b in zip(ours.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("given", ["function", "map"])
def test_channels_that_are_gone_can_be_removed_for_nothing(given):
    model = network()
    channels = find_channels if given == "function" else find_channels(model)
    log = train(model, GroupLasso(1e-2, channels=channels)).history
    found = find_channels(model)
    keep = kept_channels(found)
    removed = sum(int((~mask).sum()) for mask in keep.values())
    assert 4 < removed < 40 and removed == pytest.approx(log["zero_channels"][-1] * 44)
    norm = model.get_layer("norm")
    for name, mask in keep.items():
        if name.startswith("a"):
            assert (np.asarray(norm.gamma)[~mask] == 0).all() and (np.asarray(norm.beta)[~mask] == 0).all()
    smaller = remove_channels(model, keep)
    assert smaller.count_params() < 0.8 * model.count_params()
    np.testing.assert_allclose(smaller.predict(X, verbose=0), model.predict(X, verbose=0), atol=1e-5)
    assert log["accuracy"][-1] > 0.7


def test_groups_reach_over_flatten_and_addition():
    keras.utils.set_random_seed(0)
    image = keras.Input((6, 6, 1))
    stem = layers.Conv2D(12, 3, padding="same", activation="relu", name="stem")(image)
    added = layers.Add()([stem, layers.Conv2D(12, 3, padding="same", name="branch")(stem)])
    model = keras.Model(image, layers.Dense(2, name="head")(layers.Flatten()(added)))
    model.compile(keras.optimizers.SGD(0.1), "mse")
    x = RNG.normal(size=(64, 6, 6, 1)).astype("float32")
    model.fit(
        x, x.mean(axis=(1, 2))[:, [0, 0]], epochs=20, verbose=0, callbacks=[GroupLasso(0.02, channels=find_channels)]
    )
    keep = kept_channels(find_channels(model))
    assert sum(int((~mask).sum()) for mask in keep.values()) > 0
    np.testing.assert_allclose(
        remove_channels(model, keep).predict(x, verbose=0), model.predict(x, verbose=0), atol=1e-5
    )


def test_the_map_of_another_model_and_a_negative_strength_are_refused():
    with pytest.raises(ModelError, match="no channel to penalise"):
        train(network(), GroupLasso(1e-2, channels=find_channels(network())))
    for strength in (-1.0, True, "1", float("nan")):
        with pytest.raises(ArgumentError, match="strength"):
            GroupLasso(strength)
