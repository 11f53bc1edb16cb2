"""bigmodel: from a trained Keras model to a small, fast and verified .tflite file.

One call does it all, and every step is also a function or a Keras callback of its own:

    import bigmodel as bm

    result = bm.compress_and_tune(model, (x_train, y_train))
    print(result.report)
    result.litert_path

Importing bigmodel loads neither Keras nor TensorFlow: a public name is loaded when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from bigmodel import _registration

__version__ = "0.1.0"

# Where a name lives; a public name that is not in here is a module.
_HOMES = {
    "compress_and_tune": "bigmodel.pipeline",
    "prune": "bigmodel.api",
    "quantize": "bigmodel.api",
    "export_litert": "bigmodel.api",
    "evaluate": "bigmodel.api",
    "from_legacy": "bigmodel.legacy.migration",
    "load_result": "bigmodel.result",
    "Result": "bigmodel.result",
    "LiteModel": "bigmodel.litert",
    "Data": "bigmodel.data",
    "as_data": "bigmodel.data",
    "synthesize": "bigmodel.data.synthesis",
    "Target": "bigmodel.config",
    "TrainConfig": "bigmodel.config",
    "AugmentConfig": "bigmodel.config",
    "PruneConfig": "bigmodel.config",
    "QuantizeConfig": "bigmodel.config",
    "TuneConfig": "bigmodel.config",
    "tune": "bigmodel.pipeline",
    "Tuned": "bigmodel.tuning",
}

__all__ = [
    "AugmentConfig",
    "Data",
    "LiteModel",
    "PruneConfig",
    "QuantizeConfig",
    "Result",
    "Target",
    "TrainConfig",
    "TuneConfig",
    "Tuned",
    "__version__",
    "as_data",
    "callbacks",
    "compress_and_tune",
    "data",
    "errors",
    "evaluate",
    "evaluation",
    "export",
    "export_litert",
    "from_legacy",
    "load_result",
    "prune",
    "pruning",
    "quantization",
    "quantize",
    "report",
    "synthesize",
    "tune",
    "tuning",
]

if TYPE_CHECKING:
    from bigmodel import callbacks, data, errors, evaluation, export, pruning, quantization, report, tuning
    from bigmodel.api import evaluate, export_litert, prune, quantize
    from bigmodel.config import AugmentConfig, PruneConfig, QuantizeConfig, Target, TrainConfig, TuneConfig
    from bigmodel.data import Data, as_data
    from bigmodel.data.synthesis import synthesize
    from bigmodel.legacy.migration import from_legacy
    from bigmodel.litert import LiteModel
    from bigmodel.pipeline import compress_and_tune, tune
    from bigmodel.result import Result, load_result
    from bigmodel.tuning import Tuned


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'bigmodel' has no attribute {name!r}")
    if name not in _HOMES:
        return importlib.import_module(f"bigmodel.{name}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value  # the next use does not come through here
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


_registration.register_with_keras()
