"""The augmentation of a train split: which transforms reach which arrays, and the stream that comes out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Final

import keras
import numpy as np
import tensorflow as tf

from bigmodel.config.augmentation import TRANSFORMS, AugmentConfig, Kind
from bigmodel.data.augmentation.images import Images
from bigmodel.data.augmentation.kinds import kind_of
from bigmodel.data.augmentation.mixing import Label, Mixing
from bigmodel.data.augmentation.seeds import Seeds, batch_seed
from bigmodel.data.augmentation.sequences import Sequences
from bigmodel.data.augmentation.tabular import Tabular
from bigmodel.data.augmentation.tokens import Tokens
from bigmodel.data.cuts import class_labels
from bigmodel.data.labels import loss_name, targets
from bigmodel.data.order import Epoch, epochs, with_length
from bigmodel.data.splits import Data, Split, as_data
from bigmodel.errors import ArgumentError

SAFE: Final[dict[Kind, tuple[str, ...]]] = {
    "image": ("rotation", "zoom", "translation", "brightness", "contrast"),
    "sequence": ("jitter", "scaling", "time_warp"),
    "tabular": ("noise",),
    "tokens": ("token_masking",),
}
"""What "auto" applies without a measurement: what changes the meaning of hardly any sample."""

CANDIDATES: Final[dict[Kind, tuple[str, ...]]] = {
    "image": (*SAFE["image"], "flip_horizontal", "flip_vertical", "cutout", "mixup"),
    "sequence": tuple(TRANSFORMS["sequence"]),
    "tabular": tuple(TRANSFORMS["tabular"]),
    "tokens": tuple(TRANSFORMS["tokens"]),
}
"""What "auto" chooses among by measurement."""

_MIXING = ("mixup", "cutmix")
_FACT_SAMPLES = 512

Vary = Callable[[tf.Tensor, Sequence[tf.Tensor], Seeds], tuple[tf.Tensor, list[tf.Tensor]]]


@dataclasses.dataclass(frozen=True, eq=False)
class Augmentation:
    """What happens to the batches of a train split; `augment` makes it.

    Args:
        magnitudes: For each array of x, the transforms with their magnitudes.
        vary: For each array of x what varies it; `None`: it stays.
        moves: For each array of x the numbers of the arrays of y that move with it.
        mixing: What mixes the samples; `None`: nothing does.
        seed: Seed of all draws.
    """

    magnitudes: tuple[dict[str, float], ...]
    vary: tuple[Vary | None, ...]
    moves: tuple[tuple[int, ...], ...]
    mixing: Mixing | None
    seed: int

    def apply(self, batches: tf.data.Dataset, epoch: Epoch) -> tf.data.Dataset:
        """Returns the augmented batches; what happens to one follows from the seed, its epoch and its number alone.

        Args:
            batches: Batches of `(x,)`, `(x, y)` or `(x, y, sample_weight)`.
            epoch: As in `Split.batches`.
        """
        numbers = epochs(epoch).flat_map(lambda e: tf.data.Dataset.counter().map(lambda i: (e, i)))
        length = int(batches.cardinality())
        numbered = with_length(tf.data.Dataset.zip(batches, numbers), length)
        # Nothing in there is a loop over tensors, and AutoGraph would read all of Keras' layers for that.
        batch = tf.autograph.experimental.do_not_convert(self._batch)
        return numbered.map(batch, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)

    def _batch(self, elements: tuple[Any, ...], number: tuple[tf.Tensor, tf.Tensor]) -> tuple[Any, ...]:
        # A data set of many workers may place the pipeline's ops on a GPU otherwise.
        with tf.device("CPU:0"):
            seeds = Seeds(batch_seed(self.seed, *number))
            x, y, w = ([*map(tf.convert_to_tensor, keras.tree.flatten(part))] for part in (*elements, (), ())[:3])
            for i, (vary, moves) in enumerate(zip(self.vary, self.moves, strict=True)):
                if vary is not None:
                    x[i], moved = vary(x[i], [y[j] for j in moves] if y else [], seeds)
                    for j, label in zip(moves, moved, strict=False):
                        y[j] = label
            if self.mixing is not None and y:
                x, y, w = self.mixing(x, y, w, seeds)
        return tuple(keras.tree.pack_sequence_as(part, new) for part, new in zip(elements, (x, y, w), strict=False))


def augment(data: Any, config: AugmentConfig, *, seed: int = 0, model: Any = None) -> Data:
    """Varies the train split, anew in each epoch and outside any model. The data is not changed.

    Validation, test and calibration stay as they are, and so do `train.sample()` and `train.arrays()`. Masks of the
    images' height and width move with them, labels of single steps with their sequence; MixUp and CutMix mix the labels
    and the sample weights, where a label that is a class by number is drawn instead (`augmentation.mixing`). Arrays
    of another kind stay as they are.

    Args:
        data: Data in any form that `as_data` takes.
        config: What to do.
        seed: Same seed, same stream: a batch's draws follow from the seed, its epoch and its number.
        model: The model that will read the data: it tells its kind and whether labels are classes.

    Returns:
        Splits whose `train.batches()` yields the augmented stream, with notes that say what was picked.

    Raises:
        ArgumentError: A transform that was asked for fits none of the arrays.
        DataError: The data is malformed.

    Example:
        >>> data = augment((np.zeros((64, 8, 8, 1)), np.zeros(64)), AugmentConfig(["rotation", "zoom"]))
        >>> data.notes[-1]
        'augmentation of x (image): rotation 0.04, zoom 0.1'
    """
    splits = as_data(data, model=model, seed=seed)
    split: Split = splits.train
    kinds = kind_of(split, model)
    magnitudes = tuple({} if kind is None else config.magnitudes(kind, SAFE[kind]) for kind in kinds)
    _check_applies(config, kinds, magnitudes)
    sample = split.sample(_FACT_SAMPLES, seed=seed).arrays()
    x, y = (keras.tree.flatten(part) if part is not None else [] for part in sample[:2])
    labels = _labels(y, _sparse(model, len(y)), x, kinds)
    mixing, refused = _mixing(magnitudes, kinds, labels)
    augmentation = Augmentation(
        magnitudes,
        tuple(_vary(*row) for row in zip(kinds, magnitudes, x, strict=True)),
        tuple(_moving(kind, leaf, y) for kind, leaf in zip(kinds, x, strict=True)),
        mixing,
        seed,
    )
    notes = (*_notes(sample[0], kinds, magnitudes), *refused)
    train = dataclasses.replace(split, augmentation=augmentation, notes=(*split.notes, *notes))
    return dataclasses.replace(splits, train=train, notes=(*splits.notes, *notes))


def _check_applies(config: AugmentConfig, kinds: Sequence[Kind | None], magnitudes: Sequence[dict[str, float]]) -> None:
    if config.transforms == "auto":
        return
    unused = [name for name in config.transforms if not any(name in row for row in magnitudes)]
    if unused:
        known = {kind: ", ".join(TRANSFORMS[kind]) for kind in dict.fromkeys(kinds) if kind is not None}
        raise ArgumentError(
            f"{' and '.join(unused)} can't be applied to this data.",
            received=f"inputs of kind {', '.join(str(kind) for kind in kinds)}",
            expected="; ".join(f"{kind}: {names}" for kind, names in known.items()) or "an input that can be varied",
            fix="Leave these transforms out, or pass the model if the kind was not recognised.",
        )


def _vary(kind: Kind | None, magnitudes: dict[str, float], leaf: np.ndarray) -> Vary | None:
    own = {name: value for name, value in magnitudes.items() if name not in _MIXING and value > 0}
    if kind is None or not own:
        return None
    makers: dict[Kind, Callable[[], Vary]] = {
        "image": lambda: Images(own, leaf),
        "sequence": lambda: Sequences(own, leaf),
        "tabular": lambda: Tabular(own, leaf),
        "tokens": lambda: Tokens(own),
    }
    return makers[kind]()


def _moving(kind: Kind | None, leaf: np.ndarray, y: Sequence[np.ndarray]) -> tuple[int, ...]:
    if kind == "image":
        return tuple(j for j, label in enumerate(y) if _is_mask(label, leaf))
    if kind == "sequence":
        return tuple(j for j, label in enumerate(y) if _is_stepwise(label, leaf))
    return ()


def _is_mask(label: np.ndarray, image: np.ndarray) -> bool:
    return label.ndim in (3, 4) and label.shape[1:3] == image.shape[1:3]


def _is_stepwise(label: np.ndarray, series: np.ndarray) -> bool:
    is_one_hot = label.ndim == 2 and class_labels(label) is not None
    return label.ndim in (2, 3) and label.shape[1] == series.shape[1] > 1 and not is_one_hot


def _sparse(model: Any, count: int) -> list[bool | None]:
    """For each array of y whether its loss takes classes by number; `None` where no loss tells."""
    losses = [target.loss for target in targets(model)] if model is not None else []
    if len(losses) != count:
        return [None] * count
    return [None if loss is None else loss_name(loss).startswith("sparse") for loss in losses]


def _labels(
    y: Sequence[np.ndarray], sparse: Sequence[bool | None], x: Sequence[np.ndarray], kinds: Sequence[Kind | None]
) -> list[Label]:
    images = [leaf for leaf, kind in zip(x, kinds, strict=True) if kind == "image"]
    labels = []
    for leaf, told in zip(y, sparse, strict=True):
        is_mask = any(_is_mask(leaf, image) for image in images)
        is_whole = leaf.dtype.kind in "biu" or bool((leaf == np.floor(leaf)).all())
        is_one_hot = leaf.ndim == 2 and leaf.shape[1] > 1 and class_labels(leaf) is not None
        is_class = told if told is not None else is_whole and not is_one_hot
        labels.append(Label(is_class or (is_mask and leaf.dtype.kind in "biu"), is_mask))
    return labels


def _mixing(
    magnitudes: Sequence[dict[str, float]], kinds: Sequence[Kind | None], labels: Sequence[Label]
) -> tuple[Mixing | None, tuple[str, ...]]:
    mixup, cutmix = (max((row.get(name, 0.0) for row in magnitudes), default=0.0) for name in _MIXING)
    if not mixup and not cutmix:
        return None, ()
    if not labels:
        return None, ("augmentation: nothing is mixed, for there are no labels",)
    if any(kind in (None, "tokens") for kind in kinds):
        return None, ("augmentation: nothing is mixed, for one of the inputs can't be",)
    if cutmix and len(kinds) > 1:
        note = "augmentation: no cutmix, for the other inputs have no part that could be cut"
        return Mixing(mixup, 0.0, labels) if mixup else None, (note,)
    return Mixing(mixup, cutmix, labels), ()


def _notes(x: Any, kinds: Sequence[Kind | None], magnitudes: Sequence[dict[str, float]]) -> tuple[str, ...]:
    notes = []
    for (path, _), kind, row in zip(keras.tree.flatten_with_path(x), kinds, magnitudes, strict=True):
        name = "x" + "".join(f"[{key!r}]" for key in path)
        what = ", ".join(f"{transform} {value:.3g}" for transform, value in row.items() if value > 0)
        notes.append(f"augmentation of {name} ({kind or 'of no known kind'}): {what or 'none'}")
    return tuple(notes)
