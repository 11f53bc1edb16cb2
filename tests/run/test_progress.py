"""What a person sees of a run, on a terminal and off it."""

from __future__ import annotations

import io
import logging
import re

import keras
import numpy as np
from rich.console import Console

from bigmodel.run.progress import Stages, without_tracing_warnings


def console(*, terminal: bool) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=100, color_system=None, highlight=False)


def fit(callbacks: list[keras.callbacks.Callback], epochs: int) -> None:
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    model.fit(np.zeros((8, 2)), np.zeros((8, 1)), batch_size=2, epochs=epochs, verbose=0, callbacks=callbacks)


def test_off_a_terminal_a_stage_is_one_line_without_control_characters():
    screen = console(terminal=False)
    stages = Stages(1, screen)
    with stages.stage("prune, 80% zeros", epochs=2) as stage:
        fit(stage.callbacks, 2)
        stage.outcome = "accuracy 0.9 -> 0.8 [sic]"
    text = screen.file.getvalue()
    assert re.fullmatch(r"  prune, 80% zeros +\d+\.\d s  accuracy 0\.9 -> 0\.8 \[sic\]\n", text)


def test_on_a_terminal_a_bar_moves_with_the_epochs_and_goes_away():
    screen = console(terminal=True)
    stages = Stages(1, screen)
    with stages.stage("train", epochs=3) as stage:
        fit(stage.callbacks, 3)
    text = screen.file.getvalue()
    assert "epoch 3/3" in text and re.search(r"-?\d?:-?\d\d?:-?\d\d? left|-:--:-- left", text)
    assert text.endswith("s  \n") and text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1  # the cursor is back
    assert "\x1b[2K" in text  # the bar's line was erased before the last one was written


def test_a_stage_that_does_not_train_has_no_callback():
    with Stages(1, console(terminal=True)).stage("latency") as stage:
        assert stage.callbacks == []


def test_verbose_0_shows_nothing(capfd):
    stages = Stages(0)
    stages.say("hello")
    with stages.stage("train", epochs=1) as stage:
        fit(stage.callbacks, 1)
        stage.outcome = "done"
    assert capfd.readouterr() == ("", "")


def test_only_the_warning_about_tracing_is_kept_away(caplog):
    logger = logging.getLogger("tensorflow")
    filters = list(logger.filters)
    with caplog.at_level("WARNING", "tensorflow"), without_tracing_warnings():
        logger.addHandler(caplog.handler)
        logger.warning("5 out of %d calls triggered tf.function retracing.", 9)
        logger.warning("something else")
        logger.removeHandler(caplog.handler)
    assert {record.getMessage() for record in caplog.records} == {"something else"}
    assert logger.filters == filters
