"""The record as HTML: one page that loads nothing from elsewhere, or a fragment for a notebook."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bigmodel.report.charts import Point, bar, dumbbell, metric_range, scatter, strip
from bigmodel.report.figures import (
    MISSING,
    class_changes,
    count_text,
    drop_of,
    drop_text,
    duration_text,
    headline,
    in_microseconds,
    interval_text,
    latency_text,
    metric_bound,
    metric_text,
    missed,
    number,
    ratio_text,
    reference_metric,
    share_text,
    size_text,
    trial_note,
)
from bigmodel.report.style import STYLE

if TYPE_CHECKING:
    from bigmodel.report.record import Record

_CLASSES_SHOWN = 12


def page(record: Record) -> str:
    """Returns the whole report as a self-contained page."""
    sections = [
        _comparison(record),
        _candidates(record),
        _scatter(record),
        _search(record),
        _pair(_steps(record) + _skipped(record) + _notes(record), _classes(record)),
        _operations(record),
        _environment(record),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(_title(record))}</title><style>body{{margin:0}}{STYLE}</style></head>"
        f'<body class="bm"><main>{_head(record)}{"".join(sections)}{_footer(record)}</main></body></html>\n'
    )


def fragment(record: Record) -> str:
    """Returns headline, cards and the table of files, for a notebook's cell."""
    body = f"{_head(record)}{_candidates(record)}{_skipped(record)}{_footer(record)}"
    return f'<style>{STYLE}</style><div class="bm bm-notebook"><main>{body}</main></div>'


def _title(record: Record) -> str:
    return f"{'Target met' if record.target_met else 'Target missed'}: {_fine(headline(record))}"


def _head(record: Record) -> str:
    good = "good" if record.target_met else "bad"
    word = "Target met" if record.target_met else "Target missed"
    reasons = "".join(f"<li>{_text(_fine(reason))}</li>" for reason in missed(record))
    name = record.final.get("name") or record.final.get("format") or "the final file"
    made = len(record.candidates)
    lead = f"<b>{_text(name)}</b>" + (f", chosen among {made} files." if made > 1 else ".")
    return (
        f'<span class="pill {good}">{word}</span><h1>{_text(_fine(headline(record)))}</h1>'
        f'<p class="lead">{lead} All figures were measured on the file, on the {_text(record.split)} split'
        f"{_samples(record.final)}.</p>"
        + (f'<ul class="missed">{reasons}</ul>' if reasons else "")
        + f'<div class="cards">{"".join(_cards(record))}</div>'
    )


def _cards(record: Record) -> list[str]:
    before, after, micro = record.baseline, record.final, in_microseconds(record)
    cards = []
    for label, key, text, words in (
        ("Size", "size_bytes", size_text, ("smaller", "larger")),
        ("Size, gzip", "gzip_bytes", size_text, ("smaller", "larger")),
        ("Latency, one call", "latency_ms", lambda v: latency_text(v, micro=micro), ("faster", "slower")),
    ):
        a, b = number(before, key), number(after, key)
        if a is None or b is None:
            continue
        ratio = ratio_text(a, b, *words)
        top = max(a, b)
        cards.append(
            _card(
                label,
                text(b),
                bar(b / top, here=True, title=f"{text(b)} of {text(a)}"),
                f"{text(a)} before",
                ratio,
                b > a,
            )
        )
    a, b = number(before, "metric"), number(after, "metric")
    if b is not None:
        drop, bound = drop_of(record, a, b), metric_bound(record, a)
        low, high = metric_range([b], a, bound)
        picture = strip(b, low, high, bound, here=True, title=f"{metric_text(b)}, bound {metric_text(bound)}")
        note = f"{metric_text(a)} before"
        cards.append(
            _card(
                record.metric,
                metric_text(b),
                picture,
                note,
                drop_text(record, drop),
                drop is not None and drop > record.max_drop,
            )
        )
    return cards


def _card(label: str, value: str, picture: str, note: str, change: str, worse: bool) -> str:
    change = "" if change == MISSING else f" &middot; <b{' class=worse' if worse else ''}>{_text(_fine(change))}</b>"
    return (
        f'<div class="card"><div class="label">{_text(label)}</div><div class="value">{_text(_fine(value))}</div>'
        f'{picture}<div class="note">{_text(_fine(note))}{change}</div></div>'
    )


def _comparison(record: Record) -> str:
    before, after, micro = record.baseline, record.final, in_microseconds(record)
    latency = lambda v: latency_text(v, micro=micro)  # noqa: E731
    drop = drop_of(record, number(before, "metric"), number(after, "metric"))
    rows = [[record.metric, *(metric_text(number(f, "metric")) for f in (before, after)), _change(record, drop)]]
    for label, key, text, words in (
        ("size", "size_bytes", size_text, ("smaller", "larger")),
        ("size, gzip", "gzip_bytes", size_text, ("smaller", "larger")),
        ("latency, median", "latency_ms", latency, ("faster", "slower")),
        ("latency, 95 % of calls", "latency_p95_ms", latency, ("faster", "slower")),
        ("memory between operations", "arena_bytes", size_text, ("smaller", "larger")),
        ("parameters", "parameters", count_text, ("fewer", "more")),
        ("multiply-accumulates", "macs", count_text, ("fewer", "more")),
        ("zeros in weights", "sparsity", share_text, None),
        ("agreement with the simulation", "agreement", share_text, None),
    ):
        a, b = number(before, key), number(after, key)
        if b is not None or (a is not None and words is not None):
            ratio = ratio_text(a, b, *words) if words is not None else MISSING
            rows.append([label, text(a), text(b), "" if ratio == MISSING else ratio])
    rows.append(["format", str(before.get("format", MISSING)), str(after.get("format", MISSING)), ""])
    table = _table([("", ""), ("float", "num"), ("final", "num"), ("", "")], rows)
    return _section("Before and after", table, "the float file of the model against the file to ship")


def _change(record: Record, drop: float | None) -> str:
    interval = interval_text(record)
    text = drop_text(record, drop)
    if interval is not None:
        text += f", 95 % interval {interval[0]} to {interval[1]}"
    return "" if text == MISSING else text


def _candidates(record: Record) -> str:
    if not record.candidates:
        return ""
    reference = reference_metric(record)
    bound = metric_bound(record, reference)
    metrics = [v for v in (number(c, "metric") for c in record.candidates) if v is not None]
    low, high = metric_range(metrics, reference, bound)
    largest = max([number(c, "size_bytes") or 0 for c in record.candidates], default=0) or 1
    slowest = max([number(c, "latency_ms") or 0 for c in record.candidates], default=0) or 1
    rows = [_candidate(record, c, (low, high, bound), largest, slowest) for c in record.candidates]
    heads = ("file", "size", "latency", record.metric, "why")
    head = "".join(f"<th>{_text(h)}</th>" for h in heads)
    body = f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody>"
    table = f'<div class="scroll"><table class="made">{body}</table></div>'
    counts = [count for c in record.candidates if (count := number(c, "samples")) is not None]
    samples = f"compared on {max(counts):,.0f} samples; " if counts else ""
    return _section("Files made", table, f"{samples}the line on the {record.metric} axis is what max_drop allows")


def _candidate(
    record: Record, entry: Mapping[str, Any], axis: tuple[float, float, float | None], largest: float, slowest: float
) -> str:
    micro, here = in_microseconds(record), entry.get("status") == "chosen"
    low, high, bound = axis
    size, latency, metric = (number(entry, key) for key in ("size_bytes", "latency_ms", "metric"))
    gzip_size, p95 = number(entry, "gzip_bytes"), number(entry, "latency_p95_ms")
    cells = []
    for label, value, text, top, title in (
        ("size", size, size_text(size), largest, f"gzip {size_text(gzip_size)}"),
        (
            "latency",
            latency,
            latency_text(latency, micro=micro),
            slowest,
            f"95 % below {latency_text(p95, micro=micro)}",
        ),
    ):
        picture = "" if value is None else bar(value / top, here=here, title=_fine(f"{text}, {title}"))
        cells.append(f'<td class="bar" data-label="{label}">{_text(_fine(text))}{picture}</td>')
    picture, change = "", ""
    if metric is not None:
        drop = number(entry, "metric_drop")
        shown = drop_text(record, drop)
        css = "bad-text" if drop is not None and drop > record.max_drop + 1e-9 else "muted"
        change = "" if shown == MISSING else f' <span class="{css}">{_text(_fine(shown))}</span>'
        agreement = number(entry, "agreement")
        title = f"{metric_text(metric)}" + ("" if agreement is None else f", agreement {share_text(agreement)}")
        picture = strip(metric, low, high, bound, here=here, title=title)
    cells.append(f'<td class="bar" data-label="{_text(record.metric)}">{metric_text(metric)}{change}{picture}</td>')
    tag = ' <span class="tag">chosen</span>' if here else ""
    status = _text(entry.get("status", ""))
    return (
        f'<tr class="{status}"><td class="name">{_breakable(entry.get("name", ""))}{tag}</td>{"".join(cells)}'
        f'<td class="why">{_text(_fine(str(entry.get("reason") or "")))}</td></tr>'
    )


def _scatter(record: Record) -> str:
    points = []
    for entry in record.candidates:
        size, metric = number(entry, "size_bytes"), number(entry, "metric")
        if size is None or size <= 0 or metric is None:
            continue
        is_float = entry.get("format") == record.baseline.get("format") and not entry.get("steps")
        kind = "here" if entry.get("status") == "chosen" else "baseline" if is_float else ""
        title = f"{entry.get('name', '')}: {size_text(size)}, {record.metric} {metric_text(metric)}"
        points.append(Point(str(entry.get("name", "")), size, metric, kind, title))
    if len(points) < 2:
        return ""
    reference = reference_metric(record)
    plot = scatter(
        points,
        metric_bound(record, reference),
        higher_is_better=record.higher_is_better,
        metric=record.metric,
        reference=reference,
        size_text=size_text,
        value_text=metric_text,
    )
    note = "up is better, left is smaller; below the dashed line the target is missed"
    return _section(f"Size against {record.metric}", f'<div class="scroll">{plot}</div>', note)


def _search(record: Record) -> str:
    """The trials of a search: a table, and size against metric where they have files; the verified one stands out."""
    if not record.trials:
        return ""
    rows, points = [], []
    for trial in record.trials:
        size, metric = number(trial, "size_bytes"), number(trial, "metric")
        name = str(trial.get("trial", ""))
        times = duration_text(number(trial, "seconds"))
        rows.append([name, metric_text(metric), size_text(size), metric_text(number(trial, "score")), times])
        rows[-1].append(trial_note(trial))
        if size and metric is not None:
            kind = "here" if trial.get("verified") is True else ""
            points.append(Point(name, size, metric, kind, f"{name}: {trial_note(trial)}"))
    plot = ""
    if len(points) > 1:
        reference = reference_metric(record)
        bound = metric_bound(record, reference)
        drawn = scatter(
            points, bound, higher_is_better=record.higher_is_better, metric=record.metric, reference=reference,
            size_text=size_text, value_text=metric_text,
        )  # fmt: skip
        plot = f'<div class="scroll">{drawn}</div>'
    head = [("trial", ""), (record.metric, "num"), ("size", "num"), ("score", "num"), ("time", "num"), ("values", "")]
    note = "judged on validation data; the winner also on a fold of it that took no part"
    return _section(f"Search: {len(rows)} trials", plot + _table(head, rows), note)


def _steps(record: Record) -> str:
    if not record.steps:
        return ""
    rows = []
    for step in record.steps:
        before, after = number(step, "metric_before"), number(step, "metric_after")
        known = {"name", "seconds", "metric_before", "metric_after"}
        more = ", ".join(f"{k} {v}" for k, v in step.items() if k not in known and isinstance(v, (str, int, float)))
        name = f"{step.get('name', '')}" + (f" ({more})" if more else "")
        rows.append([name, duration_text(number(step, "seconds")), metric_text(before), metric_text(after)])
    head = [("step", ""), ("time", "num"), (f"{record.metric} before", "num"), ("after", "num")]
    return _section("Steps", _table(head, rows), "in order")


def _classes(record: Record) -> str:
    changes = class_changes(record)[:_CLASSES_SHOWN]
    if not changes:
        return ""
    values = [v for _, a, b in changes for v in (a, b)]
    low, high = min(values), max(values)
    pad = max((high - low) * 0.05, 1e-6)
    rows = []
    for name, before, after in changes:
        title = f"{name}: {before:.4f} before, {after:.4f} after"
        picture = dumbbell(before, after, low - pad, high + pad, title=title)
        css = "bad-text" if after < before else "good-text" if after > before else "muted"
        rows.append(
            f'<tr><td class="name">{_text(name)}</td><td class="bar">{picture}</td><td class="num">{after:.3f}</td>'
            f'<td class="num {css}">{_fine(f"{after - before:+.3f}")}</td></tr>'
        )
    head = '<tr><th>class</th><th>before to after</th><th class="num">accuracy</th><th class="num">change</th></tr>'
    table = f'<div class="scroll"><table><thead>{head}</thead><tbody>{"".join(rows)}</tbody></table></div>'
    return _section("Classes", table, "the greatest loss first")


def _operations(record: Record) -> str:
    if not record.ops:
        return ""
    rows = []
    for op in record.ops:
        bits = number(op, "weight_bits")
        name = str(op.get("weight_tensor") or op.get("output") or "")
        rows.append(
            [
                f"{op.get('index', '')}" if not op.get("graph") else f"{op.get('graph')}:{op.get('index', '')}",
                str(op.get("name", "")),
                f"<code>{_text(name)}</code>",
                MISSING if bits is None else f"{bits:.0f}",
                str(op.get("activation", MISSING)),
                share_text(number(op, "sparsity")),
                count_text(number(op, "distinct")),
                count_text(number(op, "parameters")) if number(op, "parameters") else MISSING,
                count_text(number(op, "macs")) if number(op, "macs") else MISSING,
            ]
        )
    head = [("", ""), ("operation", ""), ("tensor", ""), ("weight bits", "num"), ("activations", "")]
    head += [("zeros", "num"), ("distinct values", "num"), ("parameters", "num"), ("MACs", "num")]
    table = _table(head, rows, raw={2})
    return _section("Layer by layer, as found in the file", table, "3:7 is operation 7 in the body of a loop or branch")


def _skipped(record: Record) -> str:
    if not record.skipped:
        return ""
    rows = [[str(e.get(key) or MISSING) for key in ("layer", "step", "reason")] for e in record.skipped]
    return _section("Skipped", _table([("layer", ""), ("step", ""), ("why", "")], rows), "what a step left as it was")


def _notes(record: Record) -> str:
    items = "".join(f"<li>{_text(note)}</li>" for note in record.notes)
    return _section("Notes", f'<ul class="plain">{items}</ul>', "") if items else ""


def _environment(record: Record) -> str:
    rows = [[key, ", ".join(map(str, v)) if isinstance(v, list) else str(v)] for key, v in record.environment.items()]
    rows = [["bigmodel", record.bigmodel], *rows, ["seed", str(record.seed)]]
    return _section("Environment", _table([("", ""), ("", "")], rows), "where the figures were measured")


def _footer(record: Record) -> str:
    return f"<footer>bigmodel {_text(record.bigmodel)} &middot; {_text(duration_text(record.seconds))} in all</footer>"


def _pair(left: str, right: str) -> str:
    """Returns two columns side by side where there is room; an empty one leaves its place to the other."""
    columns = "".join(f'<div class="stack">{column}</div>' for column in (left, right) if column)
    return f'<div class="pair">{columns}</div>' if columns else ""


def _section(title: str, body: str, note: str) -> str:
    side = f"<p>{_text(note)}</p>" if note else ""
    return f"<section><header><h2>{_text(title)}</h2>{side}</header>{body}</section>"


def _table(head: Sequence[tuple[str, str]], rows: Sequence[Sequence[str]], *, raw: set[int] | None = None) -> str:
    """Returns a table; cells are escaped, except in the columns of `raw`, which hold markup."""
    classes = [f' class="{css}"' if css else "" for _, css in head]
    top = "".join(f"<th{css}>{_text(name)}</th>" for (name, _), css in zip(head, classes, strict=True))
    thead = f"<thead><tr>{top}</tr></thead>" if any(name for name, _ in head) else ""
    body = ""
    for row in rows:
        cells = (
            f"<td{css}>{cell if raw and i in raw else _text(_fine(cell))}</td>"
            for i, (cell, css) in enumerate(zip(row, classes, strict=True))
        )
        body += f"<tr>{''.join(cells)}</tr>"
    return f'<div class="scroll"><table>{thead}<tbody>{body}</tbody></table></div>'


def _samples(figures: Mapping[str, Any]) -> str:
    count = number(figures, "samples")
    return "" if count is None else f" ({count:,.0f} samples)"


def _text(value: object) -> str:
    return html.escape(str(value))


def _breakable(name: object) -> str:
    """Returns a name that may break after its joints instead of anywhere."""
    return re.sub(r"([+_/])", r"\1<wbr>", _text(name))


def _fine(text: str) -> str:
    """Returns figures with the signs a browser can show: a multiplication sign, a micro sign, a true minus."""
    text = re.sub(r"(?<=\d)x (?=smaller|larger|faster|slower|fewer|more)", "\u00d7 ", text)
    text = re.sub(r"(?<=\d) us\b", " \u00b5s", text)
    return re.sub(r"(?<![\w.])-(?=\d+\.)", "\u2212", text)
