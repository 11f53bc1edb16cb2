"""Writes scalars for TensorBoard, which need not be installed for that."""

from __future__ import annotations

import os
from collections.abc import Mapping

import tensorflow as tf


class ScalarWriter:
    """An event file of scalars.

    Args:
        directory: Where the file is made; missing folders are made.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self._writer = tf.summary.create_file_writer(os.fspath(directory))
        plugin = tf.compat.v1.SummaryMetadata.PluginData(plugin_name="scalars")
        self._metadata = tf.compat.v1.SummaryMetadata(plugin_data=plugin, data_class="DATA_CLASS_SCALAR")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Writes values by their tags, and flushes.

        Args:
            step: Position on the horizontal axis.
            values: What to write.
        """
        with self._writer.as_default():
            for tag, value in values.items():
                tf.summary.write(tag, tf.constant(value, tf.float32), step=step, metadata=self._metadata)
        self._writer.flush()

    def close(self) -> None:
        """Closes the file."""
        self._writer.close()
