"""The public Keras callbacks, for use in `model.fit`."""

from bigmodel.pruning.callback import KeepZeros, MagnitudePruning

__all__ = ["KeepZeros", "MagnitudePruning"]
