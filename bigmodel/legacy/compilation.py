"""What a tf_keras model was compiled with, for Keras 3, and the other way round."""

from __future__ import annotations

import inspect
from typing import Any

import keras

from bigmodel.errors import ModelError, describe
from bigmodel.legacy.loading import load_tf_keras

_KEPT = ("loss", "metrics", "loss_weights", "weighted_metrics", "steps_per_execution")


def settings_of(model: Any) -> dict[str, Any] | None:
    """Returns the arguments of Keras 3's `compile` that mean what a tf_keras model was compiled with; `None`: nothing.

    Args:
        model: The tf_keras model; it is not changed.

    Raises:
        ModelError: A part has no counterpart in Keras 3.
    """
    if not getattr(model, "optimizer", None):
        return None
    given = dict(model._compile_config.config) if getattr(model, "_compile_config", None) else {}
    settings = {name: _kept(given.get(name)) for name in _KEPT}
    settings["loss"] = _structure(given.get("loss"), "losses")
    for name in ("metrics", "weighted_metrics"):
        settings[name] = _structure(given.get(name), "metrics")
    settings["steps_per_execution"] = settings["steps_per_execution"] or 1
    return {**settings, "optimizer": _optimizer(model.optimizer)}


def _kept(value: Any) -> Any:
    """A structure that tf_keras may have wrapped to track it, as plain lists and dicts."""
    if isinstance(value, dict):
        return {key: _kept(part) for key, part in value.items()}
    return [_kept(part) for part in value] if isinstance(value, (list, tuple)) else value


def _structure(value: Any, kind: str) -> Any:
    value = _kept(value)
    if isinstance(value, dict):
        return {key: _structure(part, kind) for key, part in value.items()}
    if isinstance(value, list):
        return [_structure(part, kind) for part in value]
    return _part(value, kind)


def _part(value: Any, kind: str) -> Any:
    if value is None or isinstance(value, str):
        return value
    module = getattr(value, "__module__", "")
    name = getattr(value, "__name__", type(value).__name__)
    if module.partition(".")[0] != "tf_keras":
        if isinstance(value, (load_tf_keras().losses.Loss, load_tf_keras().metrics.Metric)):
            raise _no_counterpart(value, kind)
        return value  # a function of the caller's own computes on tensors of both
    found = getattr(getattr(keras, kind), name, None)
    if found is None:
        raise _no_counterpart(value, kind)
    if not inspect.isclass(found):
        return found
    config = {key: part for key, part in value.get_config().items() if key in inspect.signature(found).parameters}
    if config.get("reduction") == "auto":
        del config["reduction"]
    return found(**config)


def _no_counterpart(value: Any, kind: str) -> ModelError:
    return ModelError(
        f"One of the model's {kind} has no counterpart in Keras 3.",
        received=describe(value),
        expected=f"a name, a function, or one of tf_keras.{kind} that Keras 3 has",
        fix="Compile the model with a function (y_true, y_pred), or with one that Keras 3 has.",
    )


def _optimizer(optimizer: Any) -> keras.optimizers.Optimizer:
    config = optimizer.get_config()
    found = getattr(keras.optimizers, type(optimizer).__name__, None)
    if found is None:
        raise _no_counterpart(optimizer, "optimizers")
    known = set(inspect.signature(found).parameters) - {"name"}
    arguments = {key: value for key, value in config.items() if key in known}
    arguments["learning_rate"] = _rate(config["learning_rate"], keras)
    return found(**arguments)


def _rate(rate: Any, package: Any) -> Any:
    """A learning rate as a number, or as a schedule of `package` where it is the config of one."""
    if isinstance(rate, dict):
        kind = getattr(package.optimizers.schedules, rate["class_name"])
        known = set(inspect.signature(kind).parameters) - {"name"}
        return kind(**{key: value for key, value in rate["config"].items() if key in known})
    return float(rate)


def training_settings(shell: keras.Model, learning_rate: Any = None) -> dict[str, Any]:
    """Returns arguments of tf_keras' `compile` that train as a shell was compiled; metrics are measured elsewhere.

    Args:
        shell: A compiled shell.
        learning_rate: A number or tf_keras schedule in place of the optimizer's own.
    """
    given = shell._compile_config.config
    optimizer = shell.optimizer
    kind = getattr(load_tf_keras().optimizers, type(optimizer).__name__)
    config = optimizer.get_config()
    arguments = {key: v for key, v in config.items() if key in inspect.signature(kind).parameters and key != "name"}
    arguments["learning_rate"] = learning_rate or _rate(config["learning_rate"], load_tf_keras())
    loss = keras.tree.map_structure(_per_sample, given["loss"])
    return {"optimizer": kind(**arguments), "loss": loss, "loss_weights": given["loss_weights"]}


def compile_as(network: Any, reference: Any) -> Any:
    """Compiles a tf_keras model as another one was, with fresh optimizer and metrics, and returns it.

    One that was not compiled leaves the model without compilation too.
    """
    if not getattr(reference, "optimizer", None):
        return network
    given = _kept(dict(reference._compile_config.config))
    optimizer = reference.optimizer
    fresh = {"optimizer": type(optimizer).from_config(optimizer.get_config())}
    for name in ("metrics", "weighted_metrics"):
        fresh[name] = keras.tree.map_structure(_fresh_metric, given.get(name))
    network.compile(**{**given, **fresh})
    return network


def _fresh_metric(metric: Any) -> Any:
    is_object = isinstance(metric, load_tf_keras().metrics.Metric)
    return type(metric).from_config(metric.get_config()) if is_object else metric


def _per_sample(loss: Any) -> Any:
    """A Keras 3 loss as a function: tf_keras weighs and sums what that returns for each sample."""
    if not isinstance(loss, keras.losses.Loss):
        return loss

    def call(y_true: Any, y_pred: Any) -> Any:
        return loss.call(y_true, y_pred)

    return call
