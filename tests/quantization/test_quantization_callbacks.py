"""When quantization starts in a training, and when ranges and statistics rest."""

import itertools

import keras
import numpy as np
import pytest
from keras import layers as L

from bigmodel.callbacks import FreezeRanges, QuantizationDelay
from bigmodel.config import QuantizeConfig
from bigmodel.errors import ArgumentError
from bigmodel.quantization.layers import FakeQuantize
from bigmodel.quantization.simulation import quantized_layers, simulate

RNG = np.random.default_rng(0)
X = RNG.normal(size=(96, 6)).astype("float32")
Y = RNG.integers(0, 3, 96)
STEPS = 6  # an epoch, of batches of 16


def network(bits=2, *, learned=False, normalised=False):
    keras.utils.set_random_seed(0)
    links = [L.Dense(8, name="first"), *([L.BatchNormalization()] if normalised else []), L.ReLU(), L.Dense(3)]
    model = keras.Sequential([keras.Input((6,)), *links])
    clipping = "learned" if learned else "min_max"
    return model, simulate(model, QuantizeConfig(bits=bits, activations="dynamic", method="aware", clipping=clipping))[
        0
    ]


def fit(model, callbacks=(), epochs=2, **settings):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1), loss, **settings)
    data = {"batch_size": 16, "shuffle": False, "verbose": 0}
    model.fit(X, Y, epochs=epochs, callbacks=list(callbacks), **data)
    return model


class At(keras.callbacks.Callback):
    """Notes something after each step."""

    def __init__(self, note):
        super().__init__()
        self.note, self.seen = note, []

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append(self.note())


@pytest.mark.parametrize("learned", [False, True])
def test_before_the_delay_ends_it_is_the_float_network_that_trains(learned):
    plain, simulation = network(learned=learned)
    note = At(lambda: simulation.get_layer("first").layer.kernel.numpy())
    fit(simulation, [QuantizationDelay(STEPS + 2), note])
    expected = At(lambda: plain.get_layer("first").kernel.numpy())
    fit(plain, [expected])
    same = [np.allclose(a, b, atol=1e-6) for a, b in zip(note.seen, expected.seen, strict=True)]
    assert same == [True] * (STEPS + 2) + [False] * (STEPS - 2)


def test_a_training_that_ends_before_the_delay_ends_quantized():
    plain, simulation = network()
    delay = QuantizationDelay(100)
    settled = At(lambda: delay.settled)
    fit(simulation, [delay, settled])
    assert not any(settled.seen) and delay.settled
    assert not any(layer.delayed for layer in quantized_layers(simulation))
    plain.set_weights([w for layer in quantized_layers(simulation) for w in layer.layer.get_weights()])
    assert np.abs(np.asarray(simulation(X)) - np.asarray(plain(X))).max() > 0.01


def test_learned_scales_start_where_the_weights_are_when_the_delay_ends():
    _, simulation = network(learned=True)
    layer = simulation.get_layer("first")
    before = layer.scales[0].numpy()
    fit(simulation, [QuantizationDelay(STEPS)], epochs=1)
    ((_, variable, quantization, scale),) = layer.grids()
    np.testing.assert_allclose(scale, quantization.min_max_scale(variable.value), rtol=1e-5)
    assert np.abs(layer.scales[0].numpy() - before).max() > 0


def test_a_delay_goes_on_where_a_checkpoint_was_written():
    delay = QuantizationDelay(STEPS + 2)
    _, simulation = network()
    fit(simulation, [delay], epochs=1)
    assert delay.get_state() == {"step": STEPS}
    resumed = QuantizationDelay(STEPS + 2)
    resumed.set_state(delay.get_state())
    settled = At(lambda: resumed.settled)
    fit(simulation, [resumed, settled], epochs=1)
    assert settled.seen == [False] * 2 + [True] * 4


def ranged(**how):
    keras.utils.set_random_seed(0)
    layer = FakeQuantize(name="ranged", **how)
    layer.set_range(-1.0, 1.0)
    return keras.Sequential([keras.Input((6,)), layer, L.Dense(3)]), layer


@pytest.mark.parametrize(("step", "turn"), [(4, 4), (None, 9), (0, 0)])
@pytest.mark.parametrize("how", [{"momentum": 0.9}, {"learned": True}], ids=["follows", "learned"])
def test_ranges_move_until_they_rest(how, step, turn):
    model, layer = ranged(**how)
    ends = layer._ends if layer.learned else lambda: (layer.low.value, layer.high.value)
    note = At(lambda: [float(end) for end in ends()])
    fit(model, [FreezeRanges(step), note])
    values = [[-1.0, 1.0], *note.seen]
    moved = [a != b for a, b in itertools.pairwise(values)]
    assert moved == [True] * turn + [False] * (2 * STEPS - turn)
    assert layer.fixed and np.asarray(layer.scale) == pytest.approx((values[-1][1] - values[-1][0]) / 255, rel=1e-5)


def dropped(momentum=0.5):
    keras.utils.set_random_seed(0)
    layer = FakeQuantize(name="ranged", momentum=momentum)
    layer.set_range(-1.0, 1.0)
    return keras.Sequential([keras.Input((6,)), L.Dropout(0.5), layer, L.Dense(3)]), layer


def extremes(batch):
    return np.mean([[x.min(), x.max()] for x in np.split(X, range(batch, len(X), batch))], axis=0)


@pytest.mark.parametrize("step", [9, 100], ids=["after they rested", "while they follow"])
def test_ranges_of_what_is_validated_are_those_at_inference(step):
    """Dropout doubles what it keeps; no file meets such values."""
    model, layer = dropped()
    fit(model, [FreezeRanges(step)])
    assert float(layer.high.value) > 1.2 * extremes(64)[1], "the case shows nothing"
    model, layer = dropped()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1), loss)
    ends = []
    keep = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: ends.append([float(layer.low.value), float(layer.high.value)])
    )
    data = {"batch_size": 16, "verbose": 0, "validation_data": (X, Y)}
    model.fit(X, Y, epochs=2, callbacks=[FreezeRanges(step, samples=X), keep], **data)
    np.testing.assert_allclose(ends, [extremes(64)] * 2, rtol=1e-6)
    assert float(layer.scale.value) == pytest.approx(np.diff(extremes(64))[0] / 255, rel=1e-5)


def test_normalisations_compute_with_their_moving_statistics_and_get_their_own_back():
    _, simulation = network(8, normalised=True)
    norm = next(layer for layer in simulation.layers if isinstance(layer, L.BatchNormalization))
    note = At(lambda: norm.moving_mean.numpy())
    gammas = At(lambda: norm.gamma.numpy())
    fit(simulation, [FreezeRanges(5), note, gammas])
    moved = [bool(np.any(a != b)) for a, b in zip(note.seen, note.seen[1:], strict=False)]
    assert moved == [True] * 4 + [False] * 7
    assert all(np.any(a != b) for a, b in zip(gammas.seen, gammas.seen[1:], strict=False))  # they still train
    mean = norm.moving_mean.numpy()
    fit(simulation, epochs=1)
    assert np.any(norm.moving_mean.numpy() != mean)


def test_a_stream_of_unknown_length_rests_in_time():
    import tensorflow as tf

    model, layer = ranged(momentum=0.9)
    stream = tf.data.Dataset.from_generator(
        lambda: zip(X.reshape(6, 16, 6), Y.reshape(6, 16), strict=True),
        output_signature=(tf.TensorSpec((16, 6)), tf.TensorSpec((16,), "int64")),
    )
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    note = At(lambda: float(layer.high.value))
    with pytest.warns(UserWarning, match="ran out of data"):
        model.fit(stream, epochs=4, verbose=0, shuffle=False, callbacks=[FreezeRanges(), note])
    moved = [a != b for a, b in zip([1.0, *note.seen], note.seen, strict=False)]
    assert moved == [True] * 18 + [False] * 6


@pytest.mark.parametrize("make", [lambda: QuantizationDelay(-1), lambda: FreezeRanges(-5)])
def test_steps_below_zero_are_refused(make):
    with pytest.raises(ArgumentError, match="can't be used") as caught:
        make()
    assert caught.value.fix


def test_a_subclass_says_when_by_its_own_rule():
    class WhenTwoEpochsAreDone(QuantizationDelay):
        def __init__(self):
            super().__init__(steps=2 * STEPS)

    delay = WhenTwoEpochsAreDone()
    settled = At(lambda: delay.settled)
    fit(network()[1], [delay, settled], epochs=3)
    assert settled.seen == [False] * 2 * STEPS + [True] * STEPS
