"""How the steps train."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

from bigmodel.config.base import Config

_LEAST_PATIENCE = 3


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
        patience: Epochs without a better validation metric after which training stops and the best weights come back;
            `None`: half of the epochs, at least 3, as the learning rate falls to zero and the gains come with that.
        distillation: Share, 0..1, that the outputs of the model as it came have in the loss when a fine-tuning starts;
            it falls to zero over the training (Hinton et al., 2015). `None`: one half where channels were removed,
            none elsewhere.

    Raises:
        ArgumentError: A value is out of range.

    Example:
        >>> TrainConfig(learning_rate=1e-4).patience_of(epochs=10)
        5
    """

    epochs: int = 5
    batch_size: int = 128
    learning_rate: float | None = None
    pretrain_epochs: int = 0
    precision: Literal["auto", "float32", "mixed_float16", "mixed_bfloat16"] = "auto"
    strategy: Any = None
    patience: int | None = None
    distillation: float | None = None

    def __post_init__(self) -> None:
        self._check_number("epochs", 0, math.inf, whole=True)
        self._check_number("batch_size", 1, math.inf, whole=True)
        self._check_number("learning_rate", 0, math.inf, optional=True)
        self._check_number("pretrain_epochs", 0, math.inf, whole=True)
        self._check_choice("precision", ("auto", "float32", "mixed_float16", "mixed_bfloat16"))
        self._check_number("patience", 1, math.inf, whole=True, optional=True)
        self._check_number("distillation", 0, 1, optional=True)

    def patience_of(self, epochs: int) -> int:
        """Returns the patience in a training of so many epochs."""
        return max(_LEAST_PATIENCE, math.ceil(epochs / 2)) if self.patience is None else self.patience
