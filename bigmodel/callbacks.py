"""The public Keras callbacks, for use in `model.fit`."""

from bigmodel.pruning.callback import KeepZeros, MagnitudePruning
from bigmodel.pruning.clustering import KeepClusters, WeightClustering
from bigmodel.pruning.lasso import GroupLasso
from bigmodel.pruning.monitor import SparsityLog
from bigmodel.quantization.callbacks import FreezeRanges, QuantizationDelay
from bigmodel.training import Distillation

__all__ = [
    "Distillation",
    "FreezeRanges",
    "GroupLasso",
    "KeepClusters",
    "KeepZeros",
    "MagnitudePruning",
    "QuantizationDelay",
    "SparsityLog",
    "WeightClustering",
]
