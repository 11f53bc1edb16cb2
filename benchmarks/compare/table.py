"""The results as Markdown: medians over the seeds, and who is on the Pareto front."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.compare.methods import METHODS
from benchmarks.compare.plot import plot

Row = dict[str, Any]

COLUMNS = {"accuracy": "accuracy", "bytes": "bytes", "gzip": "gzip", "latency_ms": "latency, ms", "seconds": "seconds"}
COSTS = {"bytes": "Accuracy against size", "latency_ms": "Accuracy against latency"}
NOISE = {"bytes": 0.01, "latency_ms": 0.05}
"""The part of a cost by which two files have to differ before one is called smaller or faster."""
ACCURACY_NOISE = 0.001
"""The least difference of two accuracies: two files that disagree on 100 of 10,000 images differ by that by chance."""

RULE = (
    "A file is on the front (its cost in bold, its point filled) if no other beats it: is clearly better in one of the "
    "two and not clearly worse in the other. Clearly more accurate is: higher for every seed, and by more than "
    f"{ACCURACY_NOISE:.3f} in the median; clearly smaller: by more than {NOISE['bytes']:.0%}; clearly faster: by more "
    f"than {NOISE['latency_ms']:.0%}. What lies closer is a tie, and both may be on the front."
)


def write(record: Mapping[str, Any], folder: Path) -> None:
    """Writes compare.md and a plot for each network."""
    for name, text in pages(record).items():
        (folder / name).write_text(text, encoding="utf-8")


def pages(record: Mapping[str, Any]) -> dict[str, str]:
    """Returns the text of compare.md and of each plot, by file name."""
    texts, parts = {}, [caption(record), "", RULE, ""]
    for network in dict.fromkeys(run["network"] for run in record["runs"]):
        rows = summary([run for run in record["runs"] if run["network"] == network])
        image = f"compare-{network}.svg"
        parts += [f"## {network}", "", seeds_told(rows), "", markdown(rows), ""]
        if any("accuracy" in row for row in rows):
            parts += [front_told(rows, cost) + "\n" for cost in COSTS]
            parts += [f"![{network}: accuracy of the files against their size and latency]({image})", ""]
            texts[image] = plot(network, rows)
    return {"compare.md": "\n".join(parts), **texts}


def caption(record: Mapping[str, Any]) -> str:
    """What a reader has to know about the run to repeat it."""
    settings, made = record["settings"], dict(record["environment"])
    machine, commit = made.pop("machine"), made.pop("commit")
    data = f"at most {settings['samples']:,} training samples" if settings["samples"] else "all training samples"
    jobs = settings.get("jobs", 1)
    beside = f" and with {jobs} tools at a time on the machine" if jobs > 1 else ""
    return (
        f"The float networks were trained for {settings['float_epochs']} epochs; each training of a tool takes "
        f"{settings['epochs']}, on {data}. Latency: one warm call of batch size 1 on one thread, all files of a "
        f"network in turns, nothing else running. Seconds: from the float network to the file, imports not counted"
        f"{beside}. {machine}; commit {commit}; {', '.join(f'{name} {value}' for name, value in made.items())}."
    )


def seeds_told(rows: Sequence[Row]) -> str:
    """Over how many seeds a network's figures are medians.

    >>> seeds_told([{"seeds": 1}]), seeds_told([{"seeds": 3}])
    ('One seed.', 'Medians over 3 seeds; after ± half the spread of the accuracy.')
    """
    seeds = rows[0]["seeds"]
    return "One seed." if seeds == 1 else f"Medians over {seeds} seeds; after ± half the spread of the accuracy."


def summary(runs: Sequence[Mapping[str, Any]]) -> list[Row]:
    """One row for each method: medians, the spread of the accuracy, and whether the Pareto fronts have it.

    >>> base = {"network": "n", "seconds": 1.0, "gzip": 1, "latency_ms": 1.0, "seed": 0}
    >>> rows = summary([{**base, "method": "Keras: int4", "accuracy": 0.8, "bytes": 200},
    ...                 {**base, "method": "float32", "accuracy": 0.9, "bytes": 100}])
    >>> [(row["method"], row["front_bytes"]) for row in rows]
    [('float32', True), ('Keras: int4', False)]
    """
    rows: list[Row] = []
    tried = sorted({run["method"] for run in runs}, key=list(METHODS).index)
    for number, method in enumerate(tried, start=1):
        own = [run for run in runs if run["method"] == method]
        good = [run for run in own if "accuracy" in run]
        row: Row = {"number": number, "method": method, "failed": len(own) - len(good)}
        row |= {"tried": len(own), "seeds": len({run["seed"] for run in runs})}
        if len(good) < len(own):
            row["reason"] = next(run["reason"] for run in own if "reason" in run)
        if good:
            row |= {key: statistics.median(run[key] for run in good) for key in COLUMNS}
            row["accuracies"] = {run["seed"]: run["accuracy"] for run in good}
        rows.append(row)
    measured = [row for row in rows if "accuracy" in row]
    for row in measured:
        for cost in COSTS:
            row[f"front_{cost}"] = not any(beats(other, row, cost) for other in measured)
    return rows


def beats(one: Row, other: Row, cost: str) -> bool:
    """Tells whether a file is clearly better than another in one respect and not clearly worse in the other."""
    cheaper, dearer = _cheaper(one, other, cost), _cheaper(other, one, cost)
    better, worse = _more_accurate(one, other), _more_accurate(other, one)
    return (better or cheaper) and not (worse or dearer)


def _cheaper(one: Row, other: Row, cost: str) -> bool:
    return one[cost] < (1 - NOISE[cost]) * other[cost]


def _more_accurate(one: Row, other: Row) -> bool:
    both = one["accuracies"].keys() & other["accuracies"].keys()
    in_every_seed = all(one["accuracies"][seed] > other["accuracies"][seed] for seed in both)
    return in_every_seed and one["accuracy"] > other["accuracy"] + ACCURACY_NOISE


def markdown(rows: Sequence[Row]) -> str:
    """The rows as a table; what is on the front of accuracy and a cost has that cost in bold."""
    lines = [f"| # | tool | {' | '.join(COLUMNS.values())} |", f"|{'---|' * (2 + len(COLUMNS))}"]
    for row in rows:
        reason = f"`{row.get('reason', '').replace('|', '/').replace('`', '')}`"
        if "accuracy" not in row:
            lines.append(f"| {row['number']} | {row['method']}: no file ({reason}) |{' |' * len(COLUMNS)}")
            continue
        told = row["method"]
        if row["tried"] < row["seeds"]:
            told += f" ({row['tried']} of {row['seeds']} seeds)"
        if row["failed"]:
            told += f" (no file for {row['failed']} seed{'s' * (row['failed'] > 1)}: {reason})"
        spread = (max(row["accuracies"].values()) - min(row["accuracies"].values())) / 2
        accuracy = f"{row['accuracy']:.4f}" + f" ± {spread:.4f}" * (row["seeds"] > 1)
        cells = [accuracy, _bold(f"{row['bytes']:,.0f}", row["front_bytes"])]
        cells += [f"{row['gzip']:,.0f}", _bold(f"{row['latency_ms']:.3g}", row["front_latency_ms"])]
        lines.append(f"| {row['number']} | {told} | {' | '.join(cells)} | {row['seconds']:.0f} |")
    return "\n".join(lines)


def _bold(text: str, is_bold: bool) -> str:
    return f"**{text}**" if is_bold else text


def front_told(rows: Sequence[Row], cost: str) -> str:
    """Who is on the front of accuracy and a cost, in a sentence; if no file of bigmodel is, it says so.

    >>> base = {"network": "n", "seconds": 1.0, "gzip": 1, "latency_ms": 1.0, "seed": 0}
    >>> rows = summary([{**base, "method": "bigmodel: 8 bits", "accuracy": 0.8, "bytes": 200},
    ...                 {**base, "method": "Keras: int4", "accuracy": 0.9, "bytes": 100}])
    >>> front_told(rows, "bytes")
    '**Accuracy against size:** no file of bigmodel is on the front; on it: Keras: int4.'
    """
    front = [row for row in rows if row.get(f"front_{cost}")]
    ours = [row["method"].partition(": ")[2] for row in front if row["method"].startswith("bigmodel")]
    others = [row["method"] for row in front if not row["method"].startswith("bigmodel")]
    if not ours:
        told = f"no file of bigmodel is on the front; on it: {'; '.join(others)}"
    else:
        told = f"on the front are bigmodel's {'; '.join(ours)}"
        told += f"; of the others, {'; '.join(others)}" if others else "; none of the others"
    return f"**{COSTS[cost]}:** {told}."
