"""Many small plots with the same axes, as one SVG that needs no style sheet of a page."""

from __future__ import annotations

import dataclasses
import html
import math
from collections.abc import Callable, Sequence

from bigmodel.report.charts import ticks

_WIDTH, _COLUMNS = 1000, 5
_LEFT, _GAP, _TOP = 52, 22, 26
_PLOT_HEIGHT, _CELL_HEIGHT, _TEXT_HEIGHT = 84, 138, 12
_LONGEST_NAME = 22

# Plain colours, for viewers that know no variables of CSS.
_STYLE = (
    "<style>"
    '.facets{font:11px system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;background:#fff}'
    ".facets text{fill:#656a75}.facets .base{fill:#1b1d22}.facets .name{fill:#1b1d22;font-weight:600;font-size:12px}"
    ".facets .axis{stroke:#e4e4df}.facets .reference{stroke:#1b1d22;stroke-dasharray:4 3}"
    ".facets .line{fill:none;stroke:#2f5bd8;stroke-width:2}.facets circle{fill:#2f5bd8}"
    "@media (prefers-color-scheme:dark){.facets{background:#181b21}.facets text{fill:#9aa0ac}"
    ".facets .name,.facets .base{fill:#e7e8ec}.facets .axis{stroke:#2a2e37}.facets .reference{stroke:#e7e8ec}"
    ".facets .line{stroke:#7da2ff}.facets circle{fill:#7da2ff}}"
    "</style>"
)


@dataclasses.dataclass(frozen=True)
class Panel:
    """One small plot.

    Args:
        name: Its heading; a long one is shortened, hovering shows it whole.
        values: Its values, one for each place on the horizontal axis; one that is not finite has no mark.
    """

    name: str
    values: Sequence[float]


@dataclasses.dataclass(frozen=True)
class _Axes:
    """Where values are in a panel whose plot starts at 0, 0."""

    low: float
    high: float
    width: float

    def x(self, share: float) -> float:
        return self.width * share

    def y(self, value: float) -> float:
        return _PLOT_HEIGHT * (self.high - value) / (self.high - self.low)


def facets(
    panels: Sequence[Panel],
    shares: Sequence[float],
    reference: float,
    *,
    label: str,
    value_text: Callable[[float], str],
    share_text: Callable[[float], str],
) -> str:
    """Returns one small plot of value against share for each panel, all with the same axes.

    Args:
        panels: In the order in which they are read: line by line, five in each.
        shares: Places on the horizontal axis, in 0..1.
        reference: The value at share 0: where every line starts, and a dashed line across every panel.
        label: What is drawn, for readers who can't see it.
        value_text: Writes a value.
        share_text: Writes a share.
    """
    columns = min(_COLUMNS, max(1, len(panels)))
    width = (_WIDTH - _LEFT - _GAP * _COLUMNS) / _COLUMNS
    finite = [v for panel in panels for v in panel.values if math.isfinite(v)] + [reference]
    pad = (max(finite) - min(finite)) * 0.08 or abs(reference) * 0.01 or 1e-9
    axes = _Axes(min(finite) - pad, max(finite) + pad, width)
    drawn = []
    for place, panel in enumerate(panels):
        row, column = divmod(place, columns)
        left, top = _LEFT + column * (width + _GAP), _TOP + row * _CELL_HEIGHT
        inside = _panel(panel, shares, reference, axes, value_text, share_text, is_first=column == 0)
        drawn.append(f'<g transform="translate({left:.1f} {top})">{inside}</g>')
    size = _LEFT + columns * (width + _GAP), math.ceil(len(panels) / columns) * _CELL_HEIGHT
    return (
        f'<svg class="facets" xmlns="http://www.w3.org/2000/svg" width="{size[0]:.0f}" height="{size[1]}" '
        f'viewBox="0 0 {size[0]:.0f} {size[1]}" style="max-width:100%;height:auto" role="img" '
        f'aria-label="{html.escape(label)}">{_STYLE}{"".join(drawn)}</svg>'
    )


def _panel(
    panel: Panel,
    shares: Sequence[float],
    reference: float,
    axes: _Axes,
    value_text: Callable[[float], str],
    share_text: Callable[[float], str],
    *,
    is_first: bool,
) -> str:
    """One plot; the first of a line names the values."""
    short = panel.name if len(panel.name) <= _LONGEST_NAME else f"{panel.name[: _LONGEST_NAME - 1]}…"
    parts = [f'<text class="name" y="-8"><title>{html.escape(panel.name)}</title>{html.escape(short)}</text>']
    base = axes.y(reference)
    for tick in ticks(axes.low, axes.high, about=3):
        y = axes.y(tick)
        parts.append(f'<line class="axis" x2="{axes.width:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>')
        if is_first and abs(y - base) > _TEXT_HEIGHT:
            parts.append(f'<text x="-8" y="{y + 4:.1f}" text-anchor="end">{tick:.4g}</text>')
    if is_first:
        parts.append(f'<text class="base" x="-8" y="{base + 4:.1f}" text-anchor="end">{value_text(reference)}</text>')
    for share in _labelled(shares, axes.width):
        x = axes.x(share)
        parts.append(f'<text x="{x:.1f}" y="{_PLOT_HEIGHT + 16}" text-anchor="middle">{share_text(share)}</text>')
    parts.append(f'<line class="reference" x2="{axes.width:.1f}" y1="{base:.1f}" y2="{base:.1f}"/>')
    known = [(s, v) for s, v in zip(shares, panel.values, strict=True) if math.isfinite(v)]
    line = " ".join(f"{axes.x(s):.1f},{axes.y(v):.1f}" for s, v in [(0.0, reference), *known])
    parts.append(f'<polyline class="line" points="{line}"/>')
    for share, value in known:
        title = html.escape(f"{panel.name}, {share_text(share)}: {value_text(value)}")
        mark = f'<circle cx="{axes.x(share):.1f}" cy="{axes.y(value):.1f}" r="3.5">'
        parts.append(f"{mark}<title>{title}</title></circle>")
    return "".join(parts)


def _labelled(shares: Sequence[float], width: float) -> list[float]:
    """The shares that have room for their label, from the last one back."""
    room = 34 / width
    kept: list[float] = []
    for share in sorted(shares, reverse=True):
        if not kept or kept[-1] - share >= room:
            kept.append(share)
    return kept
