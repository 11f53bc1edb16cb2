"""The shell: a Keras 3 model around a tf_keras one, so that everything that measures and writes takes it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import keras

from bigmodel.legacy.compilation import settings_of
from bigmodel.legacy.layer import TfKeras, plain
from bigmodel.legacy.loading import load_tf_keras
from bigmodel.legacy.network import check_graph, check_precision, own_classes


def shell(network: Any, *, recipe: Mapping[str, Any] | None = None, like: keras.Model | None = None) -> keras.Model:
    """Puts a tf_keras model into a Keras 3 model that computes the same. It is held as it is, not copied or changed.

    Args:
        network: A functional or built Sequential tf_keras model.
        recipe: How the toolkit made it, where it did.
        like: A compiled shell whose loss and metrics count; `None`: those that the network was compiled with.

    Returns:
        A functional model with the network's names, compiled where the network is.

    Raises:
        ModelError: The network is subclassed or not built, computes in 16 bits, or was compiled with what Keras 3
            lacks.
    """
    check_graph(network)
    check_precision(network)
    inputs = [
        keras.Input(batch_shape=tuple(t.shape), dtype=t.dtype.name, name=t.name.partition(":")[0].replace("/", "_"))
        for t in network.inputs
    ]
    structure = plain(network._nested_inputs)
    packed = keras.tree.pack_sequence_as(structure, inputs) if isinstance(structure, (dict, list)) else inputs[0]
    outputs = TfKeras(network, recipe, name=network.output_names[0].replace("/", "_"))(packed)
    made = keras.Model(packed, outputs, name=network.name)
    made.trainable = False  # what trains is the network, outside of Keras 3
    made.output_names = [name.replace("/", "_") for name in network.output_names]
    settings = settings_of(network) if like is None else None
    if like is not None and like.compiled:
        from bigmodel.training import compile_like

        compile_like(made, like)
    elif settings is not None:
        made.compile(**settings)
    return made


def layer_in(model: keras.Model) -> TfKeras | None:
    """Returns the layer of a shell; `None` for any other model."""
    layers = getattr(model, "layers", [])
    found = [layer for layer in layers if isinstance(layer, TfKeras)]
    return (
        found[0] if len(found) == 1 and all(isinstance(x, (TfKeras, keras.layers.InputLayer)) for x in layers) else None
    )


def network_in(model: keras.Model) -> Any:
    """Returns the tf_keras model in a shell; any other model as it is."""
    layer = layer_in(model)
    return model if layer is None else layer.network


@contextlib.contextmanager
def own_classes_known(model: keras.Model) -> Iterator[None]:
    """While it lasts, both Keras find the caller's own classes in the network of a shell."""
    own = own_objects(model)
    scope = load_tf_keras().utils.custom_object_scope(own) if own else contextlib.nullcontext()
    with keras.saving.custom_object_scope(own), scope:
        yield


def own_objects(model: keras.Model) -> dict[str, Any]:
    """Returns the classes in the network of a shell that are the caller's own, by name; nothing of any other model."""
    layer = layer_in(model)
    return {} if layer is None else own_classes(layer.network)
