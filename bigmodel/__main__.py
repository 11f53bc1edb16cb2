"""The command line: `python -m bigmodel compress | report`.

    python -m bigmodel compress model.keras data.npz --directory runs/shoes --prune 0.8 --quantize 8
    python -m bigmodel report runs/shoes --html report.html

The exit status is 0 when the target was met, 1 when it was not, and 2 when the command could not run.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bigmodel import __version__
from bigmodel.config import PruneConfig, QuantizeConfig, Target, TrainConfig
from bigmodel.errors import ArgumentError, BigmodelError, DataError, DirectoryError

if TYPE_CHECKING:
    from bigmodel.data import Data
    from bigmodel.report import Record

_SPLITS = ("train", "validation", "test")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status.

    Args:
        arguments: The words after `python -m bigmodel`; `None` reads them from the process.

    Returns:
        0: done and the target was met. 1: done, the target was not met. 2: the command could not run; the reason is
        on stderr.
    """
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except BigmodelError as error:
        print(f"bigmodel: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bigmodel", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--version", action="version", version=f"bigmodel {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_compress(commands.add_parser("compress", help="compress a saved Keras model to a verified .tflite"))
    _add_report(commands.add_parser("report", help="show the report of a run's directory"))
    return parser


def _add_compress(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_compress)
    parser.add_argument("model", type=Path, help="a model saved by Keras (.keras)")
    parser.add_argument(
        "data",
        type=Path,
        help="a .npz with x_train and y_train, optionally x_validation, y_validation, x_test, y_test; or with x and y",
    )
    parser.add_argument("--directory", required=True, type=Path, help="where the files and the report go")
    parser.add_argument("--prune", type=_step(float), default="auto", help="sparsity in 0..1, 'auto' or 'none'")
    parser.add_argument(
        "--quantize",
        type=_step(int, "mixed"),
        default="auto",
        help="bits of the weights: 8, 4, 2, 1, 'mixed', 'auto' or 'none'",
    )
    parser.add_argument("--max-drop", type=float, default=Target.max_drop, help="how far the metric may fall")
    parser.add_argument("--size", help="most bytes of the file, such as 200KB (KB is 1000 bytes)")
    parser.add_argument("--latency-ms", type=float, help="most milliseconds of one call")
    parser.add_argument("--epochs", type=int, default=TrainConfig.epochs, help="epochs of each step that trains")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quiet", action="store_true", help="print nothing but the report")


def _add_report(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_report)
    parser.add_argument("directory", type=Path, help="the directory of a finished run")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write the page to FILE and print nothing")


def _step(number: type, *words: str) -> Callable[[str], Any]:
    known = {"auto": "auto", "none": None, **{word: word for word in words}}

    def parse(text: str) -> Any:
        return known[text] if text in known else number(text)

    # argparse names it when the text can't be read
    parse.__name__ = ", ".join([number.__name__, *map(repr, words), "'auto' or 'none'"])
    return parse


def _compress(options: argparse.Namespace) -> int:
    # Everything that can be wrong in the options is found before Keras is loaded.
    target = Target(max_drop=options.max_drop, size=options.size, latency_ms=options.latency_ms)
    train = TrainConfig(epochs=options.epochs)
    prune = PruneConfig(sparsity=options.prune) if isinstance(options.prune, float) else options.prune
    quantize = QuantizeConfig(bits=options.quantize) if isinstance(options.quantize, int) else options.quantize
    if not options.model.is_file():
        raise ArgumentError(
            "There is no such model.",
            received=str(options.model),
            expected="a file written by model.save('model.keras')",
            fix="Save the model as .keras and pass its path.",
        )
    data = _read_data(options.data)

    import keras

    from bigmodel.pipeline import compress_and_tune

    result = compress_and_tune(
        keras.models.load_model(options.model),
        data,
        target=target,
        prune=prune,
        quantize=quantize,
        train=train,
        directory=options.directory,
        seed=options.seed,
        verbose=0 if options.quiet else 1,
    )
    print(result.report)
    return 0 if result.report.target_met else 1


def _report(options: argparse.Namespace) -> int:
    record = _read_record(options.directory)
    if options.html is None:
        print(record)
    else:
        options.html.write_text(record.to_html(), encoding="utf-8")
    return 0 if record.target_met else 1


def _read_data(path: Path) -> Data:
    import numpy as np

    from bigmodel.data import Data

    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
    except (OSError, ValueError) as error:
        raise DataError(
            "The data can't be read.",
            received=f"{path} ({error})",
            expected="a .npz file of arrays without pickled objects",
            fix="Write it with numpy.savez(path, x_train=..., y_train=...).",
        ) from error
    if {"x", "y"} <= set(arrays):
        return Data(train=(arrays["x"], arrays["y"]))
    splits = {
        name: (arrays[f"x_{name}"], arrays[f"y_{name}"])
        for name in _SPLITS
        if {f"x_{name}", f"y_{name}"} <= set(arrays)
    }
    if "train" not in splits:
        raise DataError(
            "The file holds no training data.",
            received=f"{path} with {sorted(arrays)}",
            expected="the arrays x_train and y_train, or x and y",
            fix="Write it with numpy.savez(path, x_train=..., y_train=...).",
        )
    return Data(**splits)


def _read_record(directory: Path) -> Record:
    from bigmodel.report import Record

    path = directory / "report.json"
    if not path.is_file():
        raise DirectoryError(
            "There is no report here.",
            received=str(directory),
            expected="the directory of a finished run, which holds report.json",
            fix="Pass what was given to compress_and_tune(..., directory=...).",
        )
    return Record.from_dict(json.loads(path.read_text(encoding="utf-8")))


if __name__ == "__main__":
    sys.exit(main())
