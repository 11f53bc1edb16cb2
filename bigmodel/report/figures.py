"""A record's figures in words: units, ratios, what was missed. Pure functions, shared by all renderings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bigmodel.report.record import Record

MISSING = "-"


def number(figures: Mapping[str, Any], key: str) -> float | None:
    """Returns a figure as a finite number, or `None` where it is absent."""
    value = figures.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)


def size_text(size: float | None) -> str:
    """Returns bytes with a unit of 1000 and three digits.

    >>> size_text(973864), size_text(16600), size_text(512)
    ('974 kB', '16.6 kB', '512 B')
    """
    if size is None:
        return MISSING
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5 or unit == "GB":
            return f"{size:.0f} B" if unit == "B" else f"{_digits(size)} {unit}"
        size /= 1000
    return MISSING


def count_text(count: float | None) -> str:
    """Returns a count with three digits and k, M or G.

    >>> count_text(109386), count_text(7), count_text(2.5e9)
    ('109 k', '7', '2.50 G')
    """
    if count is None:
        return MISSING
    for unit in ("", "k", "M", "G"):
        if count < 999.5 or unit == "G":
            return f"{count:.0f}" if not unit else f"{_digits(count)} {unit}"
        count /= 1000
    return MISSING


def latency_text(milliseconds: float | None, *, micro: bool) -> str:
    """Returns a time in milliseconds, or in microseconds; one unit for a whole report keeps columns comparable.

    >>> latency_text(0.0018, micro=True), latency_text(12.345, micro=False)
    ('1.80 us', '12.3 ms')
    """
    if milliseconds is None:
        return MISSING
    return f"{_digits(milliseconds * 1000)} us" if micro else f"{_digits(milliseconds)} ms"


def in_microseconds(record: Record) -> bool:
    """Returns whether the report's times read better in microseconds."""
    value = number(record.baseline, "latency_ms")
    return value is not None and value < 0.1


def metric_text(value: float | None) -> str:
    """Returns a metric with four decimals, large and tiny ones with four digits.

    >>> metric_text(0.864), metric_text(1234.5), metric_text(0.00001234)
    ('0.8640', '1234', '1.234e-05')
    """
    if value is None:
        return MISSING
    return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 100 else f"{value:.4g}"


def share_text(share: float | None) -> str:
    """Returns a fraction as per cent.

    >>> share_text(0.8), share_text(0.99987), share_text(0)
    ('80 %', '99.99 %', '0 %')
    """
    if share is None:
        return MISSING
    text = f"{share * 100:.2f}".rstrip("0").rstrip(".")
    return f"{'99.99' if text == '100' and share < 1 else text} %"


def ratio_text(before: float | None, after: float | None, better: str, worse: str) -> str:
    """Returns how many times less `after` is, in words.

    >>> ratio_text(100, 25, "smaller", "larger"), ratio_text(1, 2, "faster", "slower")
    ('4.00x smaller', '2.00x slower')
    """
    if before is None or after is None or before <= 0 or after <= 0:
        return MISSING
    if before == after:
        return "the same"
    ratio = before / after
    return f"{_digits(ratio)}x {better}" if ratio > 1 else f"{_digits(1 / ratio)}x {worse}"


def drop_of(record: Record, reference: float | None, value: float | None) -> float | None:
    """Returns how much worse `value` is than `reference`, in the units of `max_drop`; `None` where unknown."""
    if reference is None or value is None:
        return None
    if record.higher_is_better:
        return reference - value
    return (value - reference) / abs(reference) if reference else math.inf if value > 0 else 0.0


def drop_text(record: Record, drop: float | None) -> str:
    """Returns a drop as the change it is: negative where the metric became worse, per cent for losses and errors."""
    if drop is None or not math.isfinite(drop):
        return MISSING
    if record.higher_is_better:
        return f"{-drop:+.4f}" if round(drop, 4) else "0.0000"
    return f"{drop * 100:+.1f} %"


def reference_metric(record: Record) -> float | None:
    """Returns the metric the candidates are compared with: the float file's on their samples, else the baseline's."""
    for candidate in record.candidates:
        if candidate.get("format") == record.baseline.get("format", "float32") and not candidate.get("steps"):
            return number(candidate, "metric")
    return number(record.baseline, "metric")


def metric_bound(record: Record, reference: float | None) -> float | None:
    """Returns the worst metric that `max_drop` allows."""
    if reference is None:
        return None
    if record.higher_is_better:
        return reference - record.max_drop
    return reference + abs(reference) * record.max_drop


def missed(record: Record) -> list[str]:
    """Returns which bounds the final file misses, each as a phrase with what was allowed."""
    final, bounds = record.final, record.target
    drop = drop_of(record, number(record.baseline, "metric"), number(final, "metric"))
    micro = in_microseconds(record)
    phrases = []
    if drop is not None and drop > record.max_drop + 1e-9:
        unit = (lambda d: f"{d:.4f}") if record.higher_is_better else (lambda d: f"{d * 100:.1f} %")
        phrases.append(f"{record.metric} is {unit(drop)} worse, {unit(record.max_drop)} is allowed")
    for key, label, text in (
        ("size_bytes", "size", size_text),
        ("latency_ms", "latency_ms", lambda v: latency_text(v, micro=micro)),
    ):
        value, bound = number(final, key), number(bounds, label)
        if value is not None and bound is not None and value > bound:
            phrases.append(
                f"{'the file has' if label == 'size' else 'a call takes'} {text(value)}, {text(bound)} is allowed"
            )
    return phrases


def headline(record: Record) -> str:
    """Returns the result in one sentence."""
    before, after = record.baseline, record.final
    size = ratio_text(number(before, "size_bytes"), number(after, "size_bytes"), "smaller", "larger")
    speed = ratio_text(number(before, "latency_ms"), number(after, "latency_ms"), "faster", "slower")
    drop = drop_of(record, number(before, "metric"), number(after, "metric"))
    change = drop_text(record, drop)
    parts = [
        size if size != "the same" else "the same size",
        speed if speed != "the same" else "the same speed",
        f"{record.metric} {metric_text(number(after, 'metric'))}" + (f" ({change})" if change != MISSING else ""),
    ]
    return ", ".join(part for part in parts if part != MISSING)


def interval_text(record: Record) -> tuple[str, str] | None:
    """Returns the ends of the 95 % interval of the final file's change, the lower one first; `None` without one."""
    interval = record.final.get("drop_interval")
    if not isinstance(interval, list) or len(interval) != 2 or None in interval:
        return None
    # A drop is a loss of the metric: for accuracies the largest drop is the lowest change.
    low, high = reversed(interval) if record.higher_is_better else interval
    return drop_text(record, low), drop_text(record, high)


def class_changes(record: Record) -> list[tuple[str, float, float]]:
    """Returns (class, accuracy before, accuracy after) of the classes that both hold, the greatest loss first."""
    before, after = record.baseline.get("per_class"), record.final.get("per_class")
    if not isinstance(before, Mapping) or not isinstance(after, Mapping):
        return []
    rows = [(str(name), number(before, name), number(after, name)) for name in before if name in after]
    known = [(name, a, b) for name, a, b in rows if a is not None and b is not None]
    return sorted(known, key=lambda row: row[2] - row[1])


def duration_text(seconds: float | None) -> str:
    """Returns a duration.

    >>> duration_text(7.25), duration_text(412), duration_text(7500)
    ('7.2 s', '6 min 52 s', '2 h 5 min')
    """
    if seconds is None:
        return MISSING
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _digits(value: float) -> str:
    """Returns three digits, never in exponent form."""
    if value == 0:
        return "0"
    decimals = 2 - math.floor(math.log10(abs(value)))
    return f"{value:.{min(max(decimals, 0), 6)}f}"


def trial_note(trial: Mapping[str, Any]) -> str:
    """Returns the values of a trial and what became of it, in one line.

    >>> trial_note({"values": {"bits": 4, "channels": 0.125}, "verified": True})
    'bits 4, channels 0.125: holds on the fold set aside'
    """
    values = [f"{name} {_short(value)}" for name, value in (trial.get("values") or {}).items()]
    verdict = {True: "holds on the fold set aside", False: "breaks the bound on the fold set aside"}
    ends = [str(trial["reason"])] if trial.get("reason") else []
    ends += [verdict[trial["verified"]]] if trial.get("verified") in verdict else []
    return ", ".join(values) + "".join(f": {end}" for end in ends)


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
