"""Quantization-aware networks of tf_keras, by the toolkit."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import keras

from bigmodel.config import QuantizeConfig
from bigmodel.errors import ArgumentError, ModelError
from bigmodel.legacy.loading import load_tf_keras, load_toolkit
from bigmodel.legacy.network import all_layers, check_configs, free_name, is_network, own_classes, replay
from bigmodel.legacy.pruning import has_zeros, shares_values

Skips = list[dict[str, str]]


class Aware(NamedTuple):
    """A network that trains with fake quantization, and what it was made of.

    Args:
        network: The network.
        flat: The float one, nested networks written out, with a layer for each range that the toolkit would not learn.
        names: The layers of `flat` that are annotated.
        skipped: What stays float, and why.
    """

    network: Any
    flat: Any
    names: list[str]
    skipped: Skips


def check_quantization(config: QuantizeConfig) -> None:
    """Checks that the toolkit, or the converter, can do what a config orders.

    Raises:
        ModelError: It can't.
    """
    defaults = QuantizeConfig(bits=8)
    fixed = ("bits", "activation_bits", "observer", "clipping", "granularity", "rounding", "equalization")
    for name in (*fixed, "bias_correction", "delay", "freeze"):
        value = getattr(config, name)
        if value != getattr(defaults, name):
            raise ModelError(
                "tf_keras models are not quantized so.",
                received=f"QuantizeConfig({name}={value!r}) for a tf_keras model",
                expected="8 bits: the toolkit's static activations, the converter's post-training formats, or weights "
                "alone",
                fix="Move the model to Keras 3 first: bm.from_legacy(model).",
            )


def check_post_training(config: QuantizeConfig) -> None:
    """Checks that a config's `where` can be kept: TensorFlow's converter quantizes all layers.

    Raises:
        ArgumentError: It can't.
    """
    trains = config.method == "auto" and config.activations == "static"
    if config.where is not None and config.activations in ("dynamic", "static") and not trains:
        raise ArgumentError(
            "The converter quantizes all layers of a tf_keras model.",
            received=f"`where` with method={config.method!r}, activations={config.activations!r}",
            expected="method 'aware', or activations 'float', where layers are chosen",
            fix="Pass one of these, or move the model to Keras 3 first: bm.from_legacy(model).",
        )


def check_aware(config: QuantizeConfig) -> None:
    """Checks that quantization-aware training gives what a config orders.

    Raises:
        ArgumentError: The activations are not static.
    """
    if config.activations not in ("auto", "static"):
        raise ArgumentError(
            "The toolkit trains static activations only.",
            received=f"QuantizeConfig(method={config.method!r}, activations={config.activations!r})",
            expected="activations 'static' or 'auto' for a tf_keras model",
            fix="Pass activations='static', or activations='float' with method='post_training', or move the model to "
            "Keras 3 first: bm.from_legacy(model).",
        )


def aware(network: Any, config: QuantizeConfig) -> Aware:
    """Returns a network that trains with the toolkit's fake quantization, zeros and shared values preserved.

    Args:
        network: A float network; it is not changed. Nested networks in it are written out.
        config: Which layers.

    Raises:
        ModelError: The toolkit refuses every layer, or one can't be made again with its name.
    """
    _check_names(network)
    flat = flattened(network)
    names, skipped = _supported(flat, config)
    while names:
        try:
            ranged, ranges = _ranged(flat, names)
            return Aware(applied(ranged, names + ranges, _scheme(flat)), ranged, names + ranges, skipped)
        except (ValueError, RuntimeError) as error:  # it says of single layers in a pattern only here
            refused = [name for name in names if re.search(rf"\b{re.escape(name)}\b", str(error))]
            if not refused:
                raise ModelError(
                    "The toolkit can't quantize this model.",
                    received=" ".join(str(error).split())[:300],
                    expected="a model that tensorflow_model_optimization's quantize_apply takes",
                    fix="Move the model to Keras 3 first: bm.from_legacy(model).",
                ) from error
            names = [name for name in names if name not in refused]
            skipped += [_skip(name, "the toolkit refuses it in this place") for name in refused]
    raise ModelError(
        "The model has no layer to quantize.",
        received=", ".join(f"{row['layer']} ({row['reason']})" for row in skipped),
        expected="a layer that tensorflow-model-optimization quantizes and `where` chooses",
        fix="Check `where`, or move the model to Keras 3 first: bm.from_legacy(model).",
    )


def _check_names(network: Any) -> None:
    """Checks that layers keep their names when they are made again: the toolkit finds them by these."""
    check_configs(network)
    nameless = [layer for layer in all_layers(network) if layer.get_config().get("name") != layer.name]
    if nameless:
        kind = type(nameless[0]).__name__
        raise ModelError(
            "A layer of this tf_keras model loses its name when it is made again.",
            received="get_config() without 'name' of " + ", ".join(repr(layer.name) for layer in nameless),
            expected="a layer whose get_config() and __init__ take the arguments of tf_keras.layers.Layer too",
            fix=f"Begin {kind}.get_config() with super().get_config(), and hand **kwargs on in {kind}.__init__.",
        )


def _supported(network: Any, config: QuantizeConfig) -> tuple[list[str], Skips]:
    registry = _registry()
    names: list[str] = []
    skipped: Skips = []
    for layer in network.layers:
        kind = type(layer).__name__
        if kind == "InputLayer":
            continue
        if config.where is not None and layer.weights and not config.where(layer):
            skipped.append(_skip(layer.name, "left out by `where`"))
        elif registry.supports(layer) or kind in ("BatchNormalization", "SeparableConv1D", "SeparableConv2D"):
            names.append(layer.name)
        else:
            skipped.append(_skip(layer.name, f"tensorflow-model-optimization does not quantize {kind}"))
    return names, skipped


def _skip(name: str, reason: str) -> dict[str, str]:
    return {"layer": name, "step": "quantize", "reason": reason}


def applied(flat: Any, names: list[str], scheme: Any = None) -> Any:
    """Returns a quantization-aware network: `names` annotated, the scheme applied. The float one is not changed."""
    keras2, toolkit = load_tf_keras(), load_toolkit().quantization.keras

    def annotate(layer: Any) -> Any:
        made = type(layer).from_config(layer.get_config())
        if layer.name not in names:
            return made
        return toolkit.quantize_annotate_layer(made, _output_config() if _is_identity(layer) else None)

    annotated = keras2.models.clone_model(flat, clone_function=annotate)
    annotated.set_weights(flat.get_weights())
    with toolkit.quantize_scope(), keras2.utils.custom_object_scope(own_classes(flat)):
        return toolkit.quantize_apply(annotated, **({} if scheme is None else {"scheme": scheme}))


def _is_identity(layer: Any) -> bool:
    return type(layer).__name__ == "Activation" and layer.activation.__name__ == "linear"


def _output_config() -> Any:
    """Quantizes what a layer gives. The toolkit's own of an identity quantizes nothing."""
    module = "tensorflow_model_optimization.python.core.quantization.keras.default_8bit.default_8bit_quantize_configs"
    return importlib.import_module(module).Default8BitOutputQuantizeConfig()


def _ranged(flat: Any, names: list[str]) -> tuple[Any, list[str]]:
    """Puts an identity, whose range is learned, between what stays float and a quantized layer; also returns its name.

    The toolkit learns the ranges of what annotated layers give, and no others. A kernel behind a layer that stays float
    would get its 8 bits in the file and its inputs no range, so that the file computes what was not trained.
    """
    keras2 = load_tf_keras()
    taken = {layer.name for layer in flat.layers}
    new = {name: type(layer).from_config(layer.get_config()) for name, layer in _callable(flat).items()}
    identities: dict[int, Any] = {}
    made: list[str] = []

    def entered(value: Any) -> Any:
        producer = value._keras_history.layer if hasattr(value, "_keras_history") else None
        if producer is None or producer.name in (*names, *flat.input_names) or not value.dtype.is_floating:
            return value
        if id(value) not in identities:
            name = free_name(f"{producer.name}_range", taken)
            made.append(name)
            identities[id(value)] = keras2.layers.Activation("linear", name=name)(value)
        return identities[id(value)]

    def call(layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if layer.name in names:
            args, kwargs = _mapped(entered, args), _mapped(entered, kwargs)
        return new[layer.name](*args, **kwargs)

    ranged = _called_again(flat, call)
    if not made:
        return flat, made
    for name, layer in _callable(flat).items():
        new[name].set_weights(layer.get_weights())
    return ranged, made


def _callable(network: Any) -> dict[str, Any]:
    return {layer.name: layer for layer in network.layers if type(layer).__name__ != "InputLayer"}


def _scheme(network: Any) -> Any:
    combined = load_toolkit().experimental.combine
    if shares_values(network):
        return _careful(combined.Default8BitClusterPreserveQuantizeScheme(preserve_sparsity=has_zeros(network)))
    return _careful(combined.Default8BitPrunePreserveQuantizeScheme()) if has_zeros(network) else None


def _careful(scheme: Any) -> Any:
    """A preserving scheme that does not take a layer without weights for one that the toolkit supports."""
    registry, default = scheme.get_quantize_registry(), _registry()
    supports = registry.supports
    registry.supports = lambda layer: default.supports(layer) and supports(layer)
    scheme.get_quantize_registry = lambda: registry
    return scheme


def _registry() -> Any:
    return load_toolkit().quantization.keras.default_8bit.Default8BitQuantizeScheme().get_quantize_registry()


def settled(trained: Any, flat: Any, names: list[str]) -> Any:
    """Returns the trained network in the default scheme, its zeros and shared values written into its kernels.

    The preserving schemes compute those anew at each step, from masks that no file of the network keeps.
    """
    for layer in trained.layers:
        for weight, _, extra in getattr(layer, "_weight_vars", ()):
            if "sparsity_mask" in extra:
                weight.assign(weight * extra["sparsity_mask"])
    if shares_values(flat):
        trained = load_toolkit().experimental.combine.strip_clustering_cqat(trained)
    made = applied(flat, names)
    values = _by_name(trained)
    made.set_weights([values[name].numpy() for name in _by_name(made)])
    return made


def _by_name(network: Any) -> dict[tuple[str, int], Any]:
    """The weights by name: the toolkit numbers its input layers over all networks, so that they count from 0 here."""
    found: dict[tuple[str, int], Any] = {}
    for weight in network.weights:
        name = re.sub(r"quantize_layer(_\d+)?", "quantize_layer", weight.name)
        found[name, sum(name == other for other, _ in found)] = weight
    return found


def is_aware(network: Any) -> bool:
    """Says whether a network has the toolkit's fake quantization."""
    return any(type(layer).__name__.startswith("QuantizeWrapper") for layer in network.layers)


def flattened(network: Any) -> Any:
    """Returns a copy of a network with the layers of nested networks in their place: the toolkit takes none."""
    keras2 = load_tf_keras()
    if not any(is_network(layer) for layer in network.layers):
        made = keras2.models.clone_model(network)
        made.set_weights(network.get_weights())
        return made
    made_of: dict[int, Any] = {}
    taken: set[str] = set()

    def call(layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if is_network(layer):
            return replay(layer, _leaves(args[0]), call)
        if id(layer) not in made_of:
            name = free_name(layer.name, taken)
            made_of[id(layer)] = (layer, type(layer).from_config({**layer.get_config(), "name": name}))
        return made_of[id(layer)][1](*args, **kwargs)

    made = _called_again(network, call)
    for old, new in made_of.values():
        new.set_weights(old.get_weights())
    return made


def _called_again(network: Any, call: Any) -> Any:
    """A network of the same inputs and the calls that `call` makes."""
    keras2 = load_tf_keras()
    inputs = [keras2.Input(batch_shape=t.shape, dtype=t.dtype, name=t.name.partition(":")[0]) for t in network.inputs]
    outputs = replay(network, inputs, call)
    return keras2.Model(_packed(network._nested_inputs, inputs), outputs, name=network.name)


def _mapped(function: Any, structure: Any) -> Any:
    import tensorflow as tf

    return tf.nest.map_structure(function, structure)


def _leaves(structure: Any) -> list[Any]:
    import tensorflow as tf

    return list(tf.nest.flatten(structure))


def _packed(structure: Any, leaves: list[Any]) -> Any:
    import tensorflow as tf

    return tf.nest.pack_sequence_as(structure, leaves)


def config_of(network: Any, recipe: Mapping[str, Any] | None) -> dict[str, Any]:
    """Returns what makes a network again, JSON-ready: its config, or the recipe by which the toolkit made it."""
    return dict(recipe) if recipe else {"network": network.to_json()}


def recipe_of(flat: Any, names: list[str]) -> dict[str, Any]:
    """Returns the recipe of a quantization-aware network."""
    return {"network": flat.to_json(), "annotated": list(names)}


def network_from(recipe: Mapping[str, Any]) -> tuple[Any, dict[str, Any] | None]:
    """Makes a network from its config, without its weights; also returns its recipe where it has one."""
    names = set(re.findall(r'"(?:class_name|registered_name)": "([^"]+)"', recipe["network"]))
    found = {name: keras.saving.get_registered_object(name) for name in names}
    own = {name: value for name, value in found.items() if value is not None}
    network = load_tf_keras().models.model_from_json(recipe["network"], custom_objects=own)
    if "annotated" not in recipe:
        return network, None
    return applied(network, list(recipe["annotated"])), dict(recipe)
