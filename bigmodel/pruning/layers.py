"""Which variables of a model are kernels, and which layer each belongs to."""

from __future__ import annotations

from collections.abc import Iterator

import keras

from bigmodel.config import Where
from bigmodel.errors import check_argument

Kernel = tuple[keras.Layer, keras.Variable]
"""A layer and one of its kernels."""

_DEPTHWISE = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)
_OUTPUTS_BEFORE_INPUTS = (
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
)


def is_prunable(layer: keras.Layer) -> bool:
    """The default of `where`: every layer but depthwise convolutions.

    A depthwise kernel holds few weights of which each serves a whole channel: pruning it costs accuracy and saves
    nearly nothing.
    """
    return not isinstance(layer, _DEPTHWISE)


def check_where(owner: str, where: object) -> None:
    """Refuses a choice of layers that can't be asked.

    Args:
        owner: What the choice belongs to, for the message.
        where: `None`, or a function of a layer.

    Raises:
        ArgumentError: It is neither.
    """
    check_argument(owner, "where", where, lambda w: w is None or callable(w), "a function layer -> bool, or None")


def prunable(model: keras.Model, where: Where | None = None, *, frozen: bool = False) -> list[Kernel]:
    """Lists the kernels of a model that pruning acts on. The model is not changed.

    Kernels are the variables named `kernel`, `embeddings` or `..._kernel`, wherever they are: in nested and subclassed
    models, wrappers, recurrent cells and attention. A layer of one's own with other names lists its kernels in a
    method `get_prunable_weights()`. Shared layers count once.

    A built-in layer is one layer for `where`, whatever it is made of: an `LSTM` or a `MultiHeadAttention` as a whole.
    Models, wrappers (`Bidirectional`, `TimeDistributed`) and layers of one's own are walked into.

    Args:
        model: A built model.
        where: Which layers; `None`: all but depthwise convolutions, and the pointwise kernel alone of separable ones.
        frozen: Whether kernels that are not trainable are listed too.

    Returns:
        Pairs of layer and kernel in the order of the model's layers.

    Example:
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="a"), keras.layers.Dense(1)])
        >>> [(layer.name, kernel.name) for layer, kernel in prunable(model, lambda layer: layer.name == "a")]
        [('a', 'kernel')]
    """
    selected: dict[int, Kernel] = {}
    for layer, variables in _owners(model):
        kernels = [v for v in variables if (frozen or v.trainable) and id(v) not in selected]
        if where is None:
            kernels = [v for v in kernels if v.name != "depthwise_kernel"]
        if kernels and (where or is_prunable)(layer):
            selected.update((id(variable), (layer, variable)) for variable in kernels)
    return list(selected.values())


def input_axis(layer: keras.Layer, variable: keras.Variable) -> int:
    """Which axis of a kernel runs over its inputs: the innermost one that the layer sums over.

    That is the axis that lies innermost in a `.tflite` file, whose kernels have their outputs first. An embedding sums
    over nothing; its innermost axis counts.

    Args:
        layer: The layer that `prunable` names with the kernel.
        variable: The kernel.

    Returns:
        The axis, counted from the end.

    Example:
        >>> layer = keras.layers.Conv2D(4, 3)
        >>> layer.build((None, 8, 8, 2))
        >>> input_axis(layer, layer.kernel)
        -2
    """
    owner = _owner(layer, variable)
    if isinstance(owner, keras.layers.EinsumDense):
        kernel, output = _kernel_and_output(owner)
        return max(axis for axis, letter in enumerate(kernel) if letter not in output) - len(kernel)
    return -1 if isinstance(owner, _OUTPUTS_BEFORE_INPUTS) or variable.name == "embeddings" else -2


def output_axis(layer: keras.Layer, variable: keras.Variable) -> int:
    """Which axis of a kernel runs over its output channels: the last one that is in the layer's output.

    Args:
        layer: The layer that `prunable` names with the kernel.
        variable: The kernel.

    Returns:
        The axis, counted from the end.

    Example:
        >>> layer = keras.layers.Conv2DTranspose(4, 3)
        >>> layer.build((None, 8, 8, 2))
        >>> output_axis(layer, layer.kernel)
        -2
    """
    owner = _owner(layer, variable)
    if isinstance(owner, keras.layers.EinsumDense):
        kernel, output = _kernel_and_output(owner)
        return max(axis for axis, letter in enumerate(kernel) if letter in output) - len(kernel)
    return -2 if isinstance(owner, _OUTPUTS_BEFORE_INPUTS) else -1


def _owner(layer: keras.Layer, variable: keras.Variable) -> keras.Layer:
    """The layer within a built-in one that made a variable."""
    parts = layer._flatten_layers()
    return next((part for part in parts if any(v is variable for v in part._trainable_variables)), layer)


def _kernel_and_output(layer: keras.layers.EinsumDense) -> tuple[str, str]:
    terms, output = layer.equation.replace(" ", "").split("->")
    return terms.split(",")[1], output


def _owners(layer: keras.Layer) -> Iterator[tuple[keras.Layer, list[keras.Variable]]]:
    if hasattr(layer, "get_prunable_weights"):
        yield layer, list(layer.get_prunable_weights())
    elif _is_walked_into(layer):
        children = layer._flatten_layers(include_self=False, recursive=False)
        inherited = {id(variable) for child in children for variable in child.variables}
        yield layer, [v for v in _kernels(layer) if id(v) not in inherited]
        for child in layer._flatten_layers(include_self=False, recursive=False):
            yield from _owners(child)
    else:
        yield layer, _kernels(layer)


def _is_walked_into(layer: keras.Layer) -> bool:
    is_builtin = type(layer).__module__.split(".")[0] == "keras"
    return not is_builtin or isinstance(layer, (keras.Model, keras.layers.Wrapper, keras.layers.Bidirectional))


def _kernels(layer: keras.Layer) -> list[keras.Variable]:
    return [v for v in layer.weights if len(v.shape) > 1 and v.name.endswith(("kernel", "embeddings"))]
