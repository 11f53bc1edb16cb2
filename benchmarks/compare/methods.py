"""The tools that are compared, each as its own documentation says: from a trained float network to a .tflite file."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Arrays = tuple[np.ndarray, np.ndarray]

TOOLKIT = "model-compression-toolkit: int8"
"""The method that needs an interpreter of its own."""


def cut(x: np.ndarray, y: np.ndarray) -> tuple[Arrays, Arrays]:
    """Returns what a tool trains with, and the last samples, 6,000 or a fifth, which choose among its files."""
    size = min(6_000, len(x) // 5)
    return (x[:-size], y[:-size]), (x[-size:], y[-size:])


@dataclasses.dataclass(frozen=True)
class Job:
    """What a method gets.

    Args:
        model: Path of the float network, saved by Keras 3.
        data: Path of an .npz with x_train and y_train, as the network takes them.
        out: The .tflite to write.
        epochs: Epochs that a method that trains may train.
        seed: The seed.
        mct_python: The interpreter that has model-compression-toolkit.
    """

    model: Path
    data: Path
    out: Path
    epochs: int
    seed: int
    mct_python: str | None = None

    def splits(self) -> tuple[Arrays, Arrays]:
        """Returns the samples and labels for training, and those for validation."""
        with np.load(self.data) as file:
            return cut(file["x_train"], file["y_train"])

    def calibration(self) -> np.ndarray:
        """Returns some training samples."""
        return self.splits()[0][0][:500]


# --- bigmodel -----------------------------------------------------------------------------------------------------


def _bigmodel(job: Job, **orders: Any) -> None:
    import keras

    import bigmodel as bm

    model = keras.models.load_model(job.model)
    train, validation = job.splits()
    data = bm.Data(train=train, validation=validation)
    # What is ordered trains on the samples that the other tools get; what decides for itself may vary them.
    orders = {"augment": None if orders else "auto", "train": bm.TrainConfig(epochs=job.epochs), **orders}
    result = bm.compress_and_tune(model, data, seed=job.seed, verbose=0, **orders)
    shutil.copyfile(result.litert_path, job.out)


def bigmodel_default(job: Job) -> None:
    _bigmodel(job)


def bigmodel_int8(job: Job) -> None:
    _bigmodel(job, quantize=8)


def bigmodel_aware(job: Job) -> None:
    import bigmodel as bm

    _bigmodel(job, quantize=bm.QuantizeConfig(bits=8, method="aware"))


def bigmodel_aware_tensor(job: Job) -> None:
    import bigmodel as bm

    _bigmodel(job, quantize=bm.QuantizeConfig(bits=8, method="aware", granularity="tensor"))


def bigmodel_int4(job: Job) -> None:
    _bigmodel(job, quantize=4)


def bigmodel_pruned_int8(job: Job) -> None:
    _bigmodel(job, prune=0.8, quantize=8)


def bigmodel_channels_int8(job: Job) -> None:
    import bigmodel as bm

    _bigmodel(job, prune=bm.PruneConfig(sparsity=0.5, granularity="channel", round_to=8), quantize=8)


def bigmodel_channels_int4(job: Job) -> None:
    import bigmodel as bm

    quantize = bm.QuantizeConfig(bits=4, method="aware")
    _bigmodel(job, prune=bm.PruneConfig(sparsity=0.5, granularity="channel"), quantize=quantize)


# --- tensorflow-model-optimization ----------------------------------------------------------------------------------


def _twin(job: Job) -> Any:
    from benchmarks.compare.twins import twin

    return twin(job.model)


FAST, SLOW = 1e-3, 1e-4
"""Constant learning rates for tfmot: the compiled one for pruning, a tenth of it for 8 bits.

They are the better ones of the two: on the MLP, QAT gave 0.857 with the slow and 0.853 with the fast one, pruning 0.834
and 0.848. Clustering takes the slow one, as its guide says. The mean of the cosine that bigmodel takes at 8 bits, from
three tenths of the compiled rate to zero, is about as slow.
"""


def _trained(job: Job, model: Any, rate: float, callbacks: Any = ()) -> Any:
    import tf_keras

    (x, y), _ = job.splits()
    tf_keras.utils.set_random_seed(job.seed)
    model.compile(tf_keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(x, y, batch_size=128, epochs=job.epochs, callbacks=list(callbacks), verbose=0)
    return model


def _pruned(job: Job) -> Any:
    """80 % of each kernel, by the polynomial schedule of tfmot's guide; stripped."""
    import tensorflow_model_optimization as tfmot

    steps = job.epochs * -(-len(job.splits()[0][0]) // 128)
    schedule = tfmot.sparsity.keras.PolynomialDecay(0.5, 0.8, begin_step=0, end_step=steps * 2 // 3)
    wrapped = tfmot.sparsity.keras.prune_low_magnitude(_twin(job), schedule)
    return tfmot.sparsity.keras.strip_pruning(_trained(job, wrapped, FAST, [tfmot.sparsity.keras.UpdatePruningStep()]))


def _clustered(job: Job) -> Any:
    import tensorflow_model_optimization as tfmot

    centroids = tfmot.clustering.keras.CentroidInitialization.KMEANS_PLUS_PLUS
    wrapped = tfmot.clustering.keras.cluster_weights(
        _twin(job), number_of_clusters=16, cluster_centroids_init=centroids
    )
    return tfmot.clustering.keras.strip_clustering(_trained(job, wrapped, SLOW))


def _aware(job: Job, model: Any, scheme: Any = None) -> None:
    import tensorflow_model_optimization as tfmot

    if scheme is None:
        aware = tfmot.quantization.keras.quantize_model(model)
    else:
        annotated = tfmot.quantization.keras.quantize_annotate_model(model)
        aware = tfmot.quantization.keras.quantize_apply(annotated, scheme)
    job.out.write_bytes(_legacy_converter(_trained(job, aware, SLOW)).convert())


def _legacy_converter(model: Any) -> Any:
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    return converter


def tfmot_qat(job: Job) -> None:
    _aware(job, _twin(job))


def tfmot_pruned_qat(job: Job) -> None:
    model = _pruned(job)
    import tensorflow_model_optimization as tfmot

    _aware(job, model, tfmot.experimental.combine.Default8BitPrunePreserveQuantizeScheme())


def tfmot_clustered_qat(job: Job) -> None:
    model = _clustered(job)
    import tensorflow_model_optimization as tfmot

    _aware(job, model, tfmot.experimental.combine.Default8BitClusterPreserveQuantizeScheme())


# --- model-compression-toolkit --------------------------------------------------------------------------------------


def toolkit_int8(job: Job) -> float:
    """Returns the seconds that its own process says: its imports are nobody's work."""
    with tempfile.TemporaryDirectory() as folder:
        model, samples = Path(folder, "model.h5"), Path(folder, "samples.npy")
        _twin(job).save(model)
        _as_older_keras_writes(model)
        np.save(samples, job.calibration())
        command = [job.mct_python, Path(__file__).with_name("toolkit.py"), model, samples, job.out]
        plain = {name: value for name, value in os.environ.items() if name != "TF_USE_LEGACY_KERAS"}
        done = subprocess.run(command, capture_output=True, text=True, env=plain)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    return float(done.stdout.splitlines()[-1])


def _as_older_keras_writes(path: Path) -> None:
    """Keras 2.15 refuses a key that later versions of Keras 2 write for each input."""
    import h5py

    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        for layer in config["config"]["layers"]:
            layer["config"].pop("optional", None)
        file.attrs["model_config"] = json.dumps(config)


# --- TensorFlow's converter -----------------------------------------------------------------------------------------


def _one_sample(model: Any) -> Any:
    """The signature of a batch of one sample: with a free batch the converter refuses recurrent layers."""
    import keras

    return [keras.InputSpec(shape=(1, *model.input_shape[1:]), dtype="float32")]


def _converter(job: Job) -> Any:
    import keras
    import tensorflow as tf

    folder = tempfile.mkdtemp()
    model = keras.models.load_model(job.model)
    model.export(folder, input_signature=_one_sample(model), verbose=False)
    converter = tf.lite.TFLiteConverter.from_saved_model(folder)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    return converter


def converter_dynamic(job: Job) -> None:
    job.out.write_bytes(_converter(job).convert())


def converter_float16(job: Job) -> None:
    import tensorflow as tf

    converter = _converter(job)
    converter.target_spec.supported_types = [tf.float16]
    job.out.write_bytes(converter.convert())


def converter_full_int8(job: Job) -> None:
    import tensorflow as tf

    samples = job.calibration()
    converter = _converter(job)
    converter.representative_dataset = lambda: ([sample[None]] for sample in samples)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8, tf.lite.OpsSet.TFLITE_BUILTINS]
    job.out.write_bytes(converter.convert())


# --- ai-edge-quantizer ----------------------------------------------------------------------------------------------


def _edge(job: Job, recipe: str, calibrates: bool = False) -> None:
    import tensorflow as tf
    from ai_edge_quantizer import quantizer
    from ai_edge_quantizer import recipe as recipes

    converter = _converter(job)
    converter.optimizations = []
    path = job.out.with_suffix(".float")
    path.write_bytes(converter.convert())
    work = quantizer.Quantizer(str(path), getattr(recipes, recipe)())
    result = None
    if calibrates:
        (name,) = tf.lite.Interpreter(str(path)).get_signature_list()
        (key,) = tf.lite.Interpreter(str(path)).get_signature_list()[name]["inputs"]
        result = work.calibrate({name: [{key: sample[None]} for sample in job.calibration()]})
    job.out.write_bytes(work.quantize(result).quantized_model)
    path.unlink()


def edge_dynamic_int8(job: Job) -> None:
    _edge(job, "dynamic_wi8_afp32")


def edge_dynamic_int4(job: Job) -> None:
    _edge(job, "dynamic_wi4_afp32")


def edge_weight_only_int8(job: Job) -> None:
    _edge(job, "weight_only_wi8_afp32")


def edge_weight_only_int4(job: Job) -> None:
    _edge(job, "weight_only_wi4_afp32")


def edge_static_int8(job: Job) -> None:
    _edge(job, "static_wi8_ai8", calibrates=True)


# --- Keras' own quantization ----------------------------------------------------------------------------------------


def _keras(job: Job, mode: str) -> None:
    import keras

    model = keras.models.load_model(job.model)
    model.quantize(mode)
    model.export(str(job.out), format="litert", input_signature=_one_sample(model), verbose=False)


def keras_int8(job: Job) -> None:
    _keras(job, "int8")


def keras_int4(job: Job) -> None:
    _keras(job, "int4")


# --- the baseline ---------------------------------------------------------------------------------------------------


def float32(job: Job) -> None:
    converter = _converter(job)
    converter.optimizations = []
    job.out.write_bytes(converter.convert())


METHODS: dict[str, Callable[[Job], float | None]] = {
    "float32": float32,
    "bigmodel: default": bigmodel_default,
    "bigmodel: 8 bits": bigmodel_int8,
    "bigmodel: QAT": bigmodel_aware,
    "bigmodel: QAT, per tensor": bigmodel_aware_tensor,
    "bigmodel: 4 bits": bigmodel_int4,
    "bigmodel: 80 % zeros, 8 bits": bigmodel_pruned_int8,
    "bigmodel: half the channels, 8 bits": bigmodel_channels_int8,
    "bigmodel: half the channels, 4 bits": bigmodel_channels_int4,
    "tfmot: QAT": tfmot_qat,
    "tfmot: 80 % zeros, QAT": tfmot_pruned_qat,
    "tfmot: 16 clusters, QAT": tfmot_clustered_qat,
    TOOLKIT: toolkit_int8,
    "converter: float16": converter_float16,
    "converter: dynamic int8": converter_dynamic,
    "converter: full int8": converter_full_int8,
    "ai-edge-quantizer: dynamic int8": edge_dynamic_int8,
    "ai-edge-quantizer: dynamic int4": edge_dynamic_int4,
    "ai-edge-quantizer: weight-only int8": edge_weight_only_int8,
    "ai-edge-quantizer: weight-only int4": edge_weight_only_int4,
    "ai-edge-quantizer: static int8": edge_static_int8,
    "Keras: int8": keras_int8,
    "Keras: int4": keras_int4,
}
"""Name and function of every method, in the order of the table. One returns its seconds if the caller can't know."""

ALONE = ("bigmodel", "tfmot", TOOLKIT)
"""Beginnings of the names of methods with a process of their own; the others of a network are quick and share one."""
LEGACY = ("tfmot", TOOLKIT)
"""Beginnings of the names of methods that need `tf.keras` to be Keras 2."""
