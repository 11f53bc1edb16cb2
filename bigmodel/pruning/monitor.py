"""Shows how sparse a model is while it trains."""

from __future__ import annotations

import copy
import os
from typing import Any, final

import keras
import numpy as np

from bigmodel.config import Where
from bigmodel.errors import check_argument
from bigmodel.pruning.layers import check_where, prunable
from bigmodel.pruning.masks import sparsity_of
from bigmodel.training.scalars import ScalarWriter


@final
class SparsityLog(keras.callbacks.Callback):
    """Logs the share of zeros after each epoch: of all kernels in the progress line, of each kernel for TensorBoard.

    `sparsity` joins the logs of the epoch: the progress line, the history, and every callback that comes later in the
    list (`CSVLogger`, `TensorBoard`, `ModelCheckpoint` with `{sparsity:.2f}` in its path) has it.

    Args:
        log_dir: Folder for TensorBoard, the same as that of `keras.callbacks.TensorBoard`: the run `sparsity` in it
            gets a scalar for each kernel, and one for all. `None`: none is written. TensorBoard need not be installed.
        where: Which layers, as a function `layer -> bool`; `None`: all layers with a kernel, except depthwise ones.

    Example:
        >>> import keras, numpy as np
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
        >>> model.set_weights([np.zeros((4, 1)), np.zeros(1)])
        >>> model.compile(keras.optimizers.SGD(0.0), "mse")
        >>> model.fit(np.ones((8, 4)), np.ones((8, 1)), verbose=0, callbacks=[SparsityLog()]).history["sparsity"]
        [1.0]
    """

    def __init__(self, log_dir: str | os.PathLike[str] | None = None, *, where: Where | None = None) -> None:
        super().__init__()
        folder = (str, os.PathLike, type(None))
        check_argument("SparsityLog", "log_dir", log_dir, lambda path: isinstance(path, folder), "a folder's path")
        check_where("SparsityLog", where)
        self.log_dir, self.where = log_dir, where
        self._writer: ScalarWriter | None = None

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        weights = {variable.path: np.asarray(variable) for _, variable in prunable(self.model, self.where, frozen=True)}
        shares = {path: sparsity_of(kernel) for path, kernel in weights.items()}
        total = sum(kernel.size for kernel in weights.values())
        whole = sum(shares[path] * kernel.size for path, kernel in weights.items()) / max(total, 1)
        if logs is not None:
            logs["sparsity"] = whole
        if self.log_dir is not None:
            self._writer = self._writer or ScalarWriter(os.path.join(self.log_dir, "sparsity"))
            scalars = {f"sparsity/{path}": share for path, share in shares.items()}
            self._writer.write(epoch, {"sparsity": whole, **scalars})

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def __deepcopy__(self, memo: dict[int, Any]) -> SparsityLog:
        clone = copy.copy(self)
        clone._model, clone.params, clone._writer = None, None, None
        return clone
