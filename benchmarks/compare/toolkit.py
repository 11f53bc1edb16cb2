"""INTERPRETER toolkit.py MODEL.h5 SAMPLES.npy OUT.tflite: post-training quantization by model-compression-toolkit.

It needs TensorFlow 2.15, so that it runs in an environment of its own and imports nothing of this repository. Prints
the seconds from the loaded model to the file.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

import model_compression_toolkit as mct
import numpy as np
import tensorflow as tf


def main() -> None:
    model, samples = tf.keras.models.load_model(sys.argv[1], compile=False), np.load(sys.argv[2])

    def batches() -> Iterator[list[np.ndarray]]:
        for begin in range(0, len(samples), 50):
            yield [samples[begin : begin + 50]]

    begin = time.perf_counter()
    quantized, _ = mct.ptq.keras_post_training_quantization(model, batches)
    mct.exporter.keras_export_model(
        quantized,
        sys.argv[3],
        serialization_format=mct.exporter.KerasExportSerializationFormat.TFLITE,
        quantization_format=mct.exporter.QuantizationFormat.INT8,
    )
    print(time.perf_counter() - begin)


if __name__ == "__main__":
    main()
