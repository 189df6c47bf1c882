"""What `ftslurm plan fit` tells: every generator fitted to a trace, beside what was seen, as a table and as JSON.

A model that is judged on what it was fitted to has seen the answers. So a trace can be cut: the later half of the time,
or the other half of the nodes, is held back from the fit. Halves of a trace differ among themselves; the table has the
numbers of both, because no model that was fitted to one of them can be nearer to the other than the trace itself is.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from random import Random
from textwrap import wrap
from typing import Any

from ftslurm.core.lemons import DAY_S
from ftslurm.insight.text import took
from ftslurm.plan.fit import Model, fit
from ftslurm.plan.generators import Lognormal
from ftslurm.plan.judging import DISTRIBUTIONS, NEAR, NUMBERS, REPLICATIONS, Judgement, Number, judge
from ftslurm.plan.measures import measure
from ftslurm.plan.trace import Trace


class JudgedOn(StrEnum):
    """What models are judged on: the whole trace they were fitted to, or a half that was held back."""

    WHOLE = "whole"
    LATER = "later"
    OTHERS = "others"


_WHAT = {
    JudgedOn.WHOLE: ("the whole trace", "the same, which it has seen"),
    JudgedOn.LATER: ("the first half of the time", "the second half"),
    JudgedOn.OTHERS: ("a half of the nodes, drawn by chance", "the other half"),
}
_LABELS = {
    "rate": "faults in 1000 node-days",
    "dispersion": "variance/mean over nodes",
    "within_day": "again within a day",
    "within_week": "again within 7 days",
    "top_5": "on the worst 5 % of nodes",
    "top_10": "on the worst 10 %",
    "top_20": "on the worst 20 %",
    "gap_variation": "variation of gaps",
    "together": "within a minute of another",
    "out": "node time out",
    "repair_h": "median repair, hours",
    "gaps": "KS gaps of the fleet",
    "returns": "KS repair to next fault",
    "repairs": "KS repairs",
}
_WIDTH = 120
_SHARES = frozenset({"within_day", "within_week", "top_5", "top_10", "top_20", "together", "out"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """Models of a trace, and how well they do.

    Attributes:
        trace: all of it.
        fitted: the part that the models were fitted to.
        judged: the part that they are judged on.
        judged_on: how the trace was cut.
        seed: of all that is drawn.
        replications: how often each model has drawn the part that it is judged on.
        models: the generators by name, each with its judgement.
    """

    trace: Trace
    fitted: Trace
    judged: Trace
    judged_on: JudgedOn
    seed: int
    replications: int
    models: dict[str, tuple[Model, Judgement]]


def study(trace: Trace, judged_on: JudgedOn, seed: int = 1, replications: int = REPLICATIONS) -> Study:
    """Fit every generator to a part of the trace and judge it on a part.

    Raises:
        UsageError: too few faults to fit anything.
    """
    fitted, judged = _parts(trace, judged_on, seed)
    models = {
        name: (generator, judge(generator, judged, f"{seed}/{name}", replications))
        for name, generator in fit(fitted).items()
    }
    return Study(
        trace=trace, fitted=fitted, judged=judged, judged_on=judged_on, seed=seed, replications=replications,
        models=models,
    )  # fmt: skip


def _parts(trace: Trace, judged_on: JudgedOn, seed: int) -> tuple[Trace, Trace]:
    if judged_on is JudgedOn.LATER:
        middle_s = trace.span_s / 2
        return trace.between(0.0, middle_s), trace.between(middle_s, trace.span_s)
    if judged_on is JudgedOn.OTHERS:
        dice = Random(f"{seed}/halves")  # noqa: S311 - a cut that can be repeated
        half = set(dice.sample(range(trace.nodes), trace.nodes // 2))
        return trace.only(half), trace.only(set(range(trace.nodes)) - half)
    return trace, trace


def document(found: Study) -> dict[str, Any]:
    """The study for programs. null: not known, or (of a model's parameters) infinite: equal nodes, a steady rate."""
    own = measure(found.fitted.outages, found.fitted.nodes, found.fitted.span_s)
    judged = measure(found.judged.outages, found.judged.nodes, found.judged.span_s)
    return {
        "trace": _size(found.trace),
        "fitted": {**_size(found.fitted), "numbers": _plain(asdict(own))},
        "judged": {**_size(found.judged), "numbers": _plain(asdict(judged)), "on": found.judged_on.value},
        "seed": found.seed,
        "replications": found.replications,
        "models": {name: _model(*each) for name, each in found.models.items()},
    }


def _size(trace: Trace) -> dict[str, Any]:
    still = sum(each.end_s > trace.span_s for each in trace.outages)
    return {
        "faults": len(trace.outages), "nodes": trace.nodes, "days": round(trace.span_s / DAY_S, 4), "not_over": still
    }  # fmt: skip


def _model(generator: Model, judgement: Judgement) -> dict[str, Any]:
    numbers = {name: {**asdict(each), "off": each.off, "usual": each.usual} for name, each in judgement.numbers.items()}
    distances = {name: asdict(each) for name, each in judgement.distances.items()}
    return _plain({"parameters": asdict(generator), "numbers": numbers, "distances": distances})


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """Numbers to six digits; what is no number is null."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            found[key] = _plain(value)
        elif isinstance(value, float):
            found[key] = float(f"{value:.6g}") if math.isfinite(value) else None
        else:
            found[key] = value
    return found


def text(found: Study) -> list[str]:
    """The study for people, line by line."""
    fitted_to, judged_on = _WHAT[found.judged_on]
    size = _size(found.trace)
    days, still = size["days"], size["not_over"]
    lines = [
        f"{size['faults']} faults of {size['nodes']} nodes in {days:.1f} days, {still} not over at its end",
        f"fitted to {fitted_to}: {len(found.fitted.outages)} faults",
        f"judged on {judged_on}: {len(found.judged.outages)} faults",
        f"{found.replications} replications of each model, seed {found.seed}",
        "",
    ]
    lines += _aligned(_rows(found))
    lines += [
        "",
        "A model's column: the mean of its replications, and how far it is from what it is judged on.",
        "!: that is outside of the model's middle 90 %, or its distance (KS) beyond the second number, which 95 % of",
        "the model's own replications keep.",
        "",
    ]
    for name, (generator, judgement) in found.models.items():
        near = sum(abs(each.off) <= NEAR for each in judgement.numbers.values())
        said = f"{name}: {near} of {len(NUMBERS)} numbers within {100 * NEAR:.0f} %; {_words(generator)}"
        lines += wrap(said, _WIDTH, subsequent_indent="  ")
    return lines


def _rows(found: Study) -> list[list[str]]:
    own = asdict(measure(found.fitted.outages, found.fitted.nodes, found.fitted.span_s))
    cut = found.judged_on is not JudgedOn.WHOLE
    rows = [["", *(["FITTED", "JUDGED"] if cut else ["TRACE"]), *(name.upper() for name in found.models)]]
    judgements = [judgement for _, judgement in found.models.values()]
    for name in NUMBERS:
        seen = judgements[0].numbers[name].trace
        shown = [_shown(name, value) for value in ([own[name], seen] if cut else [seen])]
        rows.append([_LABELS[name], *shown, *(_cell(name, each.numbers[name]) for each in judgements)])
    for name in DISTRIBUTIONS:
        cells = []
        for each in judgements:
            ks = each.distances[name]
            cells.append(f"{ks.found:.2f} of {ks.critical:.2f}{' !' if ks.found > ks.critical else ''}")
        rows.append([_LABELS[name], *([""] * (2 if cut else 1)), *cells])
    return rows


def _shown(name: str, value: float) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:.1%}" if name in _SHARES else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _cell(name: str, each: Number) -> str:
    off = "" if math.isnan(each.off) else f" {each.off:+.0%}"
    return f"{_shown(name, each.mean)}{off}{'' if each.usual else ' !'}"


def _aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _words(generator: Model) -> str:
    parts = []
    for each in fields(generator):
        value = getattr(generator, each.name)
        if isinstance(value, Lognormal):
            parts.append(f"{each.name} {took(value.median_s)} (mean {took(value.mean_s)})")
        else:
            parts.append(f"{each.name} {value if isinstance(value, int) else f'{value:.4g}'}")
    return ", ".join(parts)
