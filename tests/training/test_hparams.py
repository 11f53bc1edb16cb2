from __future__ import annotations

import tensorflow as tf
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, struct_pb2

from bigmodel.training.hparams import write_hparams


def session_class():
    """TensorBoard's messages, as their .proto files define them (field names and numbers of plugin_data.proto)."""
    file = descriptor_pb2.FileDescriptorProto(name="h.proto", package="h", syntax="proto3")
    file.dependency.append("google/protobuf/struct.proto")
    kinds = descriptor_pb2.FieldDescriptorProto
    start = file.message_type.add(name="SessionStartInfo")
    entry = start.nested_type.add(name="HparamsEntry", options=descriptor_pb2.MessageOptions(map_entry=True))
    entry.field.add(name="key", number=1, type=kinds.TYPE_STRING, label=kinds.LABEL_OPTIONAL)
    value = {"type": kinds.TYPE_MESSAGE, "label": kinds.LABEL_OPTIONAL, "type_name": ".google.protobuf.Value"}
    entry.field.add(name="value", number=2, **value)
    many = {"type": kinds.TYPE_MESSAGE, "label": kinds.LABEL_REPEATED}
    start.field.add(name="hparams", number=1, type_name=".h.SessionStartInfo.HparamsEntry", **many)
    start.field.add(name="group_name", number=4, type=kinds.TYPE_STRING, label=kinds.LABEL_OPTIONAL)
    data = file.message_type.add(name="HParamsPluginData")
    one = {"type": kinds.TYPE_MESSAGE, "label": kinds.LABEL_OPTIONAL}
    data.field.add(name="session_start_info", number=3, type_name=".h.SessionStartInfo", **one)
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(struct_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("h.HParamsPluginData"))


def test_the_dashboard_reads_hyperparameters_and_results(tmp_path):
    values = {"bits": 4, "optimizer": "adam" * 50, "flag": True, "rate": 0.5}
    write_hparams(tmp_path, "trial7", values, {"score": 0.25})
    found, scalars = {}, {}
    for path in (tmp_path / "trial7").iterdir():
        for record in tf.data.TFRecordDataset(str(path)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            for value in event.summary.value:
                plugin = value.metadata.plugin_data
                if plugin.plugin_name == "hparams":
                    info = session_class().FromString(plugin.content).session_start_info
                    assert (value.tag, info.group_name) == ("_hparams_/session_start_info", "trial7")
                    found = {name: getattr(v, v.WhichOneof("kind")) for name, v in info.hparams.items()}
                else:
                    scalars[value.tag] = float(tf.make_ndarray(value.tensor))
    assert found == values and scalars == {"score": 0.25}
