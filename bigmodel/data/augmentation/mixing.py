"""Two samples in one: their inputs are mixed, and so are their labels.

Labels that are classes by number stay numbers: one of the two is drawn, each with its share as the probability. Every
loss that is linear in the label, as cross-entropy is, has the same expectation as with mixed labels, and no model needs
another loss.

Source: H. Zhang et al., mixup: Beyond Empirical Risk Minimization, ICLR 2018; S. Yun et al., CutMix: Regularization
Strategy to Train Strong Classifiers with Localizable Features, ICCV 2019.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from bigmodel.data.augmentation.seeds import Seeds


@dataclasses.dataclass(frozen=True)
class Label:
    """What mixing has to know of one array of labels.

    Args:
        is_class: Classes by number, which can't be averaged.
        is_mask: It has the height and width of the images.
    """

    is_class: bool
    is_mask: bool


Parts = tuple[list[tf.Tensor], list[tf.Tensor], list[tf.Tensor]]
"""The arrays of x, y and sample_weight."""


class Mixing:
    """Mixes the samples of a batch with each other.

    Args:
        mixup: Alpha of MixUp; 0: off.
        cutmix: Alpha of CutMix; 0: off. With both on, each batch takes one of them.
        labels: For each array of y what is to be known of it.
    """

    def __init__(self, mixup: float, cutmix: float, labels: Sequence[Label]) -> None:
        self.alpha, self.labels = mixup, labels
        # Keras' MixUp takes images only; CutMix is its own.
        self._cutmix = keras.layers.CutMix((cutmix, cutmix), dtype="float32") if cutmix > 0 else None

    def __call__(self, x: list[tf.Tensor], y: list[tf.Tensor], w: list[tf.Tensor], seeds: Seeds) -> Parts:
        """Returns the mixed x, y and weights. Labels that are not classes come out as floats."""
        if self._cutmix is None:
            return self._mixed_up(x, y, w, seeds)
        if not self.alpha:
            return self._cut(x, y, w, seeds)
        first = seeds.uniform([]) < 0.5
        return tf.cond(first, lambda: self._mixed_up(x, y, w, seeds), lambda: self._cut(x, y, w, seeds))

    def _mixed_up(self, x: list[tf.Tensor], y: list[tf.Tensor], w: list[tf.Tensor], seeds: Seeds) -> Parts:
        count = tf.shape(x[0])[0]
        order, share = seeds.permutation(count), seeds.beta(count, self.alpha)
        mixed = [_rounded(_blend(leaf, tf.gather(leaf, order), share), leaf) for leaf in x]
        return mixed, *self._labels(y, w, order, share, seeds, lambda mask, other: None)

    def _cut(self, x: list[tf.Tensor], y: list[tf.Tensor], w: list[tf.Tensor], seeds: Seeds) -> Parts:
        (images,) = x
        canonical = tf.cast(images if images.shape.rank == 4 else images[..., tf.newaxis], tf.float32)
        assert self._cutmix is not None
        drawn = self._cutmix.get_random_transformation(canonical, training=True, seed=seeds)
        cut = self._cutmix.transform_images(canonical, drawn)
        cut = cut if images.shape.rank == 4 else tf.squeeze(cut, -1)
        inside, order = drawn["batch_masks"][..., 0], drawn["permutation_order"]
        share = 1 - tf.reduce_mean(tf.cast(inside, tf.float32), (1, 2))  # of whole pixels, unlike Keras' own

        def pasted(mask: tf.Tensor, other: tf.Tensor) -> tf.Tensor:
            return tf.where(inside if mask.shape.rank == 3 else inside[..., tf.newaxis], other, mask)

        return [_rounded(cut, images)], *self._labels(y, w, order, share, seeds, pasted)

    def _labels(
        self,
        y: list[tf.Tensor],
        w: list[tf.Tensor],
        order: tf.Tensor,
        share: tf.Tensor,
        seeds: Seeds,
        pasted: Callable[[tf.Tensor, tf.Tensor], tf.Tensor | None],
    ) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        drawn = seeds.uniform(tf.shape(share))
        labels = []
        for i, (leaf, label) in enumerate(zip(y, self.labels, strict=True)):
            other = tf.gather(leaf, order)
            own = _weighted(share, w[min(i, len(w) - 1)], order) if w else share
            new = pasted(leaf, other) if label.is_mask else None
            if new is None and label.is_class:
                new = tf.where(_spread(drawn < own, leaf), leaf, other)
            labels.append(_blend(leaf, other, own) if new is None else new)
        return labels, [_blend(leaf, tf.gather(leaf, order), share) for leaf in w]


def _weighted(share: tf.Tensor, weight: tf.Tensor, order: tf.Tensor) -> tf.Tensor:
    """The share of the first sample's label: a sample of weight 0 has no say, whatever its label."""
    if weight.shape.rank != 1:
        return share
    weight = tf.cast(weight, tf.float32)
    first, second = share * weight, (1 - share) * tf.gather(weight, order)
    return tf.where(first + second > 0, tf.math.divide_no_nan(first, first + second), share)


def _blend(first: tf.Tensor, second: tf.Tensor, share: tf.Tensor) -> tf.Tensor:
    dtype = first.dtype if first.dtype.is_floating else tf.float32
    part = tf.cast(_spread(share, first), dtype)
    return part * tf.cast(first, dtype) + (1 - part) * tf.cast(second, dtype)


def _spread(values: tf.Tensor, leaf: tf.Tensor) -> tf.Tensor:
    return tf.reshape(values, [-1, *[1] * (leaf.shape.rank - 1)])


def _rounded(values: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    return tf.cast(values if like.dtype.is_floating else tf.round(values), like.dtype)
