"""How far a simulation's outputs are from the float model's: what choices are made by where labels are not needed."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from bigmodel.data.elements import in_batches

SMALL = 1e-3
"""Distortion below which nothing better is sought: a thousandth of the outputs' variance. Eight bits lie below it."""

# Share of the samples on which choices are judged, instead of being fitted.
_JUDGED_SHARE = 0.25
_BATCH = 64


class Judge:
    """Measures simulations of a model on samples that were held out. The model is not changed.

    Args:
        model: The float model.
        samples: Input samples, in the structure that the model takes. The last quarter is held out; a single one is
            both fitted and judged.

    Attributes:
        fitted: The samples that what is judged may be fitted to.
    """

    def __init__(self, model: keras.Model, samples: Any) -> None:
        count = len(keras.tree.flatten(samples)[0])
        fitted = max(count - round(_JUDGED_SHARE * count), 1)
        self.fitted = keras.tree.map_structure(lambda x: x[:fitted], samples)
        self._judged = keras.tree.map_structure(lambda x: x[min(fitted, count - 1) :], samples)
        self._expected = outputs_of(model, self._judged)

    def distortion(self, simulation: keras.Model) -> float:
        """Returns the distortion of a simulation's outputs on the samples that were held out."""
        return distortion(self._expected, outputs_of(simulation, self._judged))


def distortion(expected: list[np.ndarray], outputs: list[np.ndarray]) -> float:
    """Returns the squared change of outputs over their variance, the mean over a model's outputs.

    Args:
        expected: The outputs of the float model.
        outputs: Those of its simulation, of the same shapes.

    Example:
        >>> distortion([np.array([-1.0, 1.0])], [np.array([-0.9, 1.1])])
        0.01
    """
    pairs = zip(expected, outputs, strict=True)
    return round(float(np.mean([np.mean(np.square(a - b)) / max(np.var(a), 1e-12) for a, b in pairs])), 12)


def outputs_of(model: keras.Model, samples: Any) -> list[np.ndarray]:
    """Returns what a model computes of samples at inference: its flattened outputs, in float64."""
    batches = [
        [np.asarray(leaf, np.float64) for leaf in keras.tree.flatten(model(batch, training=False))]
        for batch in in_batches(samples, _BATCH)
    ]
    return [np.concatenate(parts) for parts in zip(*batches, strict=True)]
