"""The results as Markdown and as plots: medians over the seeds, and who is on the Pareto front."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

Row = dict[str, Any]
_FIGURES = ("accuracy", "bytes", "gzip", "latency_ms", "seconds")


def write(runs: Sequence[Mapping[str, Any]], environment: Mapping[str, str], folder: Path) -> None:
    """Writes compare.md and a plot for each network."""
    parts = []
    for network in dict.fromkeys(run["network"] for run in runs):
        rows = summary([run for run in runs if run["network"] == network])
        (folder / f"compare-{network}.svg").write_text(plot(network, rows), encoding="utf-8")
        parts += [f"### {network}", "", markdown(rows), "", f"![accuracy against size](compare-{network}.svg)", ""]
    told = ", ".join(f"{name} {value}" for name, value in environment.items())
    seeds = len({run["seed"] for run in runs})
    head = f"Medians over {seeds} seed{'s' if seeds > 1 else ''}, with the spread of the accuracy. {told}."
    (folder / "compare.md").write_text("\n".join([head, "", *parts]), encoding="utf-8")


def summary(runs: Sequence[Mapping[str, Any]]) -> list[Row]:
    """One row for each method: medians, the spread of the accuracy, and whether the Pareto front has it.

    >>> base = {"network": "n", "seconds": 1.0, "gzip": 1, "latency_ms": 1.0, "seed": 0}
    >>> rows = summary([{**base, "method": "a", "accuracy": 0.9, "bytes": 10},
    ...                 {**base, "method": "b", "accuracy": 0.8, "bytes": 20}])
    >>> [(row["method"], row["front_bytes"]) for row in rows]
    [('a', True), ('b', False)]
    """
    rows: list[Row] = []
    for method in dict.fromkeys(run["method"] for run in runs):
        own = [run for run in runs if run["method"] == method]
        good = [run for run in own if "accuracy" in run]
        if not good:
            rows.append({"method": method, "reason": own[0]["reason"]})
            continue
        row: Row = {key: statistics.median(run[key] for run in good) for key in _FIGURES}
        accuracies = [run["accuracy"] for run in good]
        rows.append({"method": method, **row, "spread": max(accuracies) - min(accuracies), "runs": len(good)})
    measured = [row for row in rows if "accuracy" in row]
    for row in measured:
        for cost in ("bytes", "latency_ms"):
            row[f"front_{cost}"] = not any(_dominates(other, row, cost) for other in measured)
    return rows


def _dominates(one: Row, other: Row, cost: str) -> bool:
    no_worse = one["accuracy"] >= other["accuracy"] and one[cost] <= other[cost]
    return no_worse and (one["accuracy"] > other["accuracy"] or one[cost] < other[cost])


def markdown(rows: Sequence[Row]) -> str:
    """The rows as a table; what is on the front of accuracy and a cost has that cost in bold."""
    lines = ["| tool | accuracy | bytes | gzip | latency, ms | seconds |", "|---|---|---|---|---|---|"]
    for row in rows:
        if "accuracy" not in row:
            lines.append(f"| {row['method']} | no file: {row['reason'].replace('|', '/')} | | | | |")
            continue
        size, latency = f"{row['bytes']:,.0f}", f"{row['latency_ms']:.4f}"
        lines.append(
            f"| {row['method']} | {row['accuracy']:.4f} ± {row['spread'] / 2:.4f} "
            f"| {f'**{size}**' if row['front_bytes'] else size} | {row['gzip']:,.0f} "
            f"| {f'**{latency}**' if row['front_latency_ms'] else latency} | {row['seconds']:.0f} |"
        )
    return "\n".join(lines)


def plot(title: str, rows: Sequence[Row], width: int = 720, height: int = 420) -> str:
    """Accuracy against kilobytes as an SVG; bigmodel's files are filled."""
    measured = [row for row in rows if "accuracy" in row]
    sizes, marks = [row["bytes"] / 1000 for row in measured], [row["accuracy"] for row in measured]
    left, right, top, bottom = 60, width - 20, 40, height - 40
    low, high = min(marks), max(max(marks), min(marks) + 1e-3)

    def x(size: float) -> float:
        return left + (right - left) * size / (1.05 * max(sizes))

    def y(mark: float) -> float:
        return bottom - (bottom - top) * (mark - low + 0.05 * (high - low)) / (1.1 * (high - low))

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif"',
        ' font-size="11">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="{left}" y="20" font-size="14">{escape(title)}: accuracy of the file against its kilobytes</text>',
        f'<path d="M{left} {top} V{bottom} H{right}" fill="none" stroke="#888"/>',
    ]
    for share in (0, 0.25, 0.5, 0.75, 1):
        mark, size = low + share * (high - low), share * max(sizes)
        parts.append(f'<text x="{left - 6}" y="{y(mark) + 4:.1f}" text-anchor="end" fill="#555">{mark:.3f}</text>')
        parts.append(f'<text x="{x(size):.1f}" y="{bottom + 16}" text-anchor="middle" fill="#555">{size:.0f}</text>')
    for row, size, mark in zip(measured, sizes, marks, strict=True):
        ours = row["method"].startswith("bigmodel")
        fill, line = ("#0b6", "#084") if ours else ("white", "#555")
        told = escape(f"{row['method']}: {mark:.4f}, {size:.1f} kB")
        place = f'cx="{x(size):.1f}" cy="{y(mark):.1f}"'
        parts += [
            f'<circle {place} r="5" fill="{fill}" stroke="{line}"><title>{told}</title></circle>',
            f'<text x="{x(size) + 8:.1f}" y="{y(mark) + 4:.1f}" fill="{line}">{escape(row["method"])}</text>',
        ]
    return "\n".join([*parts, "</svg>"])
