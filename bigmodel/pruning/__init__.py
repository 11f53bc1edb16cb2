"""Pruning: weights that become zero, and channels that go.

`prune_model` is the step; `MagnitudePruning` and `KeepZeros` are its callbacks for anybody's own `model.fit`;
`sensitivity` measures how much each group of channels matters.
"""

from bigmodel.pruning.callback import KeepZeros, MagnitudePruning
from bigmodel.pruning.channels import Sensitivity, sensitivity
from bigmodel.pruning.layers import prunable
from bigmodel.pruning.masks import magnitude_mask, sparsity_of, zero_count
from bigmodel.pruning.step import prune_model
from bigmodel.pruning.weights import prune_weights

__all__ = [
    "KeepZeros",
    "MagnitudePruning",
    "Sensitivity",
    "magnitude_mask",
    "prunable",
    "prune_model",
    "prune_weights",
    "sensitivity",
    "sparsity_of",
    "zero_count",
]
