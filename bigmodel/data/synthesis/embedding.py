"""Synthetic samples made in the feature space of a model's own encoder: what comes before its last weighted layer.

Source: T. DeVries and G. W. Taylor, Dataset Augmentation in Feature Space, ICLR workshop 2017 (interpolation and
extrapolation within a class).
"""

from __future__ import annotations

import dataclasses
from typing import Any, Final

import keras
import numpy as np

from bigmodel.data.splits import Split
from bigmodel.data.synthesis.leaks import nearest
from bigmodel.data.synthesis.rows import Rows
from bigmodel.errors import ModelError, describe
from bigmodel.graph import is_graph

METHODS: Final = ("interpolate", "extrapolate", "gaussian")
_FURTHEST: Final = 0.5
"""Extrapolation goes at most this share of the distance beyond a sample."""


@dataclasses.dataclass(frozen=True, eq=False)
class Embedding:
    """A copy of a model in two parts that share its weights: who trains the head trains the model.

    Args:
        model: The copy.
        encoder: From the model's inputs to the features.
        head: From the features to the model's outputs.
    """

    model: keras.Model
    encoder: keras.Model
    head: keras.Model

    def features(self, split: Split, batch_size: int = 128) -> np.ndarray:
        """Returns the features of all samples of a split, float32 of shape (samples, ...)."""
        batches = dataclasses.replace(split, augmentation=None).batches(batch_size)
        return np.concatenate([np.asarray(self.encoder(x, training=False)) for x, *_ in batches])


def embed(model: keras.Model) -> Embedding:
    """Parts a copy of a model before its last layer with weights. The caller's model is not changed.

    Args:
        model: A functional model, or a built Sequential one, with a single output.

    Raises:
        ModelError: The model has no such layer, several outputs or no graph.

    Example:
        >>> layers = [keras.layers.Dense(8, "relu"), keras.layers.Dense(2), keras.layers.Softmax()]
        >>> parts = embed(keras.Sequential([keras.Input((4,)), *layers]))
        >>> parts.encoder.output_shape, parts.head.input_shape, parts.head.output_shape
        ((None, 8), (None, 8), (None, 2))
    """
    if not is_graph(model) or len(model.outputs) != 1:
        raise _no_encoder(model)
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    last = next((layer for layer in reversed(copy.layers) if layer.trainable_weights), None)
    if last is None or last is copy.layers[0]:
        raise _no_encoder(model)
    inputs = copy.inputs[0] if isinstance(copy, keras.Sequential) else copy.input
    encoder = keras.Model(inputs, last.input, name=f"{model.name}_encoder")
    head = keras.Model(last.input, copy.outputs[0], name=f"{model.name}_head")
    return Embedding(copy, encoder, head)


def invented(features: np.ndarray, classes: np.ndarray, count: int, seed: int, method: str) -> tuple[Any, Any]:
    """Makes points in feature space, each within one class, the classes in their real shares.

    Args:
        features: Of the real samples, shape (n, width).
        classes: Their classes, shape (n,).
        count: How many to make.
        seed: Seed of the draw.
        method: "interpolate": between two samples; "extrapolate": beyond one, away from another; "gaussian": from the
            normal distribution of the class, its covariance shrunk towards the diagonal where samples are few.

    Returns:
        The points of shape (count, width), and for each the number of a real sample of its class.
    """
    rng = np.random.default_rng(seed)
    first = rng.integers(len(features), size=count)
    points = np.empty((count, features.shape[1]), "float32")
    for c in np.unique(classes[first]):
        own, rows = np.flatnonzero(classes == c), np.flatnonzero(classes[first] == c)
        if method == "gaussian":
            points[rows] = _normal(features[own], len(rows), rng)
        else:
            second = rng.choice(own, len(rows))
            share = rng.uniform(0, 1 if method == "interpolate" else _FURTHEST, (len(rows), 1))
            sign = 1 if method == "interpolate" else -1
            points[rows] = features[first[rows]] + sign * share * (features[second] - features[first[rows]])
    return points, first


def decoded(real: Rows, features: np.ndarray, points: np.ndarray, owners: np.ndarray, *, blend: bool) -> Rows:
    """Turns points in feature space into samples: a blend of the inputs of the two nearest ones of the class.

    Args:
        real: The real samples.
        features: Theirs, shape (n, width).
        points: Points, shape (m, width).
        owners: For each point a real sample of its class.
        blend: Whether inputs can be blended; if not, the nearest one stands for the point.
    """
    classes = real.classes
    first, second = np.empty(len(points), np.int64), np.empty(len(points), np.int64)
    share = np.zeros(len(points))
    for c in np.unique(classes[owners]):
        own, rows = np.flatnonzero(classes == c), np.flatnonzero(classes[owners] == c)
        near, number = nearest(points[rows], features[own])
        first[rows] = second[rows] = own[number]
        if blend and len(own) > 1:
            far, other = _second_nearest(points[rows], features[own], number)
            second[rows] = own[other]
            share[rows] = near / np.maximum(near + far, 1e-12)
    return real.blended(first, second, share)


def _second_nearest(points: np.ndarray, others: np.ndarray, number: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    square = (others**2).sum(1) - 2 * points @ others.T
    square[np.arange(len(points)), number] = np.inf
    second = square.argmin(1)
    return np.linalg.norm(points - others[second], axis=1), second


def _normal(features: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    size, width = features.shape
    mean, centred = features.mean(0), features - features.mean(0)
    shrinkage = width / (width + size)
    # A random mix of the samples' differences from the mean has their covariance; none is ever written down.
    along = rng.normal(size=(count, size)) @ centred / np.sqrt(max(size - 1, 1))
    aside = rng.normal(size=(count, width)) * features.std(0)
    return mean + np.sqrt(1 - shrinkage) * along + np.sqrt(shrinkage) * aside


def _no_encoder(model: Any) -> ModelError:
    return ModelError(
        "This model has no encoder in front of a last layer.",
        received=describe(model),
        expected="a functional or Sequential model with one output and at least two layers",
        fix="Pass a method that needs no model: 'resample', 'balance', 'smote' or 'transform'.",
    )
