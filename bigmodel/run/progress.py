"""What a person sees while a run goes on: a line per stage, a bar with a time estimate while one trains."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from typing import Any

import keras
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


@contextlib.contextmanager
def without_tracing_warnings() -> Iterator[None]:
    """Silences TensorFlow's warning that functions are traced anew: a run measures many models, each of them once."""
    logger = logging.getLogger("tensorflow")

    def is_other(record: logging.LogRecord) -> bool:
        return "tf.function retracing" not in record.getMessage()

    logger.addFilter(is_other)
    try:
        yield
    finally:
        logger.removeFilter(is_other)


class Stages:
    """Shows the stages of a run.

    Args:
        verbose: 0 shows nothing.
        console: Where to; `None`: the terminal.
    """

    def __init__(self, verbose: int, console: Console | None = None) -> None:
        self.console = console or Console(quiet=not verbose, highlight=False)

    @contextlib.contextmanager
    def stage(self, title: str, *, epochs: int = 0) -> Iterator[Stage]:
        """Shows a stage while it lasts, and a line that says what came of it and how long it took.

        Args:
            title: What is done.
            epochs: Most epochs it trains; 0: it does not train.
        """
        started = time.perf_counter()
        columns: list[ProgressColumn] = [SpinnerColumn(), TextColumn("{task.description}")]
        if epochs:
            columns += [BarColumn(bar_width=24), TextColumn("{task.fields[note]}")]
            columns += [TimeRemainingColumn(), TextColumn("left")]
        else:
            columns.append(TimeElapsedColumn())
        hidden = not self.console.is_terminal
        with Progress(*columns, console=self.console, transient=True, disable=hidden) as bar:
            stage = Stage(bar, title, epochs)
            yield stage
        seconds = time.perf_counter() - started
        self.console.print(f"  {title:<36} {seconds:>6.1f} s  {stage.outcome}", markup=False, soft_wrap=True)

    def say(self, text: str) -> None:
        """Shows a line."""
        self.console.print(text, markup=False)


class Stage:
    """A stage that is going on; `outcome` is set by whoever does its work."""

    def __init__(self, bar: Progress, title: str, epochs: int) -> None:
        self.outcome = ""
        self._bar = bar
        self._epochs = epochs
        self._task = bar.add_task(title, total=epochs or None, note="")

    @property
    def callbacks(self) -> list[keras.callbacks.Callback]:
        """A Keras callback that moves the bar, in a list."""
        return [_MovesBar(self._bar, self._task, self._epochs)] if self._epochs else []


class _MovesBar(keras.callbacks.Callback):
    """Moves a bar by the epochs that are done, the part of the present one included."""

    def __init__(self, bar: Progress, task: Any, epochs: int) -> None:
        super().__init__()
        self._bar, self._task, self._epochs = bar, task, epochs
        self._epoch, self._shown = 0, 0.0

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._epoch = epoch
        self._bar.update(self._task, completed=epoch, note=f"epoch {epoch + 1}/{self._epochs}")

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        steps = self.params.get("steps")
        now = time.perf_counter()
        # A few times a second is all that an eye can follow.
        if steps and now - self._shown > 0.2:
            self._shown = now
            self._bar.update(self._task, completed=self._epoch + (batch + 1) / steps)
