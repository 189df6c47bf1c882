"""The score of campaigns for people: a table for terminals. The page with pictures is `ftslurm.faults.page`."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

from ftslurm.faults.score import QUANTILES, Score
from ftslurm.insight.text import count, visible

UNKNOWN = "-"
STAGE_NAMES = {
    "detect": "fault to noticed",
    "decide": "noticed to decided",
    "stop": "decided to stopped",
    "launch": "launch to all ranks there",
    "restore": "launch to restored",
    "released": "fault to training again",
    "first_step": "fault to first step",
}
Rows = list[list[str]]


def percent(share: float | None) -> str:
    """`97.5 %`; `-` where there is nothing to divide by."""
    return UNKNOWN if share is None else f"{share:.1%}".replace("%", " %").replace(".0 ", " ")


def faults(found: Score) -> Rows:
    """By fault: how much was noticed, how rightly."""
    head = ["FAULT", "INJECTED", "NOTICED", "RECALL", "PRECISION", "RIGHT"]
    rows = [
        [
            visible(row.fault),
            str(row.injected),
            f"{row.detected}/{row.due}" if row.due else "not due",
            percent(row.recall),
            percent(row.precision),
            percent(row.right / row.injected if row.injected else None),
        ]
        for row in found.rows
    ]
    due, noticed = sum(row.due for row in found.rows), sum(row.detected for row in found.rows)
    return [
        head,
        *rows,
        ["all", str(found.injected), f"{noticed}/{due}", percent(found.recall), "", percent(found.right)],
    ]


def confusion(found: Score) -> Rows:
    """What was said of which fault."""
    said = sorted({slug for row in found.confusion.values() for slug in row})
    rows = [
        [visible(fault), *(str(row.get(slug, 0) or ".") for slug in said)]
        for fault, row in sorted(found.confusion.items())
    ]
    return [["INJECTED \\ SAID", *map(visible, said)], *rows]


def times(found: Score) -> Rows:
    """How long each part took."""
    head = ["PART", "COUNT", *(f"P{share}" for share in QUANTILES)]
    rows = [
        [
            STAGE_NAMES.get(stage, stage),
            f"{values['count']:.0f}",
            *(f"{values[f'p{share}']:.2f} s" for share in QUANTILES),
        ]
        for stage, values in found.times.items()
    ]
    return [head, *rows]


def trend(past: Sequence[Score]) -> Rows:
    """Campaigns of one name, oldest first."""
    head = ["BEGAN", "INJECTED", "RECALL", "RIGHT", "WRONG EXCLUSIONS", "TRAINING AGAIN (P50)"]
    return [head, *([
        moment(each.began), str(each.injected), percent(each.recall), percent(each.right),
        str(len(each.wrong_exclusions)), seconds(each.times.get("released", {}).get("p50")),
    ] for each in past)]  # fmt: skip


def moment(t: float) -> str:
    """`2026-11-27 23:52` in UTC."""
    return dt.datetime.fromtimestamp(t, dt.UTC).strftime("%Y-%m-%d %H:%M")


def seconds(value: float | None) -> str:
    """`5.25 s`."""
    return UNKNOWN if value is None else f"{value:.2f} s"


def sentences(found: Score) -> list[str]:
    """What does not fit into tables."""
    weights = ", ".join(f"{word} {number}" for word, number in found.weights.items() if number)
    lost = f"{found.lost_s:.1f} s of training were done again"
    lost += f", {count(found.lost_steps, 'step')} of those that programs told of" if found.lost_steps else ""
    wrong = ", ".join(map(visible, found.wrong_exclusions)) or "none"
    return [
        f"campaign {visible(found.name)}, {moment(found.began)} UTC",
        f"{count(found.runs, 'run')}, {found.finished} finished; {count(found.injected, 'injection')}",
        f"final weights beside the undisturbed run: {weights or 'no run'}",
        f"wrong exclusions: {wrong}",
        lost,
    ]


def text(found: Score, past: Sequence[Score]) -> str:
    """All of it for a terminal."""
    parts = [*sentences(found), *(f"\n{aligned(each)}" for each in (faults(found), confusion(found), times(found)))]
    if len(past) > 1:
        parts.append(f"\n{aligned(trend(past))}")
    return "\n".join(parts)


def aligned(rows: Rows) -> str:
    """Columns; all but the first to the right."""
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    lines = (
        "  ".join(
            cell.rjust(width) if place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)
