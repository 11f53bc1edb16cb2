"""python -m benchmarks.compare.tool JOB.json: lets tools write their files and runs those on the test images.

A process of its own: tfmot changes what `tf.keras` is for the whole process, and a converter that crashes takes nobody
along. What came out of each method is written beside its file at once.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.compare.methods import LEGACY, METHODS, Job

Outcome = dict[str, Any]


def main() -> None:
    order = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    if order["methods"][0].startswith(LEGACY):
        os.environ["TF_USE_LEGACY_KERAS"] = "1"
    import keras  # noqa: F401  # imports take 5 to 10 seconds, and are nobody's work
    import tensorflow  # noqa: F401

    for method in order["methods"]:
        job = Job(
            model=Path(order["model"]),
            data=Path(order["data"]),
            out=Path(order["folder"], f"{slug(method)}.tflite"),
            epochs=order["epochs"],
            seed=order["seed"],
            mct_python=order["mct_python"],
        )
        told = job.out.with_suffix(".json")
        told.with_suffix(".part").write_text(json.dumps(outcome(method, job)), encoding="utf-8")
        told.with_suffix(".part").replace(told)


def slug(method: str) -> str:
    """The method's name as a file's.

    >>> slug("bigmodel: 80 % zeros, 8 bits")
    'bigmodel-80-zeros-8-bits'
    """
    return re.sub(r"[^a-z0-9]+", "-", method.lower()).strip("-")


def outcome(method: str, job: Job) -> Outcome:
    """Seconds, accuracy and size of a tool's file, or the reason why there is none."""
    begin = time.perf_counter()
    try:
        seconds = METHODS[method](job) or time.perf_counter() - begin
        return {"seconds": round(seconds, 2), **measured(job)}
    except Exception as error:  # whatever a tool raises is what the table says about it
        return {"reason": cause(error)}


def measured(job: Job) -> Outcome:
    """Accuracy and size of a file, by running it on the test images."""
    from bigmodel.litert import LiteModel

    with np.load(job.data) as file:
        x, y = file["x_test"], file["y_test"]
    content = job.out.read_bytes()
    answers = LiteModel(job.out).predict(x)
    return {
        "accuracy": float(np.mean(np.argmax(answers, axis=-1) == y)),
        "bytes": len(content),
        "gzip": len(gzip.compress(content, 9)),
    }


def cause(error: BaseException) -> str:
    """The sentence of an error that says what went wrong.

    A converter's message is mostly about where in the graph it was, and others go on with advice.

    >>> cause(ValueError("bad shape. Try another.\\nat line 3"))
    'ValueError: bad shape'
    >>> cause(RuntimeError("<unknown>:0: error: loc(fused[x]): no kernel for 'x'\\n<unknown>:0: note: called from"))
    "RuntimeError: no kernel for 'x'"
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    errors = [line.partition("error: ")[2] for line in lines if "error: " in line and "note: " not in line]
    said = [line for line in lines if "note: " not in line]
    line = re.sub(r"^loc\(.*\): ", "", (errors or said or [""])[0])
    sentence = line.partition(". ")[0]
    return f"{type(error).__name__}: {sentence}".rstrip(":. ")


if __name__ == "__main__":
    main()
