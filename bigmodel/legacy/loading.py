"""tf_keras and its toolkit, loaded late and without a trace in the process."""

from __future__ import annotations

import importlib
import os
import warnings
from typing import Any

from bigmodel.errors import DependencyError

_SWITCH = "TF_USE_LEGACY_KERAS"


def is_tf_keras(model: Any) -> bool:
    """Says whether something is a tf_keras model or layer, without loading tf_keras.

    That is also what `tf.keras` makes where `TF_USE_LEGACY_KERAS=1` is set.

    Example:
        >>> is_tf_keras("a string")
        False
    """
    return any(base.__module__.partition(".")[0] == "tf_keras" for base in type(model).__mro__)


def load_tf_keras() -> Any:
    """Returns the package tf_keras.

    Raises:
        DependencyError: It is not installed.
    """
    return _load("tf_keras", "tf_keras")


def load_toolkit() -> Any:
    """Returns the package tensorflow_model_optimization, the process and its children left as they were.

    Raises:
        DependencyError: It is not installed.
    """
    import tensorflow as tf

    # The toolkit sets the switch for good. `tf.keras` is resolved when it is first touched, so that is done before.
    _ = tf.keras.layers
    before = os.environ.get(_SWITCH)
    try:
        with warnings.catch_warnings():
            # It asks for versions in a way that Python has given up: nothing that a caller could change.
            warnings.simplefilter("ignore", DeprecationWarning)
            return _load("tensorflow_model_optimization", "tensorflow-model-optimization")
    finally:
        if before is None:
            os.environ.pop(_SWITCH, None)
        else:
            os.environ[_SWITCH] = before


def _load(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise DependencyError(
            f"{package} is not installed.",
            received=str(error),
            expected="the packages for tf_keras models",
            fix='Run: pip install "bigmodel[legacy]"',
        ) from error
