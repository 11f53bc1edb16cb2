"""The two layers of a simulation: `Quantized` around a layer with weights, `FakeQuantize` between layers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import keras

# Modules and not their names: Keras' loading imports this one, possibly in the middle of the import of those.
from bigmodel.quantization import calls, fake, integer, parts, table


@keras.saving.register_keras_serializable(package="bigmodel")
class Quantized(keras.layers.Layer):
    """A layer that computes with fake-quantized weights, whatever the layer is.

    The wrapped layer runs in a `keras.StatelessScope` that substitutes its weights, so one class serves all layers.
    What the wrapped layer assigns or adds inside (statistics, seeds, losses) is carried over. At inference, once the
    scales are fixed, a kernel that the runtime computes in integers is computed so: see `integer.py`.

    Args:
        layer: A built layer; it becomes part of this one.
        weights: For each weight to quantize, by its path inside the layer, its bits and channel axes.
        inputs: How the kernel quantizes the first input at run time, or `None`.
        inner: The same for layers inside, by their paths.
        steps: Of a static file, the steps of the grids of input and output as they stand there; `None`: not known.
        fixed: `True`: scales are the stored variables. `False`: they follow the weights at every call, or are learned.
        learned: Whether scales are trained with the weights until they are fixed.
        **kwargs: Keyword arguments of `keras.layers.Layer`.
    """

    def __init__(
        self,
        layer: keras.layers.Layer,
        *,
        weights: Mapping[str, table.WeightQuantization | Mapping[str, Any]],
        inputs: table.InputQuantization | Mapping[str, Any] | None = None,
        inner: Mapping[str, table.InputQuantization | Mapping[str, Any]] | None = None,
        steps: Sequence[float] | None = None,
        fixed: bool = False,
        learned: bool = False,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("name", layer.name)
        # Without autocast this layer reads weights in float32 also under mixed precision: rounded to 16 bits first,
        # up to a fifth of the codes would come out wrong. The wrapped layer casts for itself.
        super().__init__(autocast=False, trainable=layer.trainable, **kwargs)
        self.layer = layer
        self.quantized_weights = {
            path: w if isinstance(w, table.WeightQuantization) else table.WeightQuantization(**w)
            for path, w in weights.items()
        }
        self.inputs = table.InputQuantization(**inputs) if isinstance(inputs, Mapping) else inputs
        self.inner = {
            path: table.InputQuantization(**i) if isinstance(i, Mapping) else i for path, i in (inner or {}).items()
        }
        self.steps = (steps[0], steps[1]) if steps is not None else None
        self.fixed, self.learned = fixed, learned
        # Set while training is still to go on in float; a change takes effect when the step is traced again.
        self.delayed = False
        self.supports_masking = getattr(layer, "supports_masking", False)
        self.scales: list[keras.Variable] = []
        # Of learned scales the logarithm of their change: optimizers like Adam take steps of one size, whatever the
        # gradient's, which would be much for a scale and is a small part of it so (Jain et al., 2020, section 3.2).
        self.changes: list[keras.Variable] = []
        if layer.built:
            self._add_scales()

    def build(self, *args: Any, **kwargs: Any) -> None:
        """Builds the wrapped layer from the shapes of its inputs."""
        if not self.layer.built:
            self.layer.build(*args, **kwargs)
        self._add_scales()

    def _add_scales(self) -> None:
        if self.scales:
            return
        for path, inputs in self.inner.items():
            calls.quantize_inputs(parts.find_part(self.layer, path), inputs)
        for path, quantization in self.quantized_weights.items():
            shape = quantization.scale_shape(tuple(parts.find_weight(self.layer, path).shape))
            name = path.replace("/", "_") + "_scale"
            self.scales.append(self.add_weight(shape=shape, initializer="ones", trainable=False, name=name))
            if self.learned:
                self.changes.append(self.add_weight(shape=shape, initializer="zeros", name=f"{name}_change"))
        if self.learned and not self.fixed:
            self.start_learning()
        self.built = True

    def around(self, layer: keras.layers.Layer, *, fixed: bool | None = None, **how: Any) -> Quantized:
        """Returns a new layer that quantizes another one's weights as this one does, on the same grids.

        Args:
            layer: A built layer with weights of the same paths and shapes; it becomes part of the new one.
            fixed: Whether its scales are fixed; `None`: if these are.
            **how: Other arguments of the new one.
        """
        fixed = self.fixed if fixed is None else fixed
        learned = self.learned and not fixed
        new = Quantized(layer, weights=self.quantized_weights, fixed=fixed, learned=learned, **how)
        for source, target in zip(self.scales, new.scales, strict=True):
            target.assign(source)
        for source, target in zip(self.changes if learned else (), new.changes, strict=True):
            target.assign(source)
        return new

    def start_learning(self, scales: Iterable[Any] | None = None) -> None:
        """Sets where learned scales start.

        Args:
            scales: For each quantized weight its scale; `None`: the one that follows from the weight.
        """
        if scales is None:
            weights = [(parts.find_weight(self.layer, path).value, q) for path, q in self.quantized_weights.items()]
            scales = [quantization.min_max_scale(value) for value, quantization in weights]
        for stored, change, scale in zip(self.scales, self.changes, scales, strict=True):
            stored.assign(scale)
            change.assign(keras.ops.zeros(change.shape))

    def grids(self) -> Iterator[tuple[str, keras.Variable, table.WeightQuantization, Any]]:
        """Yields for each quantized weight its path, its variable, its quantization and its scale."""
        for i, (path, quantization) in enumerate(self.quantized_weights.items()):
            variable = parts.find_weight(self.layer, path)
            if self.fixed:
                yield path, variable, quantization, self.scales[i].value
            elif self.learned:
                yield path, variable, quantization, self.scales[i].value * keras.ops.exp(self.changes[i].value)
            else:
                yield path, variable, quantization, quantization.min_max_scale(variable.value)

    def fix_scales(self) -> None:
        """Stores the present scales; from now on they no longer follow the weights, nor are they learned."""
        for stored, (_, _, _, scale) in zip(self.scales, list(self.grids()), strict=True):
            stored.assign(scale)
        for change in self.changes:
            change.assign(keras.ops.zeros(change.shape))
        self.fixed = True

    def call(self, *args: Any, training: bool | None = None, **kwargs: Any) -> Any:
        """Calls the wrapped layer with its weights on their grids; at rest its kernel computes as the file's does."""
        if self.fixed and not training and not self.delayed and self._has_integer_kernel():
            return self._in_integers(args[0])
        substituted = [
            (variable, self._on_grid(variable.value, scale, quantization.bits))
            for _, variable, quantization, scale in self.grids()
        ]
        if self.inputs is not None and not self.delayed:
            args = (self.inputs.fake_quantize(args[0]), *args[1:])
        with keras.StatelessScope(state_mapping=substituted, collect_losses=True) as scope:
            outputs = self.layer(*args, **kwargs)
        self._carry_over(scope, {id(variable) for variable, _ in substituted})
        return outputs

    def _has_integer_kernel(self) -> bool:
        is_known = self.inputs is not None or self.steps is not None
        return is_known and list(self.quantized_weights) == ["kernel"] and integer.can_compute(self.layer, self.inputs)

    def _in_integers(self, inputs: Any) -> Any:
        ((_, kernel, quantization, scale),) = self.grids()
        if self.inputs is not None:
            return integer.dynamic(self.layer, inputs, self.inputs, kernel.value, scale, quantization.bits)
        assert self.steps is not None
        return integer.static(self.layer, inputs, self.steps, kernel.value, scale, quantization.bits)

    def _on_grid(self, weights: Any, scale: Any, bits: int) -> Any:
        is_learned = self.learned and not self.fixed
        if self.delayed:
            # Learned scales take part with a gradient of zero: an optimizer warns of variables without one.
            return weights + 0.0 * scale if is_learned else weights
        if is_learned:
            return fake.learned_fake_quantize_weights(weights, scale, bits)
        return fake.fake_quantize_weights(weights, scale, bits, clips=self.fixed)

    def _carry_over(self, scope: keras.StatelessScope, substituted: set[int]) -> None:
        for variable in self.layer.variables:
            if id(variable) not in substituted:
                value = scope.get_current_value(variable)
                if value is not None:
                    variable.assign(value)
        for loss in scope.losses or ():
            self.add_loss(loss)

    def compute_output_spec(self, *args: Any, training: bool | None = None, **kwargs: Any) -> Any:
        """Returns the wrapped layer's output: fake quantization changes no shape."""
        return self.layer.compute_output_spec(*args, **kwargs)

    def compute_output_shape(self, *args: Any, **kwargs: Any) -> Any:
        """Returns the wrapped layer's output shape."""
        return self.layer.compute_output_shape(*args, **kwargs)

    def compute_mask(self, inputs: Any, previous_mask: Any) -> Any:
        """Returns the wrapped layer's mask."""
        return self.layer.compute_mask(inputs, previous_mask)

    def get_config(self) -> dict[str, Any]:
        """Returns the wrapped layer and how it is quantized."""
        config = super().get_config()
        config.pop("trainable", None)
        return {
            **config,
            "layer": keras.saving.serialize_keras_object(self.layer),
            "weights": {path: quantization.to_dict() for path, quantization in self.quantized_weights.items()},
            "inputs": self.inputs.to_dict() if self.inputs else None,
            "inner": {path: inputs.to_dict() for path, inputs in self.inner.items()},
            "steps": list(self.steps) if self.steps else None,
            "fixed": self.fixed,
            "learned": self.learned,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Quantized:
        """Makes the layer from its config."""
        config = {**config, "layer": keras.saving.deserialize_keras_object(config["layer"])}
        return cls(**config)

    def get_build_config(self) -> dict[str, Any]:
        """Returns the wrapped layer's build config."""
        return {"layer": self.layer.get_build_config()}

    def build_from_config(self, config: dict[str, Any]) -> None:
        """Builds the wrapped layer as it was built."""
        if config["layer"] and not self.layer.built:
            self.layer.build_from_config(config["layer"])
        self._add_scales()


@keras.saving.register_keras_serializable(package="bigmodel")
class FakeQuantize(keras.layers.Layer):
    """An activation on the fixed grid that the file gives to the same tensor.

    Args:
        bits: Bits of a code: 8, or 16 with the zero point 0.
        momentum: Momentum of the moving average of the range while training follows the activations
            (Jacob et al., 2018, section 3.1); `None` leaves the range as it is. Gradients stop outside of a range at
            rest only.
        learned: Whether the ends of the range are trained with the weights.
        fixed: Whether the range has come to rest: it neither moves nor is trained.
        halves: How values in the middle of two codes are rounded: see `fake.static_fake_quantize`.
        shifts: For each channel, how a kernel that rounds twice shifts: see there too.
        factors: For each channel, by what factor the kernel's multiplier is off: see there too.
        away: For each channel, whether a kernel that shifts rounds halves away from 0: see there too.
        **kwargs: Keyword arguments of `keras.layers.Layer`.
    """

    def __init__(
        self,
        *,
        bits: int = 8,
        momentum: float | None = None,
        learned: bool = False,
        fixed: bool = False,
        halves: fake.Halves = "even",
        shifts: Iterable[int] = (),
        factors: Iterable[float] = (),
        away: Iterable[bool] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(autocast=False, **kwargs)
        self.bits, self.momentum, self.learned, self.fixed, self.halves = bits, momentum, learned, fixed, halves
        self.shifts, self.factors, self.away = tuple(shifts), tuple(factors), tuple(away)
        self.delayed = False  # as in `Quantized`
        self.seen: int | None = None  # batches that a calibration has shown so far; `None`: there is none
        self.supports_masking = True
        self.scale = self.add_weight(shape=(), initializer="ones", trainable=False, name="scale")
        self.zero_point = self.add_weight(shape=(), initializer="zeros", trainable=False, name="zero_point")
        self.low = self.add_weight(shape=(), initializer="zeros", trainable=False, name="low")
        self.high = self.add_weight(shape=(), initializer="zeros", trainable=False, name="high")
        # Logarithms of how the ends change, as in `Quantized`.
        self.change = self.add_weight(shape=(2,), initializer="zeros", name="change") if learned else None
        self.built = True

    @property
    def moves(self) -> bool:
        """Whether the range follows the activations of a training."""
        return self.momentum is not None and not self.fixed

    def set_range(self, low: float, high: float) -> None:
        """Sets the range, and the grid that covers it."""
        self.low.assign(low)
        self.high.assign(high)
        scale, zero_point = fake.static_parameters(self.low.value, self.high.value, self.bits)
        self.set_grid(scale, zero_point)

    def set_grid(self, scale: Any, zero_point: Any) -> None:
        """Sets scale and zero point, as read from a file."""
        self.scale.assign(scale)
        self.zero_point.assign(zero_point)

    def fix_range(self) -> None:
        """Brings the range to rest where it is."""
        if self.change is not None:  # also if it rests already: the weights of a former epoch may have come back
            self.set_range(*self._ends())
            self.change.assign(keras.ops.zeros(2))
        self.fixed = True

    def _ends(self) -> tuple[Any, Any]:
        growth = keras.ops.exp(self.change.value)  # type: ignore[union-attr]
        return self.low.value * growth[0], self.high.value * growth[1]

    def call(self, inputs: Any, training: bool = False) -> Any:
        """Returns the inputs on the grid; in training with a momentum, the range moves first."""
        values = keras.ops.cast(inputs, "float32")
        if self.seen is not None:
            self.seen += 1
            self._follow(values, 1.0 - 1.0 / self.seen)
        elif training and self.moves:
            self._follow(values, self.momentum)
        if self.delayed:
            outputs = values
        elif self.change is not None and not self.fixed:
            outputs = fake.learned_static_fake_quantize(values, *self._ends())
        else:
            how: dict[str, Any] = {"shifts": self.shifts, "factors": self.factors, "away": self.away}
            how |= {"halves": self.halves, "stops_outside": not self.moves}
            outputs = fake.static_fake_quantize(values, self.scale.value, self.zero_point.value, bits=self.bits, **how)
        if training and self.change is not None and (self.delayed or self.fixed):
            outputs = outputs + 0.0 * keras.ops.sum(self.change.value)  # a gradient of zero, as in `Quantized`
        return keras.ops.cast(outputs, inputs.dtype)

    def _follow(self, values: Any, momentum: Any) -> None:
        for variable, seen in ((self.low, keras.ops.min(values)), (self.high, keras.ops.max(values))):
            variable.assign(momentum * variable.value + (1.0 - momentum) * seen)
        self.set_grid(*fake.static_parameters(self.low.value, self.high.value, self.bits))

    def compute_output_spec(self, inputs: Any, training: bool = False) -> Any:
        """Returns the input's shape and dtype."""
        return keras.KerasTensor(inputs.shape, dtype=inputs.dtype)

    def get_config(self) -> dict[str, Any]:
        """Returns the config with what moves the range."""
        own = {name: getattr(self, name) for name in ("bits", "momentum", "learned", "fixed", "halves")}
        by_channel = {name: list(getattr(self, name)) for name in ("shifts", "factors", "away")}
        return {**super().get_config(), **own, **by_channel}
