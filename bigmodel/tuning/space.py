"""Where a search looks: the values that a trial understands, and ready-made spaces of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import keras

from bigmodel.config import Target, TrainConfig, TuneConfig
from bigmodel.data import Data
from bigmodel.errors import ArgumentError, ModelError, describe

Space = Callable[[Any], Mapping[str, Any]]
"""`space(hp) -> {name of VALUES: value}`, with `hp` a `keras_tuner.HyperParameters`."""

VALUES = {
    "optimizer": "Keras' name of an optimizer",
    "learning_rate": "its peak learning rate",
    "schedule": '"cosine" or "constant"',
    "batch_size": "samples per step",
    "epochs": "epochs of each training",
    "dropout": "rate of every dropout layer",
    "initializer": "Keras' name of an initializer: the trial starts from new weights",
    "weight_decay": "the optimizer's weight decay",
    "l2": "penalty on the squared weights",
    "label_smoothing": "of a crossentropy, 0..1",
    "augmentation": "strength of the augmentation, 0 (none) to 1",
    "channels": "share of the parameters that is left after channels are removed, 0..1",
    "sparsity": "share of each kernel that becomes zero, 0..1",
    "bits": "bits of the weights: 32 (float), 16, 8, 4 or 2",
    "activations": '"dynamic", "static" or "float", where there are 8 bits or fewer',
    "clipping": 'how a weight\'s scale is found: "min_max", "mse" or "learned"',
    "distillation": "share of the teacher's part in the loss at the start, 0..1",
}
"""What a trial understands, and nothing else; a name that is missing is left as it is."""

TRAINING = (
    *("optimizer", "schedule", "dropout", "initializer", "weight_decay", "l2", "label_smoothing", "augmentation"),
)
"""Those that ask for a training of the whole network before anything is compressed."""
_DROPOUTS = (keras.layers.Dropout, keras.layers.SpatialDropout1D, keras.layers.SpatialDropout2D)


@dataclasses.dataclass(frozen=True)
class Bounds:
    """What is worth a trial for a given model.

    Args:
        least_channels: Smallest share of the parameters that a trial may leave; 1: channels stay.
        most_epochs: Most epochs of a training.
        has_dropout: Whether there is a rate to set.
        from_start: Whether trials train from new weights.
        fixed: Values that were ordered, so that there is nothing to look for.
    """

    least_channels: float = 0.02
    most_epochs: int = 5
    has_dropout: bool = False
    from_start: bool = False
    fixed: tuple[str, ...] = ()


def training_space(hp: Any, bounds: Bounds) -> dict[str, Any]:
    """Declares the hyperparameters of training.

    Args:
        hp: A `keras_tuner.HyperParameters`.
        bounds: What is worth a trial.

    Returns:
        Values by the names of `VALUES`; those of a condition that does not hold are missing.
    """
    values = {
        "optimizer": hp.Choice("optimizer", ["adam", "adamw", "sgd", "rmsprop"]),
        "learning_rate": hp.Float("learning_rate", 1e-4, 3e-2, sampling="log", default=1e-3),
        "schedule": hp.Choice("schedule", ["cosine", "constant"]),
        "batch_size": hp.Choice("batch_size", [32, 64, 128, 256], default=128),
        "epochs": hp.Int("epochs", 1, bounds.most_epochs, default=bounds.most_epochs),
    }
    with hp.conditional_scope("optimizer", ["adamw"]):  # the others of Keras take none by default
        values["weight_decay"] = hp.Float("weight_decay", 1e-5, 1e-1, sampling="log", default=4e-3)
    values["augmentation"] = hp.Float("augmentation", 0.0, 1.0, step=0.25)
    if bounds.has_dropout:
        values["dropout"] = hp.Float("dropout", 0.0, 0.5, step=0.1)
    if bounds.from_start:
        values["initializer"] = hp.Choice("initializer", ["glorot_uniform", "he_normal", "lecun_normal", "orthogonal"])
    return {name: value for name, value in values.items() if value is not None}


def compression_space(hp: Any, bounds: Bounds) -> dict[str, Any]:
    """Declares the hyperparameters of compression; arguments and result as of `training_space`."""
    values = {}
    if "bits" not in bounds.fixed:
        values["bits"] = hp.Choice("bits", [8, 4], default=4)
        with hp.conditional_scope("bits", [4]):  # at 8 bits, clipping buys nothing
            values["clipping"] = hp.Choice("clipping", ["min_max", "mse"])
    if "sparsity" not in bounds.fixed:
        values["sparsity"] = hp.Choice("sparsity", [0.0, 0.5, 0.8])
    if bounds.least_channels < 1 and "channels" not in bounds.fixed:
        low = bounds.least_channels
        values["channels"] = hp.Float("channels", low, 1.0, sampling="log", default=max(low, 0.25))
        values["distillation"] = hp.Choice("distillation", [0.5, 0.0])
    return {name: value for name, value in values.items() if value is not None}


def joint_space(hp: Any, bounds: Bounds) -> dict[str, Any]:
    """Declares both; arguments and result as of `training_space`."""
    return {**training_space(hp, bounds), **compression_space(hp, bounds)}


_READY: dict[str, Callable[[Any, Bounds], dict[str, Any]]] = {
    "training": training_space,
    "compression": compression_space,
    "joint": joint_space,
}


def space_of(config: TuneConfig, bounds: Bounds) -> Space:
    """Returns the space that a config asks for, checked at each use.

    Args:
        config: Its `space` and `build` count.
        bounds: What is worth a trial.
    """

    def space(hp: Any) -> Mapping[str, Any]:
        if callable(config.space):
            return checked(config.space(hp))
        name = config.space or ("compression" if config.build is None else None)
        return {} if name is None else _READY[name](hp, bounds)

    return space


def checked(values: Any) -> dict[str, Any]:
    """Returns the values of a space, without those that are inactive.

    Raises:
        ArgumentError: It is no dict, or has a name that no trial understands.
    """
    if not isinstance(values, Mapping) or not set(values) <= set(VALUES):
        strange = sorted(set(values) - set(VALUES)) if isinstance(values, Mapping) else describe(values)
        raise ArgumentError(
            "The space can't be searched.",
            received=f"{strange}",
            expected="a dict with names among " + ", ".join(VALUES),
            fix="Return {'learning_rate': hp.Float(...)}; what shapes a model of your own belongs into build(hp).",
        )
    return {name: value for name, value in values.items() if value is not None}


def bounds_of(
    model: keras.Model | None, data: Data, target: Target, train: TrainConfig, *, channels: bool, seed: int
) -> Bounds:
    """Returns what is worth a trial; how sensitive the channels are is measured for it. Nothing is changed.

    What each group can lose alone, untrained, without losing more than ten times what the target allows (at least a
    tenth), tells how much of the network is idle; fine-tuning wins back more than that, so that a quarter of what has
    to stay is the least that is tried.

    Args:
        model: The model that trials start from; `None`: each builds its own.
        data: The splits of the search.
        target: How far the metric may fall.
        train: How trials train.
        channels: Whether channels may go.
        seed: Picks the samples.
    """
    least = 1.0 if model is None or not channels else _least_channels(model, data, target, seed)
    has_dropout = model is not None and any(isinstance(layer, _DROPOUTS) for layer in model._flatten_layers())
    return Bounds(least, max(1, train.epochs), has_dropout, model is None)


def _least_channels(model: keras.Model, data: Data, target: Target, seed: int) -> float:
    from bigmodel.pruning.channels import sensitivity

    try:
        measured = sensitivity(model, data, seed=seed)
    except ModelError:
        return 1.0
    shares = measured.largest_shares(max(10 * target.max_drop, 0.1))
    stays = [1 - share for share in shares.values()]
    return 1.0 if not stays else max(0.01, 0.25 * (sum(stays) / len(stays)) ** 2)
