"""Writes trials for TensorBoard's HParams dashboard, which need not be installed for that."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import tensorflow as tf
from google.protobuf import struct_pb2

from bigmodel.training.scalars import ScalarWriter

_PLUGIN, _TAG = "hparams", "_hparams_/session_start_info"


def write_hparams(
    directory: str | os.PathLike[str], name: str, values: Mapping[str, Any], scalars: Mapping[str, float]
) -> None:
    """Writes one trial: its hyperparameters, and what it came to.

    Args:
        directory: The log directory of all trials.
        name: The trial's name; its event file goes into a folder of that name.
        values: Hyperparameters: numbers, texts and truth values.
        scalars: What is measured, by tag.
    """
    folder = os.path.join(os.fspath(directory), name)
    writer = tf.summary.create_file_writer(folder)
    plugin = tf.compat.v1.SummaryMetadata.PluginData(plugin_name=_PLUGIN, content=_session(name, values))
    with writer.as_default():
        empty = tf.zeros((0,), tf.float32)  # the hyperparameters stand in the metadata
        tf.summary.write(_TAG, empty, step=0, metadata=tf.compat.v1.SummaryMetadata(plugin_data=plugin))
    writer.close()
    measured = ScalarWriter(folder)
    measured.write(0, scalars)
    measured.close()


def _session(name: str, values: Mapping[str, Any]) -> bytes:
    """TensorBoard's `HParamsPluginData` with a `SessionStartInfo`, as protobuf writes them: length-delimited fields."""
    entries = [_field(1, _field(1, key.encode()) + _field(2, _value(value))) for key, value in sorted(values.items())]
    return _field(3, b"".join(entries) + _field(4, name.encode()))


def _value(value: Any) -> bytes:
    if isinstance(value, bool):
        return struct_pb2.Value(bool_value=value).SerializeToString()
    if isinstance(value, (int, float)):
        return struct_pb2.Value(number_value=float(value)).SerializeToString()
    return struct_pb2.Value(string_value=str(value)).SerializeToString()


def _field(number: int, content: bytes) -> bytes:
    return bytes([number << 3 | 2]) + _length(len(content)) + content


def _length(size: int) -> bytes:
    head = bytearray()
    while size > 127:
        head.append(size & 127 | 128)
        size >>= 7
    return bytes([*head, size])
