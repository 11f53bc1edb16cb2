"""Synthetic samples next to the real ones of train."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Final, Literal, get_args

import keras
import numpy as np

from bigmodel.config import AugmentConfig
from bigmodel.data.augmentation import kind_of
from bigmodel.data.sources import ArraySource, Columns
from bigmodel.data.splits import Data, Split, as_data
from bigmodel.data.synthesis import embedding, sampling
from bigmodel.data.synthesis.embedding import Embedding, embed
from bigmodel.data.synthesis.leaks import HELD_OUT_SAMPLES, without_leaks
from bigmodel.data.synthesis.rows import Rows, joined, real_samples
from bigmodel.data.synthesis.transformation import transformed
from bigmodel.errors import ArgumentError, describe

Synthesis = Literal["resample", "balance", "smote", "interpolate", "extrapolate", "gaussian", "transform"]
METHODS: Final[tuple[Synthesis, ...]] = get_args(Synthesis)


def synthesize(
    model: Any,
    data: Any,
    method: Synthesis = "interpolate",
    *,
    share: float = 0.5,
    seed: int = 0,
    perturbation: float = 0.1,
    augment: AugmentConfig | None = None,
) -> Data:
    """Adds synthetic samples to train. The model and the data are not changed.

    Validation, test and calibration stay as they are, and synthetic samples that (nearly) repeat one of validation or
    test are dropped. `data.train.synthetic` marks the rest. Whether they help, `judge_synthesis` measures.

    - "resample": a real one, drawn at random, with noise
    - "balance": a real one of a rare class, with noise
    - "smote": between neighbours of a rare class (imbalanced-learn; `pip install 'bigmodel[synthesis]'`)
    - "interpolate": between two real ones of a class, in the model's features
    - "extrapolate": beyond a real one, away from another one of its class, in the model's features
    - "gaussian": drawn from the normal distribution of its class, in the model's features
    - "transform": a real one, drawn at random and augmented

    A point in the features is turned into a sample by blending the inputs of the two nearest real ones of its class;
    token ids take the nearest one alone.

    Args:
        model: The model that will read the data; `None` for the methods that need none.
        data: Data in any form that `as_data` takes, with train as arrays.
        method: One of the list.
        share: Synthetic samples per real one, above 0 and at most 10.
        seed: Same seed, same samples.
        perturbation: Deviation of the noise of "resample" and "balance", in deviations of each feature.
        augment: What "transform" does; `None`: what "auto" picks.

    Returns:
        The splits, with notes that say how many samples were made, and how.

    Raises:
        ArgumentError: The method is unknown, or a value is out of range.
        DataError: Train is a stream, or the labels are no classes where classes are to be balanced.
        DependencyError: The method needs a package that is not installed.
        ModelError: The model has no encoder where one is needed.

    Example:
        >>> x, y = np.random.default_rng(0).normal(size=(200, 4)), np.repeat([0, 1], [180, 20])
        >>> more = synthesize(None, (x, y), "balance", share=0.5)
        >>> int(more.train.synthetic.sum()), np.bincount(more.train.arrays()[1])
        (80, array([144,  96]))
    """
    _check(method, share, perturbation)
    splits = as_data(data, model=model, seed=seed)
    own = real_samples(splits.train)
    real = Rows.of(own)
    count = max(1, round(share * real.size))
    if method in embedding.METHODS:
        features = _flat(embed(model).features(own))
        points, owners = embedding.invented(features, real.classes, count, seed, method)
        blend = all(kind not in (None, "tokens") for kind in kind_of(splits, model))
        made = embedding.decoded(real, features, points, owners, blend=blend)
    elif method == "transform":
        config = augment or AugmentConfig()
        made = transformed(splits, real, count, seed, config=config, model=model)
    elif method == "smote":
        made = sampling.smote(real, count, seed)
    else:
        draw = sampling.balanced if method == "balance" else sampling.resampled
        made = draw(real, count, seed, perturbation=perturbation)
    made, notes = without_leaks(made, real, splits)
    note = f"synthesis by {method}: {made.size} samples behind the {real.size} real ones of train"
    return joined(splits, real, made, (note, *notes))


def synthesize_features(
    model: keras.Model,
    data: Any,
    method: Literal["interpolate", "extrapolate", "gaussian"] = "gaussian",
    *,
    share: float = 0.5,
    seed: int = 0,
) -> tuple[Data, Embedding]:
    """Makes synthetic samples in the model's features, to train its head on. The model and the data are not changed.

    Args:
        model: A functional or Sequential model with one output.
        data: Data in any form that `as_data` takes, with train as arrays.
        method: How points are made, as in `synthesize`.
        share: Synthetic samples per real one, above 0 and at most 10.
        seed: Same seed, same samples.

    Returns:
        The splits with features in the place of x, and the parts of a copy of the model, whose head they train.

    Raises:
        ArgumentError: The method makes no features, or a value is out of range.
        DataError: Train is a stream.
        ModelError: The model has no encoder.
    """
    _check(method, share, 0.0, embedding.METHODS)
    splits = as_data(data, model=model, seed=seed)
    splits = dataclasses.replace(splits, train=real_samples(splits.train))
    parts = embed(model)
    given = {name: getattr(splits, name) for name in ("train", "validation", "test", "calibration")}
    whole = Data(**{name: split and _featured(split, parts) for name, split in given.items()}, notes=splits.notes)
    real = Rows.of(whole.train)
    count = max(1, round(share * real.size))
    points, owners = embedding.invented(_flat(real.x), real.classes, count, seed, method)
    made = dataclasses.replace(real.take(owners), x=points.reshape(-1, *real.x.shape[1:]))
    note = f"synthesis by {method}: {made.size} features behind the {real.size} real ones of train"
    return joined(whole, real, made, (note,)), parts


def _featured(split: Split, parts: Embedding) -> Split:
    split = split if split.in_memory else split.sample(HELD_OUT_SAMPLES)
    _, y, w = split.arrays()
    elements = tuple(part for part in (parts.features(split), y, w) if part is not None)
    return dataclasses.replace(split, source=ArraySource(Columns(elements)), forms=None, augmentation=None)


def _flat(features: np.ndarray) -> np.ndarray:
    return features.reshape(len(features), -1).astype("float32")


def _check(method: str, share: float, perturbation: float, methods: Sequence[str] = METHODS) -> None:
    if method not in methods:
        raise ArgumentError(
            "This way of synthesis is not known here.",
            received=describe(method),
            expected=", ".join(methods),
            fix="Pass one of these names.",
        )
    for name, value, most in (("share", share, 10.0), ("perturbation", perturbation, 10.0)):
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_number or not 0 <= value <= most or (name == "share" and value == 0):
            raise ArgumentError(
                f"{name} can't be used.",
                received=f"{name}={describe(value)}",
                expected=f"a number above 0 and at most {most:g}"
                if name == "share"
                else f"a number from 0 to {most:g}",
                fix=f"Pass {name} as a share, such as 0.5.",
            )
