"""Everything that the past of a fleet shows, in one record, and that record as plain values for programs."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from ftslurm.core.lemons import DAY_S, SAME_OUTAGE_S
from ftslurm.plan.backtest import AHEAD_DAYS, THE_RULE, TOP, Score, play
from ftslurm.plan.breaks import LEAST_NODE_FAULTS, Break, break_of_a_node, breaks
from ftslurm.plan.hours import ALPHA, WEEK_S, Rhythm, rhythm
from ftslurm.plan.past import Clock, Past, by_node, moments
from ftslurm.plan.ranking import Spread, Standing, causes, ranking, spread
from ftslurm.plan.repeaters import Again, again, offences
from ftslurm.plan.spacing import Spacing, spacing

LEAST_CHECKS = 4
"""A rule is played over the past only where it can be asked so often: after 28 days, with 28 days ahead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Offender:
    """A node that failed again soon after its repair: how often within 1, 7 and 28 days."""

    node: str
    faults: int
    again: tuple[int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Patterns:
    """What there is to say. `breaks` and `node_breaks` are at epoch seconds, or seconds since the trace began.

    `tested_nodes`: how many nodes had enough faults to look for changes of their own.
    """

    past: Past
    causes: tuple[tuple[str, int, int], ...]
    spacing: Spacing | None
    spread: Spread | None
    ranking: tuple[Standing, ...]
    breaks: tuple[Break, ...]
    node_breaks: tuple[tuple[str, Break], ...]
    tested_nodes: int
    again: tuple[Again, ...]
    offenders: tuple[Offender, ...]
    rhythms: tuple[Rhythm, ...]
    rules: tuple[Score, ...]


def analyse(past: Past) -> Patterns:
    """Return all patterns of a past that has at least one fault."""
    rated = past.rated
    told = moments(rated)
    local = [_local(t, past) for t in moments(past.faults, SAME_OUTAGE_S)]
    tested = {node: of for node, of in by_node(rated).items() if len(of) >= LEAST_NODE_FAULTS}
    own = (
        (node, _break_of(past, node, [each.at for each in of_node], len(tested)))
        for node, of_node in sorted(tested.items())
    )
    return Patterns(
        past=past,
        causes=causes(past.faults),
        spacing=spacing([each.at for each in past.faults]),
        spread=spread(past),
        ranking=ranking(past),
        breaks=_breaks(past, told),
        node_breaks=tuple((node, found) for node, found in own if found),
        tested_nodes=len(tested),
        again=again(past),
        offenders=_offenders(past),
        rhythms=tuple(found for period_s in (DAY_S, WEEK_S) if (found := rhythm(local, period_s)) and found.p <= ALPHA),
        rules=_rules(past),
    )


def _breaks(past: Past, told: Sequence[float]) -> tuple[Break, ...]:
    """The fleet's, found on the time in which nodes were watched and told in the time of the calendar."""
    clock = past.clock()
    return tuple(_told(each, told, clock) for each in breaks([clock.at(t) for t in told], clock.at(past.until)))


def _break_of(past: Past, node: str, times: Sequence[float], tested: int) -> Break | None:
    clock = past.clock(node)
    found = break_of_a_node([clock.at(t) for t in times], clock.at(past.until), tested)
    return found and _told(found, times, clock)


def _told(found: Break, times: Sequence[float], clock: Clock) -> Break:
    """A cut lies at a fault: this is when that was."""
    index = bisect_right([clock.at(t) for t in times], found.at) - 1
    return replace(found, at=times[index])


def _local(t: float, past: Past) -> float:
    """Seconds whose day begins at local midnight, and whose week begins on Monday; of a trace, when it began."""
    if not past.dated:
        return t
    import datetime as dt

    here = dt.datetime.fromtimestamp(t).astimezone()
    return here.weekday() * DAY_S + here.hour * 3600.0 + here.minute * 60.0 + here.second


def _offenders(past: Past) -> tuple[Offender, ...]:
    known = by_node(past.faults)
    soon = [offences(known, days) for days in (1.0, 7.0, 28.0)]
    found = [
        Offender(node=node, faults=len(known[node]), again=(soon[0].get(node, 0), soon[1].get(node, 0), count))
        for node, count in soon[2].items()
    ]
    return tuple(sorted(found, key=lambda each: (-each.again[2], -each.again[1], -each.again[0], each.node)))


def _rules(past: Past) -> tuple[Score, ...]:
    since = past.begun + AHEAD_DAYS * DAY_S
    last = since + (LEAST_CHECKS - 1) * 7 * DAY_S
    if not past.fleet or last + AHEAD_DAYS * DAY_S > past.until:
        return ()
    return tuple(play(past, rule, since=since) for rule in (THE_RULE, TOP))


# ---------------------------------------------------------------------------------------------------- for programs


def plain(found: Patterns) -> dict[str, Any]:
    """All of it as JSON's own values: null is unknown, rates are faults in 1,000 node-days."""
    past = found.past
    unit = "1000 node-days" if past.exposure else "day"
    return {
        "sources": [asdict(each) for each in past.sources],
        "begun": past.begun,
        "until": past.until,
        "dated": past.dated,
        "faults": len(past.faults),
        "faults_rated": len(past.rated) if past.exposure else None,
        "fleet": past.fleet,
        "exposure": past.exposure and {"node_days": past.exposure.total, "words": past.exposure.words},
        "rate": _thousand(past.rate),
        "causes": [{"cause": cause, "faults": count, "nodes": nodes} for cause, count, nodes in found.causes],
        "spacing": found.spacing and asdict(found.spacing),
        "spread": found.spread and asdict(found.spread),
        "nodes": [_node(each) for each in found.ranking],
        "changes": [_change(each, past, unit) for each in found.breaks],
        "node_changes": [{"node": node, **_change(each, past, unit)} for node, each in found.node_breaks],
        "nodes_tested_for_changes": found.tested_nodes,
        "again": [{**asdict(each), "share": each.share} for each in found.again],
        "offenders": [asdict(each) for each in found.offenders],
        "rhythms": [asdict(each) for each in found.rhythms],
        "rules": [asdict(each) for each in found.rules],
    }


def _node(each: Standing) -> dict[str, Any]:
    rates = {name: _thousand(getattr(each, name)) for name in ("rate", "low", "high", "expected")}
    return {"node": each.node, "faults": each.faults, "node_days": each.days, **rates, "p": each.p}


def _change(each: Break, past: Past, unit: str) -> dict[str, Any]:
    scale = 1000.0 if past.exposure else 1.0
    return {
        "at": each.at,
        "before": each.before * scale,
        "after": each.after * scale,
        "unit": unit,
        "p": each.p,
        "draws": each.draws,
    }


def _thousand(rate: float | None) -> float | None:
    return None if rate is None or not math.isfinite(rate) else 1000.0 * rate
