"""Dropout, batch normalisation, weight decay and label smoothing, put into a model or changed in it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from bigmodel.errors import ArgumentError, ModelError, describe
from bigmodel.graph import Call, copy_operation, rebuild, trace, walk
from bigmodel.training.compilation import Compilation, fresh_optimizer

DROPOUTS = (
    keras.layers.Dropout,
    keras.layers.SpatialDropout1D,
    keras.layers.SpatialDropout2D,
    keras.layers.SpatialDropout3D,
    keras.layers.GaussianDropout,
    keras.layers.AlphaDropout,
)
_WEIGHTED = (
    keras.layers.Dense,
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
    keras.layers.DepthwiseConv1D,
    keras.layers.DepthwiseConv2D,
    keras.layers.SeparableConv1D,
    keras.layers.SeparableConv2D,
)
_NORMS = (keras.layers.BatchNormalization, keras.layers.LayerNormalization, keras.layers.GroupNormalization)
_FOLLOWING = (
    *_NORMS,
    keras.layers.Activation,
    keras.layers.ReLU,
    keras.layers.LeakyReLU,
    keras.layers.PReLU,
    keras.layers.ELU,
    keras.layers.Softmax,
)
_SPATIAL = {3: keras.layers.SpatialDropout1D, 4: keras.layers.SpatialDropout2D, 5: keras.layers.SpatialDropout3D}
_LIMITS = {"dropout": 1.0, "batch_normalization": 1.0, "l2": np.inf, "weight_decay": np.inf, "label_smoothing": 1.0}


@keras.saving.register_keras_serializable("bigmodel")
class SparseCategoricalSmoothedCrossentropy(keras.losses.SparseCategoricalCrossentropy):
    """Crossentropy of classes by number with label smoothing, which Keras has for one-hot labels only.

    Args:
        label_smoothing: Share of the label that is spread over all classes.
        from_logits: Whether the outputs are logits.
        **arguments: Those of `keras.losses.SparseCategoricalCrossentropy`.
    """

    def __init__(self, label_smoothing: float = 0.1, from_logits: bool = False, **arguments: Any) -> None:
        super().__init__(from_logits=from_logits, **arguments)
        self.label_smoothing = label_smoothing

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Returns the loss of each label."""
        if len(y_true.shape) == len(y_pred.shape):
            y_true = keras.ops.squeeze(y_true, -1)
        labels = keras.ops.one_hot(keras.ops.cast(y_true, "int32"), y_pred.shape[-1], dtype=y_pred.dtype)
        return keras.losses.categorical_crossentropy(
            labels, y_pred, from_logits=self.from_logits, label_smoothing=self.label_smoothing
        )

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments."""
        config = super().get_config()
        config.pop("ignore_class", None)
        return {**config, "label_smoothing": self.label_smoothing}


def regularize(
    model: keras.Model,
    *,
    dropout: float | None = None,
    batch_normalization: float | None = None,
    l2: float | None = None,
    weight_decay: float | None = None,
    label_smoothing: float | None = None,
    seed: int = 0,
) -> keras.Model:
    """Changes what keeps a model from overfitting. The caller's model is not changed; its weights are carried over.

    Each value sets what is there and puts it where it is missing; 0 takes dropout, L2, decay and smoothing away, and
    `None` leaves them as they are.

    Args:
        model: A functional model, or a built Sequential one.
        dropout: Rate of all dropout layers. A model without any gets one behind each hidden dense or convolutional
            layer and its activation; of convolutions whole channels are dropped.
        batch_normalization: Momentum of all batch normalisations. A hidden layer without a norm behind it gets one
            before its activation; at first it changes no output at inference.
        l2: Factor of the squared kernels in the loss.
        weight_decay: The optimizer's decay of kernels per step, in units of the learning rate; biases and norms have
            none.
        label_smoothing: Share of each label that is spread over all classes.
        seed: Seed of the dropout layers that are put in.

    Returns:
        A new model, compiled like the caller's but for the decay and the smoothing.

    Raises:
        ArgumentError: A value is out of range, or there is nothing to change: no optimizer, or no loss over classes.
        ModelError: The model has no graph of layers.

    Source:
        N. Srivastava et al., JMLR 2014; J. Tompson et al., CVPR 2015 (spatial dropout); S. Ioffe and C. Szegedy, ICML
        2015; I. Loshchilov and F. Hutter, ICLR 2019 (decay); C. Szegedy et al., CVPR 2016 (smoothing).

    Example:
        >>> layers = [keras.Input((4,)), keras.layers.Dense(8, "relu", name="a"), keras.layers.Dense(2, name="b")]
        >>> [layer.name for layer in regularize(keras.Sequential(layers), dropout=0.2).layers[1:]]
        ['a', 'a_dropout', 'b']
    """
    given = {
        "dropout": dropout,
        "batch_normalization": batch_normalization,
        "l2": l2,
        "weight_decay": weight_decay,
        "label_smoothing": label_smoothing,
    }
    _check(given)
    second = _Rebuilding(model, dropout, batch_normalization, l2, seed).model()
    if model.compiled:
        _compile(second, model, weight_decay, label_smoothing)
    elif weight_decay is not None or label_smoothing is not None:
        raise ArgumentError(
            "Weight decay and label smoothing belong to the optimizer and the loss.",
            received=f"{describe(model.name)}, not compiled",
            expected="a compiled model",
            fix="Call model.compile(optimizer, loss) first.",
        )
    return second


def _check(given: Mapping[str, float | None]) -> None:
    for name, value in given.items():
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if value is not None and not (is_number and 0 <= value < _LIMITS[name]):
            raise ArgumentError(
                f"{name} can't be used.",
                received=f"{name}={describe(value)}",
                expected=f"a number of at least 0 and below {_LIMITS[name]:g}",
                fix=f"Pass {name} within these bounds, or None to leave it as it is.",
            )


class _Rebuilding:
    """The layers to change and to put in, found in the model's graph."""

    def __init__(
        self, model: keras.Model, dropout: float | None, momentum: float | None, l2: float | None, seed: int
    ) -> None:
        self.given, self.dropout, self.momentum, self.l2, self.seed = model, dropout, momentum, l2, seed
        self.layers = list(walk(model))
        graph = trace(model, flatten=True)
        outputs = {id(tensor) for tensor in keras.tree.flatten(graph.outputs)}
        hidden = [(call, _chain(graph, call)) for call in graph if isinstance(call.operation, _WEIGHTED)]
        # The layer that gives the output, alone or through an activation, is no hidden one.
        hidden = [(call, chain) for call, chain in hidden if not _gives(chain[-1], outputs)]
        self.unnormed = {id(call.operation) for call, chain in hidden if not _has(chain, _NORMS)}
        self.ends = {id(chain[-1].operation): (i, call.operation) for i, (call, chain) in enumerate(hidden)}
        self.made: dict[str, keras.Layer] = {}
        self.has_dropout = any(isinstance(layer, DROPOUTS) for layer in self.layers)
        self.replaced: list[tuple[keras.Layer, keras.Layer]] = []

    def model(self) -> keras.Model:
        """Builds the new model."""
        second = rebuild(self.given, self._replace, self._after, copy_weights=True)
        for old, new in self.replaced:
            new.set_weights(old.get_weights())
        return second

    def _replace(self, operation: keras.Operation) -> keras.Operation | None:
        changes: dict[str, Any] = {}
        config = operation.get_config() if isinstance(operation, keras.Layer) else {}
        if isinstance(operation, DROPOUTS) and self.dropout is not None:
            changes["rate"] = float(self.dropout)
        if isinstance(operation, keras.layers.BatchNormalization) and self.momentum is not None:
            changes["momentum"] = float(self.momentum)
        if self.l2 is not None:
            own = ("kernel_regularizer", "depthwise_regularizer", "pointwise_regularizer")
            changes |= {name: keras.regularizers.L2(self.l2) if self.l2 else None for name in own if name in config}
        if self.momentum is not None and id(operation) in self.unnormed:
            changes["activation"] = "linear"
        if not changes:
            return None
        new = copy_operation(operation, changes)
        self.replaced.append((operation, new))
        return new

    def _after(self, call: Call, outputs: Any) -> Any:
        operation = call.operation
        if self.momentum is not None and id(operation) in self.unnormed:
            # With this scale, the moving statistics of a fresh norm (0 and 1) give the identity.
            scale = keras.initializers.Constant(float(np.sqrt(1 + 1e-3)))
            outputs = self._added(
                f"{operation.name}_norm",
                keras.layers.BatchNormalization,
                momentum=float(self.momentum),
                gamma_initializer=scale,
            )(outputs)
            if operation.activation is not keras.activations.linear:
                name = f"{operation.name}_activation"
                outputs = self._added(name, keras.layers.Activation, activation=operation.activation)(outputs)
        if self.dropout and not self.has_dropout and id(operation) in self.ends:
            number, owner = self.ends[id(operation)]
            kind = keras.layers.Dropout if isinstance(owner, keras.layers.Dense) else _SPATIAL[len(outputs.shape)]
            seed = int(np.random.default_rng((self.seed, number)).integers(2**31))
            outputs = self._added(f"{owner.name}_dropout", kind, rate=float(self.dropout), seed=seed)(outputs)
        return outputs

    def _added(self, name: str, kind: type[keras.Layer], **arguments: Any) -> keras.Layer:
        """The layer that is put in behind another one; the same at each call of a shared one."""
        if name not in self.made:
            self.made[name] = kind(name=name, **arguments)
        return self.made[name]


def _chain(graph: Any, call: Call) -> list[Call]:
    """The call, and the norms and activations that follow it with nothing else reading in between."""
    chain = [call]
    while True:
        tensors = {id(tensor) for tensor in keras.tree.flatten(chain[-1].outputs)}
        readers = [other for other in graph if any(id(tensor) in tensors for tensor in other.inputs)]
        if len(readers) != 1 or not isinstance(readers[0].operation, _FOLLOWING):
            return chain
        chain.append(readers[0])


def _gives(call: Call, outputs: set[int]) -> bool:
    return any(id(tensor) in outputs for tensor in keras.tree.flatten(call.outputs))


def _has(chain: list[Call], kinds: tuple[type, ...]) -> bool:
    return any(isinstance(call.operation, kinds) for call in chain)


def _compile(model: keras.Model, like: keras.Model, weight_decay: float | None, label_smoothing: float | None) -> None:
    compilation = Compilation.of(like)
    settings = dict(compilation.settings)
    if label_smoothing is not None:
        losses = [loss for loss in keras.tree.flatten(settings["loss"]) if loss is not None]
        if not any(_is_smoothable(loss) for loss in losses):
            raise ArgumentError(
                "Label smoothing needs a loss over classes.",
                received=f"label_smoothing={label_smoothing} with {', '.join(map(str, losses))}",
                expected="a categorical, sparse categorical or binary crossentropy",
                fix="Leave label_smoothing out.",
            )
        settings["loss"] = keras.tree.map_structure(lambda loss: _smoothed(loss, label_smoothing), settings["loss"])
    decayed = compilation.decayed
    if weight_decay is not None:
        settings["optimizer"] = _decaying(like.optimizer, weight_decay)
        variables = model.trainable_variables
        own = decayed if len(decayed) == len(variables) else (True,) * len(variables)
        decayed = tuple(d and len(variable.shape) > 1 for d, variable in zip(own, variables, strict=True))
    dataclasses.replace(compilation, settings=settings, decayed=decayed).apply(model)


def _decaying(optimizer: Any, weight_decay: float) -> Any:
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        raise ModelError(
            "The decay of a loss-scaled optimizer can't be changed.",
            received=describe(optimizer),
            expected="a model compiled with the optimizer itself",
            fix="Compile with the inner optimizer: TrainConfig(precision=...) scales the loss where it has to.",
        )
    second = fresh_optimizer(optimizer)
    second.weight_decay = float(weight_decay)
    return second


def _is_smoothable(loss: Any) -> bool:
    loss = keras.losses.get(loss) if isinstance(loss, str) else loss
    kinds = (keras.losses.SparseCategoricalCrossentropy,)
    functions = (
        keras.losses.sparse_categorical_crossentropy,
        keras.losses.categorical_crossentropy,
        keras.losses.binary_crossentropy,
    )
    return hasattr(loss, "label_smoothing") or isinstance(loss, kinds) or loss in functions


def _smoothed(loss: Any, share: float | None) -> Any:
    if not _is_smoothable(loss):
        return loss
    loss = keras.losses.get(loss) if isinstance(loss, str) else loss
    made = {
        keras.losses.sparse_categorical_crossentropy: keras.losses.SparseCategoricalCrossentropy,
        keras.losses.categorical_crossentropy: keras.losses.CategoricalCrossentropy,
        keras.losses.binary_crossentropy: keras.losses.BinaryCrossentropy,
    }
    loss = made[loss]() if not isinstance(loss, keras.losses.Loss) else loss
    config = {**loss.get_config(), "label_smoothing": share}
    if isinstance(loss, keras.losses.SparseCategoricalCrossentropy):
        config.pop("ignore_class", None)
        return (
            SparseCategoricalSmoothedCrossentropy.from_config(config)
            if share
            else keras.losses.SparseCategoricalCrossentropy(from_logits=loss.from_logits, name=loss.name)
        )
    return type(loss).from_config(config)
