"""Synthetic samples that are augmented real ones, made once."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import numpy as np

from bigmodel.config import AugmentConfig
from bigmodel.data.augmentation import augment
from bigmodel.data.sources import ArraySource, Columns
from bigmodel.data.splits import Data
from bigmodel.data.synthesis.rows import Rows


def transformed(data: Data, real: Rows, count: int, seed: int, *, config: AugmentConfig, model: Any) -> Rows:
    """Draws samples with replacement and augments them.

    Args:
        data: The splits.
        real: The real samples of train.
        count: How many to make.
        seed: Seed of the draw and the augmentation.
        config: What to do with them. Mixed labels are made floats again, or drawn: as `augment` does.
        model: The model that will read them, or `None`.
    """
    drawn = real.take(np.random.default_rng(seed).integers(real.size, size=count))
    elements = tuple(part for part in (drawn.x, drawn.y, drawn.w) if part is not None)
    split = dataclasses.replace(data.train, source=ArraySource(Columns(elements)), augmentation=None)
    varied = augment(dataclasses.replace(data, train=split), config, seed=seed, model=model).train
    batches = list(varied.batches(epoch=0).as_numpy_iterator())
    return Rows(*keras.tree.map_structure(lambda *leaves: np.concatenate(leaves), *batches))
