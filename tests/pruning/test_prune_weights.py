from __future__ import annotations

import keras
import numpy as np
import pytest

from bigmodel.config import PruneConfig, TrainConfig
from bigmodel.data import Data, as_data, load_digits
from bigmodel.errors import ModelError
from bigmodel.pruning import prunable, prune_weights, sparsity_of

layers = keras.layers
TRAIN = TrainConfig(epochs=8, batch_size=64)


@pytest.fixture(scope="module")
def digits():
    (x_train, y_train), (x_test, y_test) = load_digits()
    flat = [x.reshape(len(x), -1).astype("float32") / 16 for x in (x_train, x_test)]
    return as_data(Data(train=(flat[0], y_train), test=(flat[1], y_test)))


@pytest.fixture(scope="module")
def model(digits):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((64,)), layers.Dense(96, "relu"), layers.Dense(10, "softmax")])
    model.compile(keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(digits.train.batches(64, shuffle=True), epochs=10, verbose=0, shuffle=False)
    return model


def accuracy(model, data):
    return model.evaluate(data.test.batches(128), verbose=0, return_dict=True)["accuracy"]


def test_a_pruned_model_is_new_sparse_and_about_as_good(model, digits):
    before = model.get_weights()
    pruned = prune_weights(model, digits, PruneConfig(0.8), train=TRAIN)
    for _, kernel in prunable(pruned):
        assert int((np.asarray(kernel) == 0).sum()) == round(0.8 * np.asarray(kernel).size)
    assert accuracy(pruned, digits) > accuracy(model, digits) - 0.03
    assert all((new == old).all() for new, old in zip(model.get_weights(), before, strict=True))
    assert type(pruned) is keras.Sequential and pruned.loss == model.loss
    assert float(pruned.optimizer.learning_rate) == pytest.approx(3e-3)


def test_the_same_seed_gives_the_same_model(model, digits):
    one, two = (prune_weights(model, digits, PruneConfig(0.6), train=TRAIN, seed=4) for _ in range(2))
    assert all((a == b).all() for a, b in zip(one.get_weights(), two.get_weights(), strict=True))


def test_where_and_no_training_at_all(model, digits):
    head = model.layers[-1].name
    config = PruneConfig(0.5, where=lambda layer: layer.name == head)
    pruned = prune_weights(model, digits, config, train=TrainConfig(epochs=0))
    assert [sparsity_of(layer.kernel) for layer in pruned.layers] == [0.0, 0.5]
    kept = np.asarray(pruned.layers[1].kernel)
    np.testing.assert_array_equal(kept[kept != 0], np.asarray(model.layers[1].kernel)[kept != 0])


def test_frozen_layers_are_part_of_the_order(model, digits):
    frozen = keras.models.clone_model(model)
    frozen.set_weights(model.get_weights())
    frozen.layers[0].trainable = False
    frozen.compile("adam", "sparse_categorical_crossentropy")
    pruned = prune_weights(frozen, digits, PruneConfig(0.5), train=TrainConfig(epochs=1))
    assert [sparsity_of(layer.kernel) for layer in pruned.layers] == [0.5, 0.5]
    assert not pruned.layers[0].trainable


def test_a_model_that_is_not_compiled_is_given_a_loss(digits):
    model = keras.Sequential([keras.Input((64,)), layers.Dense(10, "softmax")])
    pruned = prune_weights(model, digits, PruneConfig(0.5, schedule="constant"), train=TrainConfig(epochs=1))
    assert sparsity_of(pruned.layers[0].kernel) == 0.5 and not model.compiled


def test_a_callback_that_brings_weights_back_is_found_out(model, digits):
    class Undo(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            before = self.model.history.on_train_end

            def on_train_end(logs=None):
                before(logs)
                self.model.set_weights(model.get_weights())

            self.model.history.on_train_end = on_train_end

    with pytest.raises(ModelError, match="denser than asked for"):
        prune_weights(model, digits, PruneConfig(0.5), train=TrainConfig(epochs=1), callbacks=[Undo()])
