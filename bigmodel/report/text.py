"""The record as text for a terminal: plain characters, any width, colour only where it is shown."""

from __future__ import annotations

import io
import shutil
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from bigmodel.report.figures import (
    class_changes,
    count_text,
    drop_of,
    drop_text,
    duration_text,
    headline,
    in_microseconds,
    interval_text,
    latency_text,
    metric_text,
    missed,
    number,
    ratio_text,
    share_text,
    size_text,
    trial_note,
)

if TYPE_CHECKING:
    from bigmodel.report.record import Record

NARROW = 88
"""Below this many characters the reasons stand below the table of candidates."""


def terminal_width() -> int:
    """Returns the terminal's width within 40..120; 100 where there is none."""
    return min(max(shutil.get_terminal_size((100, 24)).columns, 40), 120)


def render(record: Record, *, width: int = 100, color: bool = False) -> str:
    """Returns the record as text.

    Args:
        record: The record.
        width: Characters of a line.
        color: Whether to write ANSI colours.

    Returns:
        Lines without trailing space, ASCII but for what the record itself holds.
    """
    console = Console(
        file=io.StringIO(),
        width=width,
        color_system="standard" if color else None,
        force_terminal=color,
        legacy_windows=False,
    )
    console.print(renderable(record, width=width))
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines()).strip("\n")


def renderable(record: Record, *, width: int | None = None) -> RenderableType:
    """Returns what rich prints."""
    width = terminal_width() if width is None else width
    parts: list[RenderableType] = [_verdict(record), *_section("", _comparison(record))]
    if record.candidates:
        parts += _section(f"Files made ({len(record.candidates)})", _candidates(record, narrow=width < NARROW))
    if record.steps:
        parts += _section("Steps", _steps(record))
    if record.trials:
        parts += _section(f"Search ({len(record.trials)} trials)", _trials(record))
    losers = [row for row in class_changes(record) if row[2] < row[1]][:5]
    if losers:
        parts += _section("Classes that lost most", _classes(record, losers))
    if record.skipped:
        parts += _section("Skipped", _bullets([_skipped_line(entry) for entry in record.skipped]))
    if record.notes:
        parts += _section("Notes", _bullets([str(note) for note in record.notes]))
    parts.append(Text(_footer(record), style="dim"))
    return Group(*parts)


def _verdict(record: Record) -> RenderableType:
    word, style = ("Target met", "bold green") if record.target_met else ("Target missed", "bold red")
    lines = [Text.assemble((f"{word}: ", style), (headline(record), "bold"))]
    lines += [Text(f"  {phrase}", style="red") for phrase in missed(record)]
    return Group(*lines)


def _section(title: str, body: RenderableType) -> list[RenderableType]:
    head = [Text(title, style="bold")] if title else []
    return [Text(""), *head, Padding(body, (0, 0, 0, 2))]


def _table(*columns: tuple[str, str]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for name, justify in columns:
        right = justify == "right"
        table.add_column(name, justify="right" if right else "left", no_wrap=right, overflow="fold")
    return table


def _comparison(record: Record) -> RenderableType:
    before, after, micro = record.baseline, record.final, in_microseconds(record)
    table = _table(("", "left"), ("float", "right"), ("final", "right"), ("", "left"))
    drop = drop_of(record, number(before, "metric"), number(after, "metric"))
    interval = interval_text(record)
    change = drop_text(record, drop)
    if interval is not None:
        change += f" (95 %: {interval[0]} to {interval[1]})"
    table.add_row(record.metric, metric_text(number(before, "metric")), metric_text(number(after, "metric")), change)
    rows: list[tuple[str, str, Any, tuple[str, str]]] = [
        ("size", "size_bytes", size_text, ("smaller", "larger")),
        ("size, gzip", "gzip_bytes", size_text, ("smaller", "larger")),
        ("latency", "latency_ms", lambda v: latency_text(v, micro=micro), ("faster", "slower")),
        ("memory (arena)", "arena_bytes", size_text, ("smaller", "larger")),
        ("parameters", "parameters", count_text, ("fewer", "more")),
        ("MACs", "macs", count_text, ("fewer", "more")),
    ]
    for label, key, text, words in rows:
        a, b = number(before, key), number(after, key)
        if a is not None or b is not None:
            ratio = ratio_text(a, b, *words)
            table.add_row(label, text(a), text(b), ratio if ratio != "-" else "")
    for label, key in (("zeros in weights", "sparsity"), ("agreement", "agreement")):
        if number(after, key) is not None:
            table.add_row(label, share_text(number(before, key)), share_text(number(after, key)), "")
    table.add_row("format", str(before.get("format", "-")), str(after.get("format", "-")), "")
    return table


def _candidates(record: Record, *, narrow: bool) -> RenderableType:
    micro = in_microseconds(record)
    columns = [("", "left"), ("name", "left"), (record.metric, "right"), ("change", "right"), ("size", "right")]
    columns += [("latency", "right")] if narrow else [("gzip", "right"), ("latency", "right"), ("why", "left")]
    table = _table(*columns)
    if narrow:
        table.columns[2].header = "metric"
    reasons: list[str] = []
    for entry in record.candidates:
        chosen = entry.get("status") == "chosen"
        reason = str(entry.get("reason") or ("chosen" if chosen else ""))
        cells = [
            {"chosen": "*", "failed": "!"}.get(str(entry.get("status")), ""),
            str(entry.get("name", "")),
            metric_text(number(entry, "metric")),
            drop_text(record, number(entry, "metric_drop")),
            size_text(number(entry, "size_bytes")),
        ]
        latency = latency_text(number(entry, "latency_ms"), micro=micro)
        cells += [latency] if narrow else [size_text(number(entry, "gzip_bytes")), latency, reason]
        style = "bold green" if chosen else "red" if entry.get("status") == "failed" else ""
        table.add_row(*(Text(cell) for cell in cells), style=style)
        if reason:
            reasons.append(f"{entry.get('name', '')}: {reason}")
    return Group(table, Text(""), _bullets(reasons)) if narrow and reasons else table


def _steps(record: Record) -> RenderableType:
    table = _table(("step", "left"), ("time", "right"), (f"{record.metric} before", "right"), ("after", "right"))
    for step in record.steps:
        table.add_row(
            Text(str(step.get("name", ""))),
            duration_text(number(step, "seconds")),
            metric_text(number(step, "metric_before")),
            metric_text(number(step, "metric_after")),
        )
    return table


def _trials(record: Record) -> RenderableType:
    columns = [("trial", "left"), (record.metric, "right"), ("size", "right"), ("score", "right"), ("time", "right")]
    table = _table(*columns, ("", "left"))
    for trial in record.trials:
        won = trial.get("verified") is True
        table.add_row(
            Text(str(trial.get("trial", ""))),
            metric_text(number(trial, "metric")),
            size_text(number(trial, "size_bytes")),
            metric_text(number(trial, "score")),
            duration_text(number(trial, "seconds")),
            Text(trial_note(trial)),
            style="bold green" if won else "",
        )
    return table


def _classes(record: Record, rows: list[tuple[str, float, float]]) -> RenderableType:
    table = _table(("class", "left"), ("float", "right"), ("final", "right"), ("change", "right"))
    for name, before, after in rows:
        table.add_row(Text(name), metric_text(before), metric_text(after), f"{after - before:+.4f}")
    return table


def _bullets(lines: list[str]) -> RenderableType:
    table = Table.grid(padding=(0, 1, 0, 0))
    for line in lines:
        table.add_row("-", Text(line, overflow="fold"))
    return table


def _skipped_line(entry: Any) -> str:
    place = " / ".join(str(entry[key]) for key in ("layer", "step") if entry.get(key))
    return f"{place}: {entry.get('reason', '')}" if place else str(entry.get("reason", ""))


def _footer(record: Record) -> str:
    samples = number(record.final, "samples")
    measured = f"Measured on the file, {record.split} split" + (f" ({samples:.0f} samples)" if samples else "")
    return f"\n{measured}. Seed {record.seed}, {duration_text(record.seconds)}."
