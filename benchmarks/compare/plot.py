"""Accuracy against size and against latency, side by side, as an SVG: numbers are those of the table."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

from bigmodel.report.charts import ticks

Row = dict[str, Any]
Box = tuple[float, float, float, float]

WIDTH, HEIGHT, TOP, BOTTOM = 960, 400, 64, 352
PANELS = {"bytes": (64, 490, "kilobytes", 1e-3), "latency_ms": (524, 950, "milliseconds", 1.0)}
COLOURS = {
    "float32": "#222222",
    "bigmodel": "#0a8f5b",
    "tfmot": "#d9822b",
    "model-compression-toolkit": "#c2185b",
    "converter": "#2e6fb7",
    "ai-edge-quantizer": "#8a6d3b",
    "Keras": "#7d4fb3",
}


def plot(title: str, rows: Sequence[Row]) -> str:
    """Returns the SVG; files on the front are filled, a file outside the axis lies at its edge as a triangle."""
    measured = [row for row in rows if "accuracy" in row]
    low, high = accuracy_range([row["accuracy"] for row in measured])

    def y_of(accuracy: float) -> float:
        return BOTTOM - (BOTTOM - TOP) * min(max((accuracy - low) / (high - low), 0.0), 1.0)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        'font-size="12" fill="#444">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="64" y="22" font-size="15" fill="#222">{escape(title)}: accuracy of the files</text>',
        *_legend(measured),
    ]
    for tick in ticks(low, high):
        y = y_of(tick)
        parts.append(f'<text x="56" y="{y + 4:.1f}" text-anchor="end">{tick:.3f}</text>')
        for left, right, _, _ in PANELS.values():
            parts.append(f'<path d="M{left} {y:.1f}H{right}" stroke="#e4e4e4"/>')
    for cost in PANELS:
        parts += _panel(cost, measured, y_of, (low, high))
    return "\n".join([*parts, "</svg>", ""])


def accuracy_range(values: Sequence[float], depth: float = 0.04) -> tuple[float, float]:
    """Returns the part of the axis that is shown: the best `depth`, however bad the worst file is.

    >>> [round(end, 3) for end in accuracy_range([0.1, 0.88, 0.9])]
    [0.858, 0.902]
    """
    best = max(values)
    pad = 0.06 * depth
    return max(min(values), best - depth) - pad, best + pad


def _legend(rows: Sequence[Row]) -> list[str]:
    parts, x = [], 70.0
    for tool in dict.fromkeys(_tool(row) for row in rows):
        parts.append(f'<circle cx="{x:.0f}" cy="42" r="5" fill="{COLOURS[tool]}"/>')
        parts.append(f'<text x="{x + 9:.0f}" y="46">{tool}</text>')
        x += 32 + 7 * len(tool)
    return parts


def _tool(row: Row) -> str:
    return row["method"].partition(":")[0]


def _panel(cost: str, rows: Sequence[Row], y_of: Callable[[float], float], limits: tuple[float, float]) -> list[str]:
    left, right, unit, factor = PANELS[cost]
    values = [row[cost] * factor for row in rows]
    first, last = math.log10(min(values)), math.log10(max(values))
    pad = max(0.08 * (last - first), 0.05)

    def x_of(value: float) -> float:
        return left + (right - left) * (math.log10(value) - first + pad) / (last - first + 2 * pad)

    parts = [f'<path d="M{left} {TOP}V{BOTTOM}H{right}" fill="none" stroke="#999"/>']
    parts.append(f'<text x="{right}" y="{HEIGHT - 8}" text-anchor="end">{unit}</text>')
    for decade in range(math.floor(first - pad), math.ceil(last + pad) + 1):
        for tick in (step * 10.0**decade for step in (1, 2, 5)):
            if left <= x_of(tick) <= right:
                parts.append(f'<path d="M{x_of(tick):.1f} {TOP}V{BOTTOM + 4}" stroke="#e4e4e4"/>')
                parts.append(f'<text x="{x_of(tick):.1f}" y="{BOTTOM + 18}" text-anchor="middle">{tick:g}</text>')
    points = [(x_of(value), y_of(row["accuracy"])) for row, value in zip(rows, values, strict=True)]
    boxes: list[Box] = [(x - 6, y - 6, x + 6, y + 6) for x, y in points]
    for row, (x, y) in zip(rows, points, strict=True):
        parts += [_mark(row, cost, x, y, limits), _number(row, x, y, boxes)]
    return parts


def _mark(row: Row, cost: str, x: float, y: float, limits: tuple[float, float]) -> str:
    colour = COLOURS[_tool(row)]
    style = f'fill="{colour if row[f"front_{cost}"] else "white"}" stroke="{colour}" stroke-width="1.6"'
    title = f"<title>{escape(row['method'])}: {row['accuracy']:.4f}</title>"
    if limits[0] <= row["accuracy"] <= limits[1]:
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" {style}>{title}</circle>'
    return f'<path d="M{x - 5:.1f} {y - 8:.1f}h10l-5 9z" {style}>{title}</path>'


def _number(row: Row, x: float, y: float, boxes: list[Box]) -> str:
    """The row's number beside its point, where it covers nothing yet; else to the right."""
    text = str(row["number"])
    width = 7.0 * len(text)
    places = [(x + 7, y + 4), (x - 7 - width, y + 4), (x - width / 2, y - 8), (x - width / 2, y + 17)]
    places += [(x + 6, y - 6), (x + 6, y + 15), (x - 6 - width, y - 6), (x - 6 - width, y + 15)]
    places += [(x - width / 2, y - 20), (x - width / 2, y + 29), (x + 20, y + 4), (x - 20 - width, y + 4)]
    boxed = [((left, base), (left, base - 9, left + width, base)) for left, base in places]
    free = (place for place in boxed if not any(_overlap(place[1], box) for box in boxes))
    (left, base), box = next(free, boxed[0])
    boxes.append(box)
    return f'<text x="{left:.1f}" y="{base:.1f}" font-size="11" fill="{COLOURS[_tool(row)]}">{text}</text>'


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
