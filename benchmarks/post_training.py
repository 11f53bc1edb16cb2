"""What each method of post-training is worth at 4 bits: accuracy and bytes of files on Fashion-MNIST, without labels.

python -m benchmarks.post_training
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras

from benchmarks.networks import ds_cnn, fashion_mnist, mlp, resnet8, trained
from bigmodel.config import QuantizeConfig
from bigmodel.data import Data, as_data
from bigmodel.evaluation import evaluate_file, evaluate_model
from bigmodel.export.formats import format_named
from bigmodel.quantization import deploy, quantize_post_training

NETWORKS = {"mlp": mlp, "resnet8": resnet8, "ds_cnn": ds_cnn}
PLAIN: dict[str, Any] = {"clipping": "min_max", "rounding": "nearest", "equalization": False, "bias_correction": False}
METHODS: dict[str, dict[str, Any]] = {
    "min-max": PLAIN,
    "+ clipping": {**PLAIN, "clipping": "mse"},
    "+ equalization": {**PLAIN, "equalization": True},
    "+ bias correction": {**PLAIN, "bias_correction": True},
    "+ adaptive rounding": {**PLAIN, "rounding": "adaptive"},
    "auto": {},
}


def rows(model: keras.Model, data: Data, bits: int) -> Iterator[str]:
    """Yields for the float model and each method a row of the table, measured on the file but for the float model."""
    assert data.test is not None and data.calibration is not None
    samples, _, _ = data.calibration.arrays()
    accuracy = evaluate_model(model, data.test, like=model).metric
    yield f"| {model.name} | float | {accuracy:.4f} | | | |"
    for name, settings in METHODS.items():
        config = QuantizeConfig(bits=bits, activations="dynamic", method="post_training", **settings)
        started = time.perf_counter()
        made = quantize_post_training(model, data, config)
        seconds = time.perf_counter() - started
        with tempfile.TemporaryDirectory(prefix="bigmodel-post-training-") as folder:
            order = (format_named(f"dynamic_int{bits}"), Path(folder, "model.tflite"))
            (deployed,) = deploy(made.simulation, [order], samples)
            if isinstance(deployed, Exception):
                raise deployed
            path = deployed.written.path
            accuracy, size = evaluate_file(path, data.test, like=model).metric, path.stat().st_size
        kept = ", ".join(f"{key} {made.chosen[key]}" for key in PLAIN if made.chosen[key] != PLAIN[key])
        yield f"| {model.name} | {name} | {accuracy:.4f} | {size:,} | {seconds:.1f} | {kept} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="an .npz of Fashion-MNIST; without it Keras downloads it")
    parser.add_argument("--cache", type=Path, help="a folder of trained networks, written if they are not there")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--networks", nargs="*", choices=NETWORKS, default=list(NETWORKS))
    arguments = parser.parse_args()
    print("| network | method | accuracy | bytes | seconds | kept |\n|---|---|---|---|---|---|")
    for name in arguments.networks:
        train, test = fashion_mnist(arguments.data, flat=name == "mlp")
        cache = arguments.cache and arguments.cache / f"{name}-{arguments.epochs}-0.keras"
        model = trained(NETWORKS[name](), train, epochs=arguments.epochs, seed=0, cache=cache)
        for row in rows(model, as_data(Data(train=train, test=test), model=model, seed=0), arguments.bits):
            print(row, flush=True)


if __name__ == "__main__":
    main()
