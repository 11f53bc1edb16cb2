"""Peak memory of a run over a stream on disk: does it grow with the stream?

    python -m benchmarks.memory [--gigabytes 0.4 4] [--folder DIR]

Each size is a file of random images in a temporary folder and one run of pruning and quantization-aware training over
it, in a process of its own, whose peak memory (the largest of it and its children) the operating system tells.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

SHAPE = (64, 64, 3)
RECORD = 4 * (int(np.prod(SHAPE)) + 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--gigabytes", type=float, nargs="*", default=[0.4, 4.0], help="sizes of the streams")
    parser.add_argument("--folder", type=Path, help="where the files go while it runs; needs the largest size")
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        print(json.dumps(run(options.run)))
        return
    rows = [measured(size, options.folder) for size in options.gigabytes]
    print("| stream | samples | peak memory | seconds |\n|---|---|---|---|")
    for row in rows:
        print(f"| {row['gigabytes']:.1f} GB | {row['samples']:,} | {row['peak_mb']:,.0f} MB | {row['seconds']:.0f} |")
    print(json.dumps(rows))


def measured(gigabytes: float, folder: Path | None) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=folder) as place:
        path, samples = Path(place, "images.bin"), int(gigabytes * 1e9 / RECORD)
        write(path, samples)
        command = [sys.executable, "-m", "benchmarks.memory", "--run", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(done.stderr)
        return {"gigabytes": gigabytes, "samples": samples, **json.loads(done.stdout.splitlines()[-1])}


def write(path: Path, samples: int) -> None:
    """Writes records of a label and an image that is brighter for higher labels."""
    generator = np.random.default_rng(0)
    with path.open("wb") as file:
        for start in range(0, samples, 1000):
            labels = generator.integers(0, 4, min(1000, samples - start)).astype("float32")
            images = generator.random((len(labels), int(np.prod(SHAPE))), dtype="float32")
            file.write(np.column_stack([labels, images * (1 + labels[:, None]) / 4]).astype("<f4").tobytes())


def run(path: Path) -> dict[str, Any]:
    import keras
    import tensorflow as tf

    import bigmodel as bm

    def parse(record: Any) -> tuple[Any, Any]:
        values = tf.ensure_shape(tf.io.decode_raw(record, tf.float32), [RECORD // 4])
        return tf.reshape(values[1:], SHAPE), tf.cast(values[0], tf.int32)

    stream = tf.data.FixedLengthRecordDataset([os.fspath(path)], RECORD).map(parse).batch(64)
    keras.utils.set_random_seed(0)
    layers = [
        keras.Input(SHAPE),
        keras.layers.Conv2D(8, 3, strides=4, activation="relu"),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(4, activation="softmax"),
    ]
    model: Any = keras.Sequential(layers)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    begin = time.perf_counter()
    quantize = bm.QuantizeConfig(bits=8, method="aware", activations="dynamic")
    bm.compress_and_tune(model, stream, prune=0.5, quantize=quantize, train=bm.TrainConfig(epochs=1), verbose=0)
    whom = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    peak = max(resource.getrusage(who).ru_maxrss for who in whom) / 1000
    return {"peak_mb": peak, "seconds": time.perf_counter() - begin}


if __name__ == "__main__":
    main()
