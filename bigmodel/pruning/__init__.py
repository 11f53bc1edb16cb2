"""Pruning: weights that become zero, and channels that go.

`prune_model` is the step; `MagnitudePruning` and `KeepZeros` are its callbacks for anybody's own `model.fit`;
`sensitivity` measures how much each group of channels matters. `cluster_weights` is the step of weight sharing,
`WeightClustering` and `KeepClusters` are its callbacks; `GroupLasso` drives channels to zero, and `kept_channels` says
which are left; `SparsityLog` shows zeros while a model trains.
"""

from bigmodel.pruning.callback import KeepZeros, MagnitudePruning
from bigmodel.pruning.channels import Sensitivity, sensitivity
from bigmodel.pruning.clustering import KeepClusters, WeightClustering, cluster_weights
from bigmodel.pruning.lasso import GroupLasso, kept_channels
from bigmodel.pruning.layers import prunable
from bigmodel.pruning.masks import magnitude_mask, sparsity_of, zero_count
from bigmodel.pruning.monitor import SparsityLog
from bigmodel.pruning.step import prune_model
from bigmodel.pruning.weights import prune_weights

__all__ = [
    "GroupLasso",
    "KeepClusters",
    "KeepZeros",
    "MagnitudePruning",
    "Sensitivity",
    "SparsityLog",
    "WeightClustering",
    "cluster_weights",
    "kept_channels",
    "magnitude_mask",
    "prunable",
    "prune_model",
    "prune_weights",
    "sensitivity",
    "sparsity_of",
    "zero_count",
]
