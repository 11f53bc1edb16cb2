"""What few bits cost, with and without training: files of the reference networks on Fashion-MNIST.

    python -m benchmarks.low_bits --data fashion_mnist.npz [--only mlp ...] [--epochs 3] [--cache DIR]

Accuracy and bytes are those of the file on the 10,000 test images. "min-max" is the plain post-training quantization,
"post-training" what is chosen by measurement without labels, "aware" training with the rounding for some epochs.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras

from benchmarks import networks
from bigmodel.config import QuantizeConfig, TrainConfig
from bigmodel.data import Data, as_data
from bigmodel.evaluation import evaluate_file
from bigmodel.export import export_float
from bigmodel.export.formats import format_of
from bigmodel.quantization import deploy, quantize_aware, quantize_post_training

VALIDATION = 6_000
PLAIN: dict[str, Any] = {"clipping": "min_max", "rounding": "nearest", "equalization": False, "bias_correction": False}
# Of each network the files: a name, the settings of the config, and whether it trains. A size is a share of the float
# file's.
ROWS: dict[str, list[tuple[str, dict[str, Any], bool]]] = {
    "mlp": [
        ("4 bits, min-max", {"bits": 4, **PLAIN}, False),
        ("4 bits, post-training", {"bits": 4}, False),
        ("4 bits, aware", {"bits": 4}, True),
        ("ternary, aware", {"bits": 2}, True),
    ],
    "resnet8": [
        ("8 bits, min-max", {"bits": 8, **PLAIN}, False),
        ("4 bits, min-max", {"bits": 4, **PLAIN}, False),
        ("4 bits, post-training", {"bits": 4}, False),
        ("mixed, 0.18 of the bytes, min-max", {"bits": "mixed", "size": 0.18, **PLAIN}, False),
        ("mixed, 0.18 of the bytes, post-training", {"bits": "mixed", "size": 0.18}, False),
        ("4 bits, aware", {"bits": 4}, True),
    ],
    "ds_cnn": [
        ("4 bits, min-max", {"bits": 4, **PLAIN}, False),
        ("4 bits, post-training", {"bits": 4}, False),
        ("4 bits, aware", {"bits": 4}, True),
    ],
    "mobilenet_v2": [("mixed, a quarter of the bytes", {"bits": "mixed", "size": 0.25}, False)],
    "lstm": [("8 bits, post-training", {"bits": 8}, False), ("4 bits, post-training", {"bits": 4}, False)],
    "gru": [("8 bits, post-training", {"bits": 8}, False), ("4 bits, post-training", {"bits": 4}, False)],
}
# Where a network is larger here than in the other benchmarks, and how many epochs train it.
BUILDERS: dict[str, Any] = {"lstm": lambda: networks.lstm(160), "gru": lambda: networks.gru(160)}
EPOCHS = {"mobilenet_v2": 1, "lstm": 2, "gru": 2}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, help=".npz with Fashion-MNIST; without it Keras downloads it")
    parser.add_argument("--only", nargs="*", choices=ROWS, default=list(ROWS))
    parser.add_argument("--epochs", type=int, default=3, help="epochs of quantization-aware training")
    parser.add_argument("--cache", type=Path, help="where trained float networks are kept")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print("| network | file | accuracy | bytes | parameters |\n|---|---|---|---|---|")
    for name in options.only:
        for line in rows(name, options):
            print(line, flush=True)


def rows(name: str, options: argparse.Namespace) -> Iterator[str]:
    build, adapt = networks.NETWORKS[name]
    (x, y), test = (adapt(*split) for split in networks.fashion_mnist(options.data))
    train, validation = (x[:-VALIDATION], y[:-VALIDATION]), (x[-VALIDATION:], y[-VALIDATION:])
    epochs = EPOCHS.get(name, 8)
    cache = options.cache and options.cache / f"{name}-{epochs}-{options.seed}.keras"
    model = networks.trained(BUILDERS.get(name, build)(), train, epochs=epochs, seed=options.seed, cache=cache)
    data = as_data(Data(train=train, validation=validation, test=test), model=model)
    assert data.test is not None and data.calibration is not None
    samples, _, _ = data.calibration.arrays()
    with tempfile.TemporaryDirectory(prefix="low-bits-") as folder:
        path = export_float(model, Path(folder, "float.tflite"))
        size = path.stat().st_size
        yield f"| {name} | float | {accuracy(path, data, model):.4f} | {size:,} | {model.count_params():,} |"
        for title, settings, trains in ROWS[name]:
            ordered = {**settings, "size": int(settings["size"] * size)} if "size" in settings else settings
            config = QuantizeConfig(activations="dynamic", method="aware" if trains else "post_training", **ordered)
            if trains:
                train_config = TrainConfig(epochs=options.epochs)
                simulation, _ = quantize_aware(model, data, config, train=train_config, seed=options.seed)
            else:
                simulation = quantize_post_training(model, data, config).simulation
            bits: Any = config.bits
            (deployed,) = deploy(simulation, [(format_of(bits, "dynamic"), Path(folder, "model.tflite"))], samples)
            if isinstance(deployed, Exception):
                raise deployed
            path = deployed.written.path
            yield f"| {name} | {title} | {accuracy(path, data, model):.4f} | {path.stat().st_size:,} | |"


def accuracy(path: Path, data: Data, model: keras.Model) -> float:
    assert data.test is not None
    return evaluate_file(path, data.test, like=model).metric


if __name__ == "__main__":
    main()
