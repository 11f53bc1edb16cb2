"""What becomes of every layer of Keras in a quantized file: one table, which the documentation prints.

What the runtime does with a layer that has weights follows from `table.RULES`; this file says it in words, and adds the
layers without weights.
"""

from __future__ import annotations

import dataclasses
import textwrap
from typing import Any, Literal

import keras

from bigmodel.quantization.table import RULES, LayerRule, rule_of, rules_of

Kind = Literal["weights and activations", "weights only", "float"]
KINDS: dict[Kind, str] = {
    "weights and activations": "Weights are integers, and so is the input that meets them: its range is found at run "
    "time in a dynamic file and fixed in a static one. Layers without weights hand on integers in a static file.",
    "weights only": "Weights are integers that the runtime widens to floats when the file is loaded. The layer "
    "computes in float.",
    "float": "Nothing of it is an integer.",
}


@dataclasses.dataclass(frozen=True)
class Treatment:
    """What becomes of a layer.

    Args:
        kind: One of `KINDS`.
        note: How, or why not, in words.
    """

    kind: Kind
    note: str


_STEPS = "each cell inside follows its own rule; kernels and state meet as integers at every time step"
_INSIDE = "each layer inside follows its own rule"
_PROJECTIONS = "each projection inside is an `EinsumDense`; the attention between them is float in a dynamic file"
_GONE = "it does nothing when a model runs, so that nothing of it is in the file"
_MOVES = "its output has the grid of its input"
_OWN_GRID = "its output has a grid of its own"
_SHARED = "its inputs and its output share one grid"
_BETWEEN = "it is several ops in the file: integers at its ends, float in between"

_ALL: Kind = "weights and activations"
_WEIGHTS: Kind = "weights only"
_FLOAT: Kind = "float"
# Layers that have no rule in `table.RULES`: how they are treated, and which they are.
_GROUPS: tuple[tuple[Kind, str, str], ...] = (
    (_ALL, "the depthwise and the pointwise convolution that it is made of follow their rules",
     "SeparableConv1D SeparableConv2D"),
    (_ALL, _PROJECTIONS, "MultiHeadAttention GroupQueryAttention"),
    (_ALL, _STEPS, "LSTM GRU SimpleRNN ConvLSTM1D ConvLSTM2D"),
    (_WEIGHTS, "its cell is a 3D convolution, for which there is no integer kernel", "ConvLSTM3D"),
    (_ALL, _INSIDE, "RNN StackedRNNCells Bidirectional TimeDistributed Wrapper Pipeline"),
    (_ALL, "folded into the layer before it, or into a `Dense` after it; alone, a multiplication by 8-bit factors",
     "BatchNormalization"),
    (_ALL, _BETWEEN, "LayerNormalization GroupNormalization RMSNormalization UnitNormalization Normalization "
     "Attention AdditiveAttention Lambda"),
    (_ALL, "fused into the layer before it where the runtime can (`relu`, `relu6`), else an op with a grid of its own; "
     "one made of several ops is float in between", "Activation ReLU"),
    (_ALL, "its output has steps of 1/256", "Softmax"),
    (_ALL, _OWN_GRID, "Add Subtract Multiply Average Dot Rescaling Resizing"),
    (_ALL, _SHARED, "Concatenate Maximum Minimum"),
    (_ALL, _OWN_GRID, "AveragePooling1D AveragePooling2D GlobalAveragePooling1D GlobalAveragePooling2D "
     "GlobalAveragePooling3D AdaptiveAveragePooling1D AdaptiveAveragePooling2D AdaptiveAveragePooling3D"),
    (_ALL, _MOVES, "MaxPooling1D MaxPooling2D GlobalMaxPooling1D GlobalMaxPooling2D GlobalMaxPooling3D "
     "AdaptiveMaxPooling1D AdaptiveMaxPooling2D AdaptiveMaxPooling3D Flatten Reshape Permute RepeatVector "
     "Cropping1D Cropping2D Cropping3D ZeroPadding1D ZeroPadding2D ZeroPadding3D UpSampling1D UpSampling2D "
     "UpSampling3D CenterCrop Identity Masking InputLayer"),
    (_ALL, _GONE, "Dropout SpatialDropout1D SpatialDropout2D SpatialDropout3D AlphaDropout GaussianDropout "
     "GaussianNoise ActivityRegularization AugMix CutMix MixUp RandAugment RandomBrightness RandomColorDegeneration "
     "RandomColorJitter RandomContrast RandomCrop RandomElasticTransform RandomErasing RandomFlip RandomGaussianBlur "
     "RandomGrayscale RandomHue RandomInvert RandomPerspective RandomPosterization RandomRotation RandomSaturation "
     "RandomSharpness RandomShear RandomTranslation RandomZoom Solarization"),
    (_FLOAT, "its op has no integer kernel that the quantizer knows: it reads and writes floats between integers",
     "ELU LeakyReLU PReLU"),
    (_FLOAT, "one table is read by rows and multiplied as a kernel, which would need two grids", "ReversibleEmbedding"),
    (_FLOAT, "it assigns the kernel of the layer inside anew at every training step; export that layer without it",
     "SpectralNormalization"),
    (_FLOAT, "the converter has no kernel for it: a model with it has no file at all", "AveragePooling3D MaxPooling3D"),
    (_FLOAT, "it prepares pictures or sound, before there are activations to quantize",
     "AutoContrast ContrastLimitedAdaptiveHistogramEqualization Equalization MelSpectrogram STFTSpectrogram "
     "MaxNumBoundingBoxes"),
    (_FLOAT, "it prepares text, categories or whole numbers, before there are activations to quantize",
     "CategoryEncoding Discretization HashedCrossing Hashing IntegerLookup StringLookup TextVectorization"),
    (_FLOAT, "it runs another library's code, which bigmodel can't see into",
     "FlaxLayer JaxLayer TFSMLayer TorchModuleWrapper"),
    (_FLOAT, "the base class computes nothing; a layer of one's own takes a rule by `register_rule`", "Layer"),
)  # fmt: skip


def treatments() -> dict[type[keras.layers.Layer], Treatment]:
    """Returns the treatment of every layer class that the table knows, those of the installed Keras only.

    Example:
        >>> treatments()[keras.layers.Dense].kind
        'weights and activations'
    """
    found = {kind: Treatment(_kind_of(rule), _note_of(rule)) for kind, rule in RULES.items()}
    for treated, note, names in _GROUPS:
        for name in names.split():
            if hasattr(keras.layers, name):
                found[getattr(keras.layers, name)] = Treatment(treated, note)
    return found


def treatment_of(layer: keras.layers.Layer) -> Treatment:
    """Returns what becomes of a layer, one of the caller's own classes too.

    Args:
        layer: A layer; a built one where it is made of layers.
    """
    if type(layer) in treatments():
        return treatments()[type(layer)]
    rule = rule_of(layer)
    if rule is not None:
        return Treatment(_kind_of(rule), _note_of(rule))
    if rules_of(layer):
        return Treatment(_ALL, _INSIDE)
    return Treatment(_FLOAT, "the table has no rule for it: give it one by `register_rule`")


def _kind_of(rule: LayerRule) -> Kind:
    return _WEIGHTS if rule.inputs is None and not rule.gathers and not rule.integer else _ALL


def _note_of(rule: LayerRule) -> str:
    if rule.gathers:
        return "rows are looked up as integers"
    if rule.inputs is None:
        return (
            "integer in a static file, weights only in others" if rule.integer else "no integer kernel in the runtime"
        )
    return "dynamic also in a static file: a loop has no fixed ranges" if rule.in_loop else ""


_CHANNELS = {
    (): "table",
    (-1,): "output channel",
    (-2,): "output channel",
    (-2, -1): "input channel and multiplier",
}


def layers_page() -> str:
    """Returns the page of the documentation on layers, in Markdown."""
    parts = [_HEAD, _weights_table()]
    by_kind: dict[Kind, dict[str, list[str]]] = {kind: {} for kind in KINDS}
    for layer, treatment in treatments().items():
        if layer not in RULES:
            by_kind[treatment.kind].setdefault(treatment.note, []).append(f"`{layer.__name__}`")
    for kind, notes in by_kind.items():
        rows = [f"| {', '.join(sorted(names))} | {note} |" for note, names in notes.items()]
        head = textwrap.fill(KINDS[kind], 120)
        parts.append(
            f"## {kind.capitalize()}\n\n{head}\n\n" + "\n".join(["| Layer | How |", "|---|---|", *rows]) + "\n"
        )
    return "\n".join([*parts, _OWN_LAYERS])


def _weights_table() -> str:
    lines = [
        "| Layer | Weights | One scale for each | Bits | Of one scale | Quantized | Remark |",
        "|---|---|---|---|---|---|---|",
    ]
    for kind, rule in RULES.items():
        weights: Any = rule.weights if isinstance(rule.weights, dict) else {"kernel": None}
        names, axes = ", ".join(f"`{name}`" for name in weights), next(iter(weights.values()))
        grid = "output axis" if axes is None else _CHANNELS[axes]
        bits, whole = (", ".join(map(str, widths)) for widths in (rule.bits, rule.tensor_bits))
        row = (f"`{kind.__name__}`", names, grid, bits, whole, _kind_of(rule), _note_of(rule))
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join([*lines, ""])


_HEAD = """# Quantized layers

What becomes of each layer of Keras in a quantized file. This page is printed from the table that the code follows.

Every layer is in one of three classes: *weights and activations*, *weights only*, or *float*. Biases never take the
weights' bits; frozen layers are quantized like all others; a layer made of layers has no rule of its own. Bits that a
kernel does not take become the next more that it does, and the report says so. *Of one scale* are the bits at which a
kernel also takes one scale for the whole weight (`QuantizeConfig(granularity="tensor")`).

## Layers with weights
"""

_OWN_LAYERS = """## Layers of your own

A subclass that leaves `call` alone follows its parent. A layer or model made of layers is taken apart: what is inside
follows its rules. Any other layer with kernels stays float and is reported, until you give it a rule. Say which of its
weights are kernels, on which axes their channels lie, and how the kernel sees its input (`None`: only the weights are
stored as integers):

```python
import keras

from bigmodel.quantization import LayerRule, register_rule


class LowRank(keras.layers.Layer):
    def __init__(self, units, rank, **kwargs):
        super().__init__(**kwargs)
        self.units, self.rank = units, rank

    def build(self, shape):
        self.down = self.add_weight(shape=(shape[-1], self.rank), name="down")
        self.up = self.add_weight(shape=(self.rank, self.units), name="up")

    def call(self, inputs):
        return keras.ops.matmul(keras.ops.matmul(inputs, self.down), self.up)


register_rule(LowRank, LayerRule({"down": (-1,), "up": (-1,)}, inputs=None))
```

## Models

Functional, Sequential, nested and shared layers are rebuilt layer by layer. A subclassed model is copied (it needs a
`get_config`), and what is inside is quantized in the copy; in a static file the ops inside find their ranges at run
time.
"""
