"""The time that a search may take, kept across interruptions."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any


class Clock:
    """Says when a trial may start and when its training has to end.

    What a trial takes besides training (conversion, measuring) can't be cut short; the longest that was seen is kept
    free at the end.

    Args:
        seconds: The limit; `None`: there is none.
        rows: Trials that are done already: their time counts.
    """

    def __init__(self, seconds: float | None, rows: Sequence[Mapping[str, Any]] = ()) -> None:
        self.seconds = seconds
        self._done = {row.get("trial") for row in rows}
        self._started = time.monotonic() - sum(row.get("seconds", 0.0) for row in rows)
        self._outside = max((row.get("seconds_outside", 0.0) for row in rows), default=0.0)

    @property
    def is_over(self) -> bool:
        """Whether no trial can start any more."""
        return self.deadline is not None and time.monotonic() >= self.deadline

    def may_start(self, trial: str) -> bool:
        """Whether there is time for a trial; one that is done already takes none."""
        return trial in self._done or not self.is_over

    @property
    def deadline(self) -> float | None:
        """When training has to end, on the clock of `time.monotonic`; `None`: never."""
        return None if self.seconds is None else self._started + self.seconds - self._outside

    def saw(self, row: Mapping[str, Any]) -> None:
        """Learns from a finished trial."""
        self._outside = max(self._outside, row.get("seconds_outside", 0.0))
