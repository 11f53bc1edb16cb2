"""The Keras 3 layer that calls a tf_keras model. Registered, so that files with it load."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np


@keras.saving.register_keras_serializable("bigmodel")
class TfKeras(keras.layers.Layer):
    """Computes what a tf_keras model computes, at inference; it is not trained through Keras 3.

    Args:
        network: The tf_keras model; functional or Sequential. It is held as it is.
        recipe: How the toolkit made it from a float model, where it did: what makes it again when it is loaded.
        **kwargs: Arguments of `keras.layers.Layer`.
    """

    def __init__(self, network: Any, recipe: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        super().__init__(**{"trainable": False, "name": f"{network.name}_in_tf_keras", **kwargs})
        self.network = network
        self.recipe = dict(recipe) if recipe else None
        self.built = True

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        return self.network(inputs, training=False)

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
        return keras.tree.map_structure(
            lambda tensor: keras.KerasTensor(tuple(tensor.shape), dtype=tensor.dtype.name),
            plain(self.network._nested_outputs),
        )

    @property
    def variables(self) -> list[Any]:
        return list(self.network.weights)

    @property
    def weights(self) -> list[Any]:
        return list(self.network.weights)

    @property
    def trainable_variables(self) -> list[Any]:
        return []

    def get_config(self) -> dict[str, Any]:
        from bigmodel.legacy.quantization import config_of

        network = json.dumps(config_of(self.network, self.recipe), default=plain)
        return {**super().get_config(), "network": network}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> TfKeras:
        from bigmodel.legacy.quantization import network_from

        network, recipe = network_from(json.loads(config["network"]))
        return cls(**{**config, "network": network, "recipe": recipe})

    def save_own_variables(self, store: Any) -> None:
        for i, value in enumerate(self.network.get_weights()):
            store[str(i)] = value

    def load_own_variables(self, store: Any) -> None:
        self.network.set_weights([np.asarray(store[str(i)]) for i in range(len(self.network.weights))])


def plain(structure: Any) -> Any:
    """Lists, tuples, dicts and numbers as such: tf_keras wraps them to track them."""
    if isinstance(structure, Mapping):
        return {key: plain(value) for key, value in structure.items()}
    if isinstance(structure, (list, tuple)):
        return [plain(value) for value in structure]
    if type(structure).__name__ == "TensorShape":
        return structure.as_list()
    return structure.tolist() if isinstance(structure, (np.ndarray, np.generic)) else structure
