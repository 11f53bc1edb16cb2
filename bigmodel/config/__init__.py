"""The configs of all steps: frozen dataclasses, validated when made, to and from JSON.

A shorthand (`prune=0.5`, `quantize=8`, `size="200KB"`) is resolved here and nowhere else.
"""

from bigmodel.config.augmentation import AugmentConfig
from bigmodel.config.base import CONFIG_VERSION, Config, Where, resolve
from bigmodel.config.pruning import ClusterConfig, Criterion, Granularity, PruneConfig
from bigmodel.config.quantization import Activations, Method, QuantizeConfig, WeightGranularity, resolve_quantize
from bigmodel.config.target import Optimize, Target
from bigmodel.config.training import TrainConfig
from bigmodel.config.tuning import TuneConfig

__all__ = [
    "CONFIG_VERSION",
    "Activations",
    "AugmentConfig",
    "ClusterConfig",
    "Config",
    "Criterion",
    "Granularity",
    "Method",
    "Optimize",
    "PruneConfig",
    "QuantizeConfig",
    "Target",
    "TrainConfig",
    "TuneConfig",
    "WeightGranularity",
    "Where",
    "resolve",
    "resolve_quantize",
]
