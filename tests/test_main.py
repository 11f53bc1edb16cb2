"""The command line: its exit status, its messages, and what it writes."""

from __future__ import annotations

import json

import numpy as np
import pytest

import bigmodel as bm
from bigmodel.__main__ import main


def test_version(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0 and capsys.readouterr().out == f"bigmodel {bm.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["report", "nowhere"], ["There is no report here.", "nowhere", "directory=..."]),
        (["compress", "no.keras", "no.npz", "--directory", "d"], ["There is no such model.", "no.keras"]),
        (["compress", "m.keras", "no.npz", "--directory", "d"], ["The data can't be read.", "no.npz"]),
        (["compress", "m.keras", "text.npz", "--directory", "d"], ["The data can't be read.", "text.npz"]),
        (["compress", "m.keras", "test.npz", "--directory", "d"], ["no training data", "x_test", "x_train"]),
        (["compress", "m.keras", "test.npz", "--directory", "d", "--size", "big"], ["Target.size", "'200KB'"]),
        (["compress", "m.keras", "test.npz", "--directory", "d", "--prune", "1.5"], ["PruneConfig.sparsity", "1.5"]),
        (["compress", "m.keras", "test.npz", "--directory", "d", "--quantize", "7"], ["QuantizeConfig.bits", "8, 4"]),
    ],
)
def test_what_can_not_run_says_why_on_stderr_and_exits_with_2(arguments, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.keras").write_bytes(b"")
    (tmp_path / "text.npz").write_text("hello")
    np.savez(tmp_path / "test.npz", x_test=np.zeros((2, 2)), y_test=np.zeros(2))
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and all(text in printed.err for text in says), printed.err


@pytest.mark.parametrize("value", ["half", "80%"])
def test_a_step_is_a_number_auto_or_none(value, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["compress", "m.keras", "d.npz", "--directory", "d", "--prune", value])
    assert ended.value.code == 2 and "'auto' or 'none'" in capsys.readouterr().err


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run, made by the command line from files."""
    import keras

    folder = tmp_path_factory.mktemp("run")
    (x, y), (x_test, y_test) = bm.data.load_digits()
    x, x_test = (images.reshape(-1, 64).astype("float32") / 16 for images in (x, x_test))
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.layers.Input((64,)), keras.layers.Dense(32, "relu"), keras.layers.Dense(10)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.Adam(5e-3), loss=loss, metrics=["accuracy"])
    model.fit(x, y, epochs=5, verbose=0)
    model.save(folder / "model.keras")
    np.savez(folder / "digits.npz", x_train=x, y_train=y, x_test=x_test, y_test=y_test)
    arguments = [folder / "model.keras", folder / "digits.npz", "--directory", folder / "out", "--epochs", "1"]
    status = main(["compress", *map(str, arguments), "--prune", "none", "--quantize", "8", "--quiet"])
    return folder / "out", status


def test_compress_leaves_a_directory_that_loads(run):
    directory, status = run
    record = json.loads((directory / "report.json").read_text(encoding="utf-8"))
    assert status == (0 if record["target_met"] else 1)
    assert bm.load_result(directory).report.to_dict() == record


def test_report_prints_what_the_record_prints(run, capsys):
    directory, status = run
    assert main(["report", str(directory)]) == status
    assert capsys.readouterr().out.rstrip("\n") == str(bm.load_result(directory).report).rstrip("\n")


def test_report_writes_the_page(run, tmp_path, capsys):
    directory, status = run
    assert main(["report", str(directory), "--html", str(tmp_path / "page.html")]) == status
    assert capsys.readouterr().out == ""
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == bm.load_result(directory).report.to_html()
