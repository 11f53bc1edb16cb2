"""How the steps train."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

from bigmodel.config.base import Config


@dataclasses.dataclass(frozen=True)
class TrainConfig(Config):
    """How the steps train.

    Args:
        epochs: Epochs of fine-tuning for each step that trains.
        batch_size: Samples per step for arrays and unbatched streams; a batched stream keeps its own.
        learning_rate: Peak learning rate of fine-tuning; `None`: the model's compiled one for pruning and for 4 bits,
            three tenths of it for 8 bits, which start close to their goal.
        pretrain_epochs: Epochs that train the caller's architecture before anything is measured; for untrained models.
        precision: "float32", "mixed_float16", "mixed_bfloat16", or "auto" (mixed where a GPU has fast units).
        strategy: A `tf.distribute` strategy, or `None`.
        patience: Epochs without a better validation metric after which training stops and the best weights come back.

    Raises:
        ArgumentError: A value is out of range.

    Example:
        >>> TrainConfig(epochs=10, learning_rate=1e-4).patience
        3
    """

    epochs: int = 5
    batch_size: int = 128
    learning_rate: float | None = None
    pretrain_epochs: int = 0
    precision: Literal["auto", "float32", "mixed_float16", "mixed_bfloat16"] = "auto"
    strategy: Any = None
    patience: int = 3

    def __post_init__(self) -> None:
        self._check_number("epochs", 0, math.inf, whole=True)
        self._check_number("batch_size", 1, math.inf, whole=True)
        self._check_number("learning_rate", 0, math.inf, optional=True)
        self._check_number("pretrain_epochs", 0, math.inf, whole=True)
        self._check_choice("precision", ("auto", "float32", "mixed_float16", "mixed_bfloat16"))
        self._check_number("patience", 1, math.inf, whole=True)
