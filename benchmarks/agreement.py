"""Does the file compute what its Keras simulation computes? Networks of all kinds against formats, on Fashion-MNIST.

    python -m benchmarks.agreement --data fashion_mnist.npz [--only vit ...] [--samples 10000] [--markdown FILE]

Each network is trained for a moment, quantized without training and deployed. Of each file: the share of held-out
samples with the same top-1 class as its simulation, the mean absolute difference of the outputs (of a static file in
steps of its output), and whether every quantized weight stands in the file's buffer exactly as it was decided.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np

from benchmarks import networks
from bigmodel.config import QuantizeConfig
from bigmodel.data import Data, as_data
from bigmodel.errors import ConversionError
from bigmodel.evaluation import agreement, evaluate_file, evaluate_model, output_difference
from bigmodel.export.formats import format_named
from bigmodel.quantization import deploy, quantize_post_training

PLAIN: dict[str, Any] = {"clipping": "min_max", "rounding": "nearest", "equalization": False, "bias_correction": False}
CONFIGS: dict[str, dict[str, Any]] = {
    "static_int8": {"bits": 8, "activations": "static", "observer": "min_max"},
    "dynamic_int8": {"bits": 8, "activations": "dynamic"},
    "dynamic_int4": {"bits": 4, "activations": "dynamic"},
    "dynamic_mixed": {"bits": "mixed", "activations": "dynamic"},
}
TRAINED_ON = 12_000


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, help=".npz with Fashion-MNIST; without it Keras downloads it")
    parser.add_argument("--only", nargs="*", choices=networks.NETWORKS, default=list(networks.NETWORKS))
    parser.add_argument("--samples", type=int, default=10_000, help="test samples")
    parser.add_argument("--markdown", type=Path, help="where the table goes")
    options = parser.parse_args()
    train, test = networks.fashion_mnist(options.data)
    lines = [
        "| network | file | agreement | mean difference | weights | what the file does otherwise |",
        "|---|---|---|---|---|---|",
    ]
    for name in options.only:
        for line in rows(name, train, tuple(part[: options.samples] for part in test)):
            print(line, flush=True)
            lines.append(line)
    if options.markdown:
        options.markdown.write_text("\n".join(lines) + "\n", encoding="utf-8")


def rows(name: str, train: Any, test: Any) -> Iterator[str]:
    """Yields the rows of a network."""
    build, adapt = networks.NETWORKS[name]
    train, test = adapt(*(part[:TRAINED_ON] for part in train)), adapt(*test)
    keras.utils.set_random_seed(0)
    model = build()
    model.fit(*train, epochs=1, batch_size=64, verbose=0)
    data = as_data(Data(train=train, test=test), model=model)
    for format_name, settings in CONFIGS.items():
        yield f"| {name} | {format_name} | {' | '.join(compared(model, data, format_name, settings))} |"


def compared(model: keras.Model, data: Data, format_name: str, settings: dict[str, Any]) -> list[str]:
    """Returns agreement, difference, exactness and remarks of one file."""
    assert data.test is not None and data.calibration is not None
    config = QuantizeConfig(method="post_training", **{**PLAIN, **settings})
    made = quantize_post_training(model, data, config)
    samples, _, _ = data.calibration.arrays()
    with tempfile.TemporaryDirectory(prefix="agreement-") as folder:
        path = Path(folder, "model.tflite")
        (deployed,) = deploy(made.simulation, [(format_named(format_name), path)], samples)
        if isinstance(deployed, ConversionError):
            return ["no file", "", "", str(deployed).replace("\n", " ").replace("|", "/")[:200]]
        answers = evaluate_file(path, data.test, like=model)
    simulated = evaluate_model(deployed.simulation, data.test, like=model)
    difference = output_difference(simulated, answers)
    told = f"{difference:.1e}"
    if deployed.written.ranges:  # else nothing of it is integer but the insides of kernels
        step = np.diff(np.unique(np.asarray(answers.outputs))).min()
        told = f"{difference / step:.2f} steps"
    written = deployed.written
    exact, count = sum(written.exact.values()), len(written.exact) + len(written.missing)
    reasons = dict.fromkeys(skip.reason for skip in made.skipped if skip.step == "quantize")
    return [f"{agreement(simulated, answers):.4f}", told, f"{exact} of {count} exact", "; ".join(reasons)]


if __name__ == "__main__":
    main()
