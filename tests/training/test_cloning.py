from __future__ import annotations

import keras
import numpy as np
import pytest

from bigmodel.errors import ModelError
from bigmodel.training import clone, compile_like
from bigmodel.training.compilation import peak_learning_rate

layers = keras.layers


class TrainsItself(keras.Model):
    def train_step(self, data):
        return super().train_step(data)


class SequentialOfItsOwn(keras.Sequential):
    def train_step(self, data):
        return super().train_step(data)


class Subclassed(keras.Model):
    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.dense = layers.Dense(units)

    def call(self, x):
        return self.dense(x)

    def get_config(self):
        return {**super().get_config(), "units": self.units}


class Closed(keras.Model):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def call(self, x):
        return self.layer(x)

    def get_config(self):
        raise TypeError("no configuration")


class Doubled(keras.layers.Layer):
    def call(self, x):
        return 2 * x


def functional(cls=keras.Model):
    inputs = keras.Input((4,), name="in")
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(4), Doubled(), layers.BatchNormalization()])
    return cls(inputs, layers.Dense(2, name="out")(layers.Dropout(0.5)(inner(inner(inputs)))))


def built(model):
    model(keras.ops.zeros((1, 4)))
    return model


MODELS = {
    "functional, nested, custom layer": functional,
    "functional with train_step": lambda: functional(TrainsItself),
    "sequential": lambda: keras.Sequential([keras.Input((4,)), layers.Dense(2)]),
    "sequential with train_step": lambda: SequentialOfItsOwn([keras.Input((4,)), layers.Dense(2)]),
    "subclassed": lambda: built(Subclassed(3)),
    "frozen part": lambda: keras.Sequential([keras.Input((4,)), layers.Dense(3, trainable=False), layers.Dense(2)]),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_clone_is_of_the_same_class_and_computes_the_same_and_shares_nothing(name):
    model = MODELS[name]()
    model.compile("adam", "mse")
    for variable in model.weights:
        variable.assign(np.random.default_rng(len(variable.path)).normal(size=variable.shape))
    before = model.get_weights()
    second = clone(model)
    x = np.random.default_rng(0).normal(size=(5, 4)).astype("float32")
    assert type(second) is type(model) and second.name == model.name
    np.testing.assert_array_equal(second.predict(x, verbose=0), model.predict(x, verbose=0))
    assert len(second.trainable_variables) == len(model.trainable_variables)
    second.fit(x, np.zeros((5, second.output_shape[-1] if second.built and name != "subclassed" else 3)), verbose=0)
    assert all((new == old).all() for new, old in zip(model.get_weights(), before, strict=True))


def test_a_model_that_cannot_be_made_again_is_refused():
    model = built(Closed(layers.Dense(2)))
    with pytest.raises(ModelError, match="can't be made again"):
        clone(model)


def test_a_model_without_weights_is_refused():
    with pytest.raises(ModelError, match="no weights yet"):
        clone(keras.Sequential([layers.Dense(2)]))


def loss_of_ones_own(y_true, y_pred):
    return keras.ops.mean(keras.ops.abs(y_true - y_pred) ** 3, axis=-1)


class Squares(keras.metrics.Metric):
    def __init__(self, factor, name="squares"):
        super().__init__(name=name)
        self.factor = factor
        self.total = self.add_variable((), "zeros")

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.total.assign_add(self.factor * keras.ops.sum(keras.ops.square(y_true - y_pred)))

    def result(self):
        return self.total

    def get_config(self):
        return {**super().get_config(), "factor": self.factor}


class Forgetful(Squares):
    def get_config(self):
        return {}


def compiled():
    inputs = keras.Input((4,))
    model = keras.Model(inputs, {"a": layers.Dense(2, name="a")(inputs), "b": layers.Dense(1, name="b")(inputs)})
    optimizer = keras.optimizers.AdamW(2e-3, weight_decay=0.05, clipnorm=1.5)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    model.compile(
        optimizer,
        loss={"a": loss_of_ones_own, "b": keras.losses.Huber(0.3)},
        loss_weights={"a": 0.25, "b": 2.0},
        metrics={"a": ["mae", keras.metrics.MeanMetricWrapper(lambda t, p: p - t, name="bias")], "b": [Squares(2.0)]},
        weighted_metrics={"b": ["mse"]},
        steps_per_execution=2,
        jit_compile=False,
    )
    return model


X = np.random.default_rng(0).normal(size=(32, 4)).astype("float32")
Y = {"a": np.ones((32, 2), "float32"), "b": np.zeros((32, 1), "float32")}
W = {"a": np.ones(32), "b": np.arange(32.0)}


def test_everything_that_compile_was_told_is_carried_over():
    model = compiled()
    second = clone(model)
    for each in (model, second):
        each.measured = each.evaluate(X, Y, sample_weight=W, verbose=0, return_dict=True)
    assert model.measured == second.measured
    assert len(model.measured) == 7
    assert type(second.optimizer) is keras.optimizers.AdamW
    assert second.optimizer.get_config() == model.optimizer.get_config()
    assert second.steps_per_execution == 2 and second.jit_compile is False
    settings = {"sample_weight": W, "epochs": 2, "batch_size": 8, "shuffle": False, "verbose": 0}
    histories = [each.fit(X, Y, **settings).history for each in (model, second)]
    assert histories[0] == histories[1]


def test_a_metric_that_cannot_be_made_again_is_refused():
    model = functional()
    model.compile("adam", "mse", metrics=[Forgetful(2.0)])
    with pytest.raises(ModelError, match=r"Fix: Write get_config\(\) in Forgetful"):
        clone(model)


def test_nothing_with_state_is_shared():
    model = compiled()
    second = clone(model)
    assert second.optimizer is not model.optimizer
    model.fit(X, Y, verbose=0)
    assert int(second.optimizer.iterations) == 0
    assert {id(v) for v in model.metrics_variables}.isdisjoint(id(v) for v in second.metrics_variables)


def test_what_weight_decay_leaves_out_is_carried_over():
    second = clone(compiled())
    decayed = {v.name for v in second.trainable_variables if second.optimizer._use_weight_decay(v)}
    assert decayed == {"kernel"}


@pytest.mark.parametrize("rate", [0.5, keras.optimizers.schedules.CosineDecay(0.3, 100)])
def test_the_learning_rate_can_be_replaced(rate):
    reference, model = functional(), functional()
    reference.compile(keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True), "mse")
    compile_like(model, reference, learning_rate=rate)
    expected = rate if isinstance(rate, float) else 0.3
    assert float(model.optimizer.learning_rate) == pytest.approx(expected)
    assert model.optimizer.momentum == 0.9 and model.optimizer.nesterov
    assert float(reference.optimizer.learning_rate) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("rate", "peak"),
    [
        (3e-4, 3e-4),
        (keras.optimizers.schedules.ExponentialDecay(0.1, 1000, 0.9), 0.1),
        (keras.optimizers.schedules.CosineDecay(0.0, 5000, warmup_target=0.4, warmup_steps=512), 0.4),
    ],
)
def test_peak_learning_rate(rate, peak):
    model = functional()
    model.compile(keras.optimizers.Adam(rate), "mse")
    assert peak_learning_rate(model) == pytest.approx(peak, rel=1e-3)


def test_a_loss_scale_optimizer_stays_one():
    model = functional()
    model.compile(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.2), initial_scale=64.0), "mse")
    second = clone(model)
    assert isinstance(second.optimizer, keras.optimizers.LossScaleOptimizer)
    assert second.optimizer.initial_scale == 64.0 and peak_learning_rate(second) == pytest.approx(0.2)


class CompilesItself(keras.Model):
    def compile(self, optimizer, distance):
        super().compile(optimizer, loss=distance)
        self.distance = distance


class CompilesItselfAgain(CompilesItself):
    def get_compile_config(self):
        return {"optimizer": keras.saving.serialize_keras_object(self.optimizer), "distance": self.distance}

    def compile_from_config(self, config):
        self.compile(keras.saving.deserialize_keras_object(config["optimizer"]), config["distance"])


def test_a_compile_of_ones_own_is_repeated_or_refused():
    model = functional(CompilesItselfAgain)
    model.compile(keras.optimizers.SGD(0.1), "mae")
    second = functional(CompilesItselfAgain)
    compile_like(second, model, learning_rate=0.02)
    assert second.distance == "mae" and float(second.optimizer.learning_rate) == pytest.approx(0.02)
    model = functional(CompilesItself)
    model.compile("sgd", "mae")
    with pytest.raises(ModelError, match="compile_from_config"):
        clone(model)


def test_an_uncompiled_reference_is_refused():
    with pytest.raises(ModelError, match="not compiled"):
        compile_like(functional(), functional())
