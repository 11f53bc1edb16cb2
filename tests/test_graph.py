"""Walking a model by its calls, and rebuilding it."""

import keras
import numpy as np
import pytest
from keras import layers

from bigmodel.errors import ModelError
from bigmodel.graph import rebuild, trace, walk


def mixed_model():
    """Two named inputs, masks, op nodes, an attention, keyword arguments, two named outputs."""
    tokens = keras.Input((6,), dtype="int32", name="tokens")
    extra = keras.Input((4,), name="extra")
    x = layers.Embedding(10, 6, mask_zero=True, name="embed")(tokens)
    x = layers.LSTM(5, return_sequences=True, name="lstm")(x)
    x = layers.MultiHeadAttention(2, 3, name="attend")(x, value=x)
    x = layers.GlobalAveragePooling1D(name="pool")(x)
    x = x[:, :3] * 2.0 + keras.ops.mean(extra, axis=-1, keepdims=True)
    x = keras.ops.concatenate([x, extra[:, 1:3]], axis=-1)
    first, second = keras.ops.split(x, [2], axis=-1)
    return keras.Model(
        {"tokens": tokens, "extra": extra}, {"left": layers.Dense(2, name="left")(first), "right": second}, name="mixed"
    )


def transfer_model():
    """A base model as a layer, called twice, frozen and in inference mode, with a layer shared around it."""
    inner = keras.Input((None, None, 3), name="image")
    x = layers.Conv2D(4, 3, padding="same", name="conv")(inner)
    x = layers.BatchNormalization(name="norm")(x)
    base = keras.Model(inner, layers.ReLU(name="act")(x), name="base")
    base.trainable = False
    left, right = keras.Input((8, 8, 3), name="a"), keras.Input((8, 8, 3), name="b")
    pool = layers.GlobalAveragePooling2D(name="pool")
    y = layers.Subtract(name="difference")([pool(base(left, training=False)), pool(base(right, training=False))])
    return keras.Model([left, right], layers.Dense(1, name="head")(y), name="siamese")


def samples(model, count=3):
    rng = np.random.default_rng(0)

    def sample(tensor):
        shape = (count, *(8 if size is None else size for size in tensor.shape[1:]))
        return rng.integers(0, 10, shape) if "int" in tensor.dtype else rng.normal(size=shape).astype("float32")

    return {tensor.name: sample(tensor) for tensor in model.inputs}


def predict(model, data):
    return model(keras.tree.map_structure(lambda tensor: data[tensor.name], model.input))


@pytest.mark.parametrize("make", [mixed_model, transfer_model])
def test_trace_visits_every_call_after_its_inputs(make):
    model = make()
    graph = trace(model, flatten=True)
    known = set()
    for call in graph:
        assert all(id(tensor) in known for tensor in call.inputs)
        known |= {id(tensor) for tensor in keras.tree.flatten(call.outputs)}
    assert {id(tensor) for tensor in keras.tree.flatten(graph.outputs)} <= known
    keras.tree.assert_same_structure(graph.outputs, model.output)
    assert {id(call.operation) for call in graph} >= {id(layer) for layer in walk(model) if layer.weights}


def test_trace_leaves_the_model_as_it_was():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3), layers.Dense(2)])
    outputs = [layer.output for layer in model.layers]
    trace(model)
    trace(model)
    assert [layer.output for layer in model.layers] == outputs  # `output` fails once a layer has a second call


def test_nested_calls_carry_their_path_and_are_listed_per_call_site():
    graph = trace(transfer_model(), flatten=True)
    convs = [call for call in graph if call.operation.name == "conv"]
    assert [call.path for call in convs] == [("base",), ("base",)]
    assert convs[0].operation is convs[1].operation
    assert {id(call.inputs[0]) for call in convs} == {id(tensor) for tensor in graph.inputs}
    assert [call.operation.name for call in trace(transfer_model())].count("base") == 2


@pytest.mark.parametrize("make", [mixed_model, transfer_model])
def test_rebuild_copies_names_structure_and_function(make):
    model = make()
    before = [variable.numpy() for variable in model.variables]
    copy = rebuild(model, copy_weights=True)
    assert [layer.name for layer in copy.layers] == [layer.name for layer in model.layers]
    assert copy.output_names == model.output_names
    assert [weight.path for weight in copy.weights] == [weight.path for weight in model.weights]
    assert [variable.trainable for variable in copy.variables] == [variable.trainable for variable in model.variables]
    data = samples(model)
    for ours, theirs in zip(
        keras.tree.flatten(predict(copy, data)), keras.tree.flatten(predict(model, data)), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    for variable in copy.variables:
        variable.assign(variable + 1)
    assert all(np.array_equal(a, b.numpy()) for a, b in zip(before, model.variables, strict=True))


def test_rebuild_replaces_layers_inside_nested_models_once():
    seen = []

    def replace(operation):
        seen.append(operation.name)
        return layers.Conv2D(7, 1, name="conv") if operation.name == "conv" else None

    model = transfer_model()
    new = rebuild(model, replace)
    assert seen.count("conv") == 1 and seen.count("base") == 1
    assert new.get_layer("base").output.shape == (None, None, None, 7)
    assert new.get_layer("head").kernel.shape == (7, 1)


def test_rebuild_narrows_the_input_of_a_nested_model():
    inner = keras.Input((8,), name="x")
    base = keras.Model(inner, layers.Dense(2, name="last")(inner), name="base")
    outer = keras.Input((4,))
    model = keras.Model(outer, base(layers.Dense(8, name="wide")(outer)))
    new = rebuild(model, lambda operation: layers.Dense(5, name="wide") if operation.name == "wide" else None)
    assert new.get_layer("base").get_layer("last").kernel.shape == (5, 2)


def test_after_inserts_behind_calls_and_inputs():
    model = keras.Sequential([keras.Input((4,), name="x"), layers.Dense(3, name="a"), layers.Dense(2, name="b")])

    def double(call, outputs):
        return outputs * 2.0 if call.operation.name in ("x", "a") else outputs

    new = rebuild(model, after=double, copy_weights=True)
    x = np.ones((2, 4), "float32")
    np.testing.assert_allclose(new(x), model.layers[1](2 * model.layers[0](2 * x)), rtol=1e-6)


def test_a_class_of_the_users_own_is_kept():
    class Mine(keras.Model):
        def train_step(self, data):
            return {"loss": 0.0}

    tensor = keras.Input((2,))
    assert type(rebuild(Mine(tensor, layers.Dense(1)(tensor)))) is Mine


def test_models_without_a_graph_are_refused():
    class Subclassed(keras.Model):
        def call(self, x):
            return x

    for model in (Subclassed(), keras.Sequential([layers.Dense(2)])):
        with pytest.raises(ModelError, match="no graph"):
            trace(model)


def test_a_layer_that_can_not_be_copied_is_named():
    class Closed(layers.Layer):
        def __init__(self, table):
            super().__init__(name="closed")
            self.table = table

        def call(self, x):
            return x

    tensor = keras.Input((2,))
    with pytest.raises(ModelError, match="'closed' can't be made again"):
        rebuild(keras.Model(tensor, Closed(object())(tensor)))
