"""The report as data: one object for JSON, rows for CSV. Keys are stable; `SCHEMA` changes when they do.

A cell of a CSV file that a spreadsheet would take for a formula begins with an apostrophe (OWASP, "CSV Injection"): the
names of nodes and jobs, and what programs printed, come from outside.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ftslurm.insight import walltime
from ftslurm.insight.export import of_story, times
from ftslurm.insight.text import visible
from ftslurm.report.recovery import PARTS, parts, spread
from ftslurm.report.samples import METRICS

if TYPE_CHECKING:
    from ftslurm.report.contents import Contents

SCHEMA = 1
_FORMULA = ("=", "+", "-", "@", "\t", "\r")

Rows = tuple[Sequence[str], Iterable[Sequence[object]]]


def document(contents: Contents) -> dict[str, Any]:
    """Return the whole report."""
    return {
        "meta": {"schema": SCHEMA},
        "run": {"run_id": contents.run_id, **times("begun", contents.begun or None), **times("until", contents.until)},
        "remarks": list(contents.remarks),
        "story": of_story(contents.story),
        "wall_time": _wall_time(contents),
        "timeline": _timeline(contents),
        "progress": _progress(contents),
        "recovery": _recovery(contents),
        "checkpoints": _checkpoints(contents),
        "resources": _resources(contents),
        "anomalies": [
            {
                "node": each.node,
                "metric": each.metric,
                **times("t", each.t),
                "score": round(each.score, 2),
                "value": each.value,
            }
            for each in contents.anomalies
        ],
    }


def _wall_time(contents: Contents) -> dict[str, Any]:
    spent = contents.spent
    return {
        "total_s": round(sum(spent.values()), 3),
        "spent_s": {category: round(seconds, 3) for category, seconds in spent.items()},
        "ettr": _rounded(walltime.ettr(spent) if spent else None),
        "goodput": _rounded(walltime.goodput(spent) if spent else None),
    }


def _timeline(contents: Contents) -> dict[str, Any]:
    return {
        "run": [
            {"start_s": _since(contents, each.start), "end_s": _since(contents, each.end), "category": each.category}
            for each in contents.intervals
        ],
        "nodes": [
            {
                "node": each.node,
                "start_s": _since(contents, each.start),
                "end_s": _since(contents, each.end),
                "role": each.role,
            }
            for each in contents.stretches
        ],
        "failures": [
            {"node": mark.node or None, "t_s": _since(contents, mark.t), "what": mark.label} for mark in contents.marks
        ],
    }


def _progress(contents: Contents) -> dict[str, Any]:
    told = contents.progress
    return {
        "steps_per_s": _rounded(told.rate, 6),
        "last_step": max((point.step for point in told.points), default=None),
        "ideal_step": _rounded(told.ideal(contents.until)),
        "points": len(told.points),
    }


def _recovery(contents: Contents) -> dict[str, Any]:
    incidents = contents.story.incidents
    wholes = [each.recovery_s for each in incidents if each.recovery_s is not None]
    detects = [each.noticed - each.sign for each in incidents if each.noticed > each.sign]
    return {
        "incidents": len(incidents),
        "recovered": len(wholes),
        "recovery_s": _percentiles(wholes),
        "detect_s": _percentiles(detects),
        "parts_s": [
            {"incident": each.number, **{name: _rounded(parts(each).get(name)) for name in PARTS}} for each in incidents
        ],
    }


def _percentiles(values: Sequence[float]) -> dict[str, float | None]:
    found = spread(values)
    return dict(zip(("p10", "p50", "p90"), map(_rounded, found or (None, None, None)), strict=True))


def _checkpoints(contents: Contents) -> dict[str, Any]:
    saved = contents.checkpoints
    return {
        "saved": len(saved),
        "durable": sum(each.durable is not None for each in saved),
        "damaged": sum(bool(each.damaged) for each in saved),
        "restarts": sum(each.restored for each in saved),
        "save_s": _percentiles([each.save_s for each in saved if each.save_s is not None]),
        "durable_s": _percentiles([each.durable_s for each in saved if each.durable_s is not None]),
    }


def _resources(contents: Contents) -> dict[str, Any]:
    grid = contents.grid
    return {
        "samples": contents.samples.count,
        "missed": contents.samples.missed,
        "unreadable": contents.samples.unreadable,
        "bin_s": round(grid.width_s, 3),
        "metrics": {
            name: {"unit": METRICS[name].unit, "meaning": METRICS[name].meaning, "nodes": sorted(rows)}
            for name, rows in grid.values.items()
        },
    }


def _since(contents: Contents, t: float) -> float:
    return round(t - contents.begun, 3)


def _rounded(value: float | None, digits: int = 3) -> float | None:
    return None if value is None else round(value, digits)


# ----------------------------------------------------------------------------------------------------------------- CSV


def tables(contents: Contents) -> Mapping[str, Rows]:
    """Return the tables by name: their columns, and their rows."""
    return {
        "incidents": (
            ("incident", "sign", "cause", "where", "reason", "plan", "excluded", "recovery_s", "lost_s", "outcome"),
            (_incident(each) for each in document_incidents(contents)),
        ),
        "checkpoints": (
            ("generation", "step", "attempt", "whole_epoch", "save_s", "durable_s", "size_bytes", "restored",
             "damaged"),
            (
                (each.generation, each.step, each.attempt, each.whole, _rounded(each.save_s), _rounded(each.durable_s),
                 each.size_bytes, each.restored, each.damaged)
                for each in contents.checkpoints
            ),
        ),
        "training_progress": (
            ("t_epoch", "attempt", "step", "saved"),
            ((round(each.t, 3), each.attempt, each.step, int(each.saved)) for each in contents.progress.points),
        ),
        "wall_time": (
            ("start_epoch", "end_epoch", "category"),
            ((round(each.start, 3), round(each.end, 3), each.category) for each in contents.intervals),
        ),
        "system_resources": (("t_epoch", "node", "metric", "value", "anomaly"), _cells(contents)),
    }  # fmt: skip


def document_incidents(contents: Contents) -> list[dict[str, Any]]:
    """Return the incidents as JSON has them."""
    found: list[dict[str, Any]] = of_story(contents.story)["incidents"]
    return found


def _incident(each: Mapping[str, Any]) -> Sequence[object]:
    said = each["verdicts"][0] if each["verdicts"] else {}
    plan = each["plans"][-1] if each["plans"] else {}
    return (
        each["number"], each["sign"], said.get("cause"), said.get("where"), said.get("reason"), plan.get("kind"),
        " ".join(each["excluded"]), each["recovery_s"], each["lost_s"], each["outcome"],
    )  # fmt: skip


def _cells(contents: Contents) -> Iterable[Sequence[object]]:
    grid = contents.grid
    for metric, rows in grid.values.items():
        for node, row in rows.items():
            for column, value in enumerate(row):
                if value is not None:
                    t = grid.start + (column + 0.5) * grid.width_s
                    yield round(t, 3), node, metric, value, _rounded(contents.scores[metric][node][column])


def csv_text(rows: Rows) -> str:
    """Return a table as CSV (RFC 4180), safe to open in a spreadsheet."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    columns, lines = rows
    writer.writerow(columns)
    writer.writerows([_cell(each) for each in line] for line in lines)
    return out.getvalue()


def _cell(value: object) -> object:
    if isinstance(value, str):
        shown = visible(value)
        return f"'{shown}" if value.startswith(_FORMULA) else shown
    return "" if value is None else value
