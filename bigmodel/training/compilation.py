"""What `compile` was told, carried from one model to another with nothing shared that holds state."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import keras
import numpy as np

from bigmodel.errors import ModelError, describe

_PEAK_PROBES = (0, *(2**k for k in range(21)))


@dataclasses.dataclass(frozen=True)
class Compilation:
    """The settings that a model was compiled with.

    Args:
        settings: Arguments of `compile`, or what the model's own `get_compile_config` returned.
        is_custom: Whether the model has its own `compile`.
        decayed: For each trainable variable, whether weight decay acts on it.
    """

    settings: dict[str, Any]
    is_custom: bool
    decayed: tuple[bool, ...]

    @classmethod
    def of(cls, model: keras.Model) -> Compilation:
        """Reads the settings of a compiled model, which is not changed.

        Raises:
            ModelError: The model is not compiled, or its own `compile` can't be repeated.
        """
        if not model.compiled:
            raise ModelError(
                "The model is not compiled.",
                received=f"{type(model).__name__} {model.name!r} without a loss",
                expected="a compiled model",
                fix="Call model.compile(optimizer, loss, metrics) first.",
            )
        decayed = tuple(_decays(model.optimizer, variable) for variable in model.trainable_variables)
        if type(model).compile is keras.Model.compile:
            # Keras' public get_compile_config() turns functions into names; the arguments themselves stand here.
            return cls(dict(model._compile_config.config), False, decayed)
        if type(model).compile_from_config is keras.Model.compile_from_config:
            raise ModelError(
                "The model's own compile() can't be repeated on a copy.",
                received=f"{type(model).__name__} with compile() and without compile_from_config()",
                expected="get_compile_config() and compile_from_config() next to a compile() of one's own",
                fix=f"Write both in {type(model).__name__}, as keras.saving asks for too.",
            )
        return cls(model.get_compile_config(), True, decayed)

    def apply(self, model: keras.Model, *, learning_rate: Any = None, parts: int = 1, jit: bool | None = None) -> None:
        """Compiles a model with the settings, and with fresh optimizer and metric objects.

        Args:
            model: The model; what it was compiled with is replaced.
            learning_rate: A number or schedule in place of the optimizer's own.
            parts: Steps whose gradients make one update, in place of one.
            jit: Whether XLA compiles the steps; `None`: as in the settings.
        """
        if self.is_custom:
            model.compile_from_config(self.settings)
            if learning_rate is not None or parts > 1:
                model.optimizer = fresh_optimizer(model.optimizer, learning_rate=learning_rate, parts=parts)
        else:
            optimizer = self.settings["optimizer"]
            fresh = {
                "optimizer": optimizer and fresh_optimizer(optimizer, learning_rate=learning_rate, parts=parts),
                "metrics": keras.tree.map_structure(fresh_metric, self.settings["metrics"]),
                "weighted_metrics": keras.tree.map_structure(fresh_metric, self.settings["weighted_metrics"]),
            }
            model.compile(**{**self.settings, **fresh, **({} if jit is None else {"jit_compile": jit})})
        variables = model.trainable_variables
        if model.optimizer is not None and len(variables) == len(self.decayed):
            excluded = [v for v, decays in zip(variables, self.decayed, strict=True) if not decays]
            if excluded:
                _innermost(model.optimizer).exclude_from_weight_decay(var_list=excluded)


def compile_like(model: keras.Model, reference: keras.Model, *, learning_rate: Any = None) -> None:
    """Compiles a model as another one was. The other one is not changed, and shares no state with it.

    Carried over: optimizer with its configuration, loss, metrics, loss weights, weighted metrics, steps per execution,
    `jit_compile`, `run_eagerly` and what weight decay leaves out. Functions are carried as they are.

    Args:
        model: The model to compile, in place.
        reference: A compiled model.
        learning_rate: A number or a `keras.optimizers.schedules.LearningRateSchedule` in place of the optimizer's own.

    Raises:
        ModelError: The reference is not compiled, or has a part that can't be made again.

    Example:
        >>> reference = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        >>> reference.compile(keras.optimizers.SGD(0.5, momentum=0.9), "mse", metrics=["mae"])
        >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        >>> compile_like(model, reference)
        >>> model.optimizer.momentum, model.loss
        (0.9, 'mse')
    """
    Compilation.of(reference).apply(model, learning_rate=learning_rate)


def fresh_optimizer(optimizer: Any, *, learning_rate: Any = None, parts: int = 1) -> Any:
    """Makes an optimizer of the same class and configuration without state. The given one is not changed.

    Args:
        optimizer: The optimizer.
        learning_rate: A number or schedule in place of its own.
        parts: Steps whose gradients make one update, where its own take one.
    """
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        inner = fresh_optimizer(optimizer.inner_optimizer, learning_rate=learning_rate, parts=parts)
        config = optimizer.get_config()
        names = ("initial_scale", "dynamic_growth_steps")
        return keras.optimizers.LossScaleOptimizer(inner, **{name: config[name] for name in names})
    config = optimizer.get_config()
    if learning_rate is not None:
        config["learning_rate"] = learning_rate
    elif _schedule(optimizer) is not None:
        config["learning_rate"] = _schedule(optimizer)  # A schedule has no state: one of any class can be shared.
    if parts > 1:
        config["gradient_accumulation_steps"] = parts * (config["gradient_accumulation_steps"] or 1)
    return type(optimizer).from_config(config)


def fresh_metric(metric: Any) -> Any:
    """Makes a metric of the same class and configuration without state; names and functions come back as they are.

    Raises:
        ModelError: The metric can't be made from its configuration.
    """
    if not isinstance(metric, keras.metrics.Metric):
        return metric
    if type(metric) is keras.metrics.MeanMetricWrapper:  # Its configuration can't hold a function of the caller's.
        return keras.metrics.MeanMetricWrapper(metric._fn, name=metric.name, dtype=metric.dtype, **metric._fn_kwargs)
    config = metric.get_config()
    known = inspect.signature(type(metric)).parameters.values()
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in known):
        # Keras puts a name and a dtype into every configuration, whether the class takes them or not.
        config = {parameter.name: config[parameter.name] for parameter in known if parameter.name in config}
    try:
        return type(metric).from_config(config)
    except Exception as error:  # Whatever a class of the caller's own may raise.
        raise ModelError(
            "A metric of the model can't be made again.",
            received=describe(metric),
            expected="a metric with get_config(), from which from_config() makes another one",
            fix=f"Write get_config() in {type(metric).__name__}.",
        ) from error


def peak_learning_rate(model: keras.Model) -> float:
    """The compiled learning rate; of a schedule the highest within its first million steps."""
    optimizer = _innermost(model.optimizer)
    schedule = _schedule(optimizer)
    if schedule is None:
        return float(np.asarray(optimizer.learning_rate))
    return float(np.max([np.asarray(schedule(step)) for step in _PEAK_PROBES]))


def _schedule(optimizer: Any) -> Any:
    rate = optimizer._learning_rate
    return rate if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule) else None


def _innermost(optimizer: Any) -> Any:
    return getattr(optimizer, "inner_optimizer", optimizer)


def _decays(optimizer: Any, variable: keras.Variable) -> bool:
    optimizer = _innermost(optimizer)
    return optimizer is None or optimizer.weight_decay is None or optimizer._use_weight_decay(variable)
