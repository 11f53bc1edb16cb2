"""Inline SVG of the HTML rendering. Colours come from the style sheet, so that light and dark both work."""

from __future__ import annotations

import dataclasses
import html
import math
from collections.abc import Callable, Sequence

WIDTH, HEIGHT = 1000, 360
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 24, 18, 44


@dataclasses.dataclass(frozen=True)
class Point:
    """One file in the scatter.

    Args:
        name: Its name.
        x: Its size in bytes.
        y: Its metric.
        kind: "here" for the chosen one, "baseline" for the float file, else "".
        title: What hovering shows.
    """

    name: str
    x: float
    y: float
    kind: str
    title: str


def bar(share: float, *, here: bool, title: str) -> str:
    """Returns a horizontal bar that fills `share` (0..1) of its cell."""
    width = max(min(share, 1.0), 0.0) * 100
    return (
        f'<svg viewBox="0 0 100 10" preserveAspectRatio="none" role="img" aria-label="{html.escape(title)}">'
        f'<title>{html.escape(title)}</title><rect class="track" width="100" height="10" rx="1.5"/>'
        f'<rect class="fill{" here" if here else ""}" width="{max(width, 0.8):.2f}" height="10" rx="1.5"/></svg>'
    )


def strip(value: float, low: float, high: float, bound: float | None, *, here: bool, title: str) -> str:
    """Returns a dot on a line from `low` to `high` with a mark at the bound; values outside sit at the end."""

    def place(v: float) -> float:
        return 3 + 94 * min(max((v - low) / (high - low), 0.0), 1.0)

    mark = ""
    if bound is not None:
        x = f"{place(bound):.1f}%"
        mark = f'<line class="bound" x1="{x}" x2="{x}" y1="0" y2="10" style="stroke-dasharray:none"/>'
    return (
        f'<svg role="img" aria-label="{html.escape(title)}"><title>{html.escape(title)}</title>'
        f'<rect class="track" x="0" y="4" width="100%" height="2" rx="1"/>{mark}'
        f'<circle class="dot{" here" if here else ""}" cx="{place(value):.1f}%" cy="5" r="5"/></svg>'
    )


def dumbbell(before: float, after: float, low: float, high: float, *, title: str) -> str:
    """Returns a line from `before` to `after`, coloured by which way it goes."""

    def place(v: float) -> str:
        return f"{3 + 94 * (v - low) / (high - low):.1f}%"

    lost = " lost" if after < before else ""
    return (
        f'<svg role="img" aria-label="{html.escape(title)}"><title>{html.escape(title)}</title>'
        f'<rect class="track" x="0" y="4.5" width="100%" height="1"/>'
        f'<line class="link{lost}" x1="{place(before)}" x2="{place(after)}" y1="5" y2="5"/>'
        f'<circle class="start" cx="{place(before)}" cy="5" r="3.5"/>'
        f'<circle class="end{lost}" cx="{place(after)}" cy="5" r="4.5"/></svg>'
    )


def metric_range(values: Sequence[float], reference: float | None, bound: float | None) -> tuple[float, float]:
    """Returns the part of the metric's axis worth showing: around reference and bound, far outliers left out.

    The axis never reaches further on the bad side than six times the distance from the reference to the bound (or the
    spread of the middle half), so that one broken file does not press all others together.
    """
    kept = [v for v in values if math.isfinite(v)]
    anchors = [v for v in (reference, bound) if v is not None]
    everything = sorted(kept + anchors) or [0.0, 1.0]
    middle = everything[len(everything) // 2]
    scale = abs(reference - bound) if reference is not None and bound is not None else 0.0
    quarter = everything[(3 * len(everything)) // 4] - everything[len(everything) // 4]
    reach = 6 * max(scale, quarter, abs(middle) * 1e-3, 1e-9)
    center = reference if reference is not None else middle
    inside = [v for v in everything if abs(v - center) <= reach] or [center]
    low, high = min(inside), max(inside)
    pad = max((high - low) * 0.12, abs(center) * 1e-3, 1e-9)
    return low - pad, high + pad


def scatter(
    points: Sequence[Point],
    bound: float | None,
    *,
    higher_is_better: bool,
    metric: str,
    reference: float | None,
    size_text: Callable[[float], str],
    value_text: Callable[[float], str],
) -> str:
    """Returns the plot of size (logarithmic) against metric, with the bound as a line; better is up.

    Points beyond the axis sit at its edge as a triangle that points outward.
    """
    low, high = metric_range([p.y for p in points], reference, bound)
    x_of, x_ticks = _size_axis([p.x for p in points])
    span = HEIGHT - _TOP - _BOTTOM

    def y_of(value: float) -> float:
        share = min(max((value - low) / (high - low), 0.0), 1.0)
        return _TOP + span * ((1 - share) if higher_is_better else share)

    parts = []
    if bound is not None:
        y = y_of(bound)
        parts.append(
            f'<rect class="beyond" x="{_LEFT}" y="{y:.1f}" width="{WIDTH - _LEFT - _RIGHT}" '
            f'height="{HEIGHT - _BOTTOM - y:.1f}"/>'
        )
    for tick in ticks(low, high):
        y = y_of(tick)
        parts.append(f'<line class="axis" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 10}" y="{y + 4:.1f}" text-anchor="end">{value_text(tick)}</text>')
    for tick in x_ticks:
        x, base = x_of(tick), HEIGHT - _BOTTOM
        parts.append(f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{base}"/>')
        parts.append(f'<text x="{x:.1f}" y="{base + 18}" text-anchor="middle">{size_text(tick)}</text>')
    parts.append(f'<text x="{WIDTH - _RIGHT}" y="{HEIGHT - 6}" text-anchor="end">size of the file</text>')
    if bound is not None:
        y = y_of(bound)
        parts.append(f'<line class="bound" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(
            f'<text class="bound-name" x="{WIDTH - _RIGHT - 6}" y="{y + 15:.1f}" text-anchor="end">'
            f"bound {value_text(bound)}</text>"
        )
    parts += _marks(points, x_of, y_of, low, high, higher_is_better=higher_is_better)
    label = html.escape(f"{metric} against size of every file")
    return f'<svg class="plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def _marks(
    points: Sequence[Point],
    x_of: Callable[[float], float],
    y_of: Callable[[float], float],
    low: float,
    high: float,
    *,
    higher_is_better: bool,
) -> list[str]:
    order = {"": 0, "baseline": 1, "here": 2}
    drawn, boxes = [], [(x_of(p.x) - 7, y_of(p.y) - 7, x_of(p.x) + 7, y_of(p.y) + 7) for p in points]
    labels = []
    for point in sorted(points, key=lambda p: -order[p.kind]):  # the chosen one gets its label's place first
        x, y = x_of(point.x), y_of(point.y)
        place = _label_place(x, y, len(point.name) * (7.4 if point.kind == "here" else 6.6), boxes)
        if place is not None:
            left, base, box = place
            boxes.append(box)
            labels.append(
                f'<text{" class=here" if point.kind == "here" else ""} x="{left:.1f}" y="{base:.1f}">'
                f"{html.escape(point.name)}</text>"
            )
    for point in sorted(points, key=lambda p: order[p.kind]):
        x, y = x_of(point.x), y_of(point.y)
        css = f"dot {point.kind}".strip()
        title = f"<title>{html.escape(point.title)}</title>"
        if low <= point.y <= high:
            drawn.append(f'<circle class="{css}" cx="{x:.1f}" cy="{y:.1f}" r="7">{title}</circle>')
        else:
            down = 1 if (point.y < low) == higher_is_better else -1
            drawn.append(f'<path class="{css}" d="M{x - 8:.1f} {y - 6 * down:.1f}h16l-8 {13 * down}z">{title}</path>')
    return drawn + labels


def _label_place(
    x: float, y: float, width: float, boxes: Sequence[tuple[float, float, float, float]]
) -> tuple[float, float, tuple[float, float, float, float]] | None:
    """Returns where a label fits without covering another mark: right, left, above or below its point."""
    sides = [(x + 12, y + 4), (x - 12 - width, y + 4)]
    sides += [(x - width / 2, y + dy) for dy in (-13, 22)]
    sides += [(x + 12, y + dy) for dy in (-9, 17)] + [(x - 12 - width, y + dy) for dy in (-9, 17)]
    for left, base in sides:
        box = (left, base - 11, left + width, base + 4)
        inside = left >= _LEFT and box[2] <= WIDTH - 4 and box[1] >= 2 and box[3] <= HEIGHT - _BOTTOM + 2
        if inside and not any(box[0] < b[2] and b[0] < box[2] and box[1] < b[3] and b[1] < box[3] for b in boxes):
            return left, base, box
    return None


def _size_axis(sizes: Sequence[float]) -> tuple[Callable[[float], float], list[float]]:
    low, high = math.log10(min(sizes)), math.log10(max(sizes))
    pad = max((high - low) * 0.09, 0.05)
    low, high = low - pad, high + pad

    def x_of(size: float) -> float:
        return _LEFT + (WIDTH - _LEFT - _RIGHT) * (math.log10(size) - low) / (high - low)

    steps = (1, 2, 5) if high - low < 2.5 else (1,)
    decades = range(math.floor(low), math.ceil(high) + 1)
    return x_of, [s * 10.0**d for d in decades for s in steps if low <= math.log10(s * 10.0**d) <= high]


def ticks(low: float, high: float, *, about: int = 5) -> list[float]:
    """Returns about so many round numbers between two.

    >>> ticks(0.0, 1.1)
    [0.0, 0.5, 1.0]
    """
    raw = (high - low) / about
    magnitude = 10.0 ** math.floor(math.log10(raw))
    step = next(s * magnitude for s in (1, 2, 5, 10) if s * magnitude >= raw)
    first = math.ceil(low / step)
    return [i * step for i in range(first, math.floor(high / step) + 1)]
