"""How many channels each group keeps where a share of the whole network's parameters may stay."""

from __future__ import annotations

import keras
import numpy as np

from bigmodel.pruning.channels import CostModel, find_channels

NARROWEST = 8
"""Channels that every group keeps where it has them. On Fashion-MNIST, 784-256-128-64-10 with a sixteenth of its
parameters, a uniform share leaves 5 channels before the head and ends at 0.836; half of these parameters, at 0.66."""
_HALVINGS = 40


def shares_that_go(model: keras.Model, share: float) -> dict[str, float]:
    """Returns for each group of channels the share to remove, the same in all but for what would get too narrow.

    Args:
        model: A functional or built Sequential model; not changed.
        share: The share of the parameters that may stay, 0..1. A network whose narrowest form has more gets that form.

    Returns:
        Shares by group, as `PruneConfig.sparsity` takes them.

    Raises:
        ModelError: The model has no graph of layers.

    Example:
        >>> hidden = [keras.layers.Dense(40, name="wide"), keras.layers.Dense(10, name="narrow")]
        >>> model = keras.Sequential([keras.Input((20,)), *hidden, keras.layers.Dense(4)])
        >>> {name: round(gone, 3) for name, gone in shares_that_go(model, 0.4).items()}
        {'wide': 0.65, 'narrow': 0.2}
    """
    channels = find_channels(model)
    costs = CostModel(model, channels)
    sizes = {group.name: group.size for group in channels.groups}
    most = share * costs.after({}).parameters

    def kept(part: float) -> dict[str, int]:
        return {name: min(size, max(NARROWEST, round(part * size))) for name, size in sizes.items()}

    def fits(part: float) -> bool:
        counts = kept(part)
        return costs.after({name: np.arange(size) < counts[name] for name, size in sizes.items()}).parameters <= most

    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    counts = kept(low)
    return {name: (size - counts[name]) / size for name, size in sizes.items() if counts[name] < size}
