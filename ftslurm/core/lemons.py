"""Which nodes fail more often than chance allows, from marks that runs have left about them. Pure statistics.

A mark says that a node was given up, as for a hardware fault. Were all nodes equal, the marks of one would be
Poisson(rate x window). A node is a *lemon* when it has so many in 7 or in 28 days that fewer than `CHANCE` nodes of the
whole fleet would reach that number by chance in either window (Bonferroni). So the number follows from rate and
fleet: two in a week among 400 nodes, three among some thousands; a single one never. The rate is the published one, or
what was observed, whichever is larger: too low a rate would make lemons of unlucky nodes.

A lemon stays one for 28 days after its last mark. Then it is back on probation, where one mark is enough, for 28 more.
Marks of one node within an hour are one outage that several runs saw; marks of many nodes within a minute have a common
cause (a switch, a storage server) and say nothing about the nodes. Most faults fall on nodes without any history:
this rule takes the repeat offenders out and promises no more (`scripts/bench ledger`).
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from ftslurm.core import xids
from ftslurm.core.diagnosis import Cause
from ftslurm.core.pricing import FAILURES_PER_NODE_DAY

DAY_S = 86400.0
WINDOWS_DAYS = (7.0, 28.0)
DECAY_DAYS = 28.0
CHANCE = 0.5
"""How many nodes of the fleet may look like lemons by chance alone."""
LEAST_MARKS = 2
PRIOR_NODE_DAYS = 1000.0
SHARE = 0.05
"""The largest part of a partition that is ever left out; one node may be, however small the partition."""
SAME_OUTAGE_S = 3600.0
SAME_MOMENT_S = 60.0


class Evidence(StrEnum):
    """HARD: a component or Slurm itself said so. SOFT: the node was silent, or would not obey."""

    HARD = "hard"
    SOFT = "soft"


_WEIGHTS: dict[str, tuple[Evidence, float]] = {
    Cause.NODE_DOWN: (Evidence.HARD, 1.0),
    Cause.GPU: (Evidence.HARD, 1.0),
    Cause.NODE_UNHEALTHY: (Evidence.HARD, 1.0),
    Cause.FABRIC: (Evidence.SOFT, 1.0),
    Cause.NODE_UNREACHABLE: (Evidence.SOFT, 1.0),
    Cause.NODE_FROZEN: (Evidence.SOFT, 1.0),
    Cause.NODE_UNKILLABLE: (Evidence.SOFT, 0.5),
}
"""Causes that leave a mark. What the program did, what was asked for, and a healthy node that Slurm itself took out of
the job leave none. Processes that cannot be killed mean storage as often as a bad node."""

_OMEN = (Evidence.HARD, 0.25)
"""Errors of a GPU that a run goes on with, but that come before failures: a quarter of a mark, and never a relapse."""


class Standing(StrEnum):
    """What a ledger says of a node."""

    CLEAN = "clean"
    MARKED = "marked"
    PROBATION = "probation"
    LEMON = "lemon"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A node was given up, or (with a light weight) gave an omen. `at` is in seconds since the epoch."""

    node: str
    at: float
    cause: str
    evidence: Evidence = Evidence.SOFT
    weight: float = 1.0
    run: str = ""
    job: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forgiveness:
    """Marks of a node up to `at` count no more: it was repaired."""

    node: str
    at: float
    reason: str = ""
    by: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One node: its marks that have not decayed, the last of all, and what follows."""

    node: str
    standing: Standing
    reason: str
    marks: int
    score: float
    last: Mark


def mark_of(cause: str) -> tuple[Evidence, float] | None:
    """Return how a cause counts against its node; None: not at all."""
    return _WEIGHTS.get(cause)


def mark_of_xid(code: int) -> tuple[Evidence, float] | None:
    """Return how an error of a GPU's driver counts against its node while the node is not given up for it."""
    return _OMEN if code in xids.LEMON else None


def poisson_tail(count: int, mean: float) -> float:
    """Return the probability of at least `count` events where `mean` are expected."""
    if count <= 0:
        return 1.0
    term = below = math.exp(-mean)
    for number in range(1, count):
        term *= mean / number
        below += term
    # From the other end where little is left: 1 - below would cancel.
    if below < 0.9:
        return 1.0 - below
    term *= mean / count
    tail = 0.0
    while term > tail * 1e-16:
        tail += term
        count += 1
        term *= mean / count
    return tail


def marks_of_a_lemon(rate_per_day: float, window_days: float, nodes: int) -> int:
    """Return how many marks within a window make a lemon among so many nodes."""
    tests = max(nodes, 1) * len(WINDOWS_DAYS)
    count = LEAST_MARKS
    while poisson_tail(count, rate_per_day * window_days) * tests > CHANCE:
        count += 1
    return count


def rate_of(marks: Sequence[Mark], now: float, nodes: int) -> float:
    """Return the faults of a node per day: the posterior mean over the last 28 days, never below the published rate.

    Every node counts as watched all the time, which is too much; the published rate is the floor for that reason.
    """
    recent = sum(each.weight for each in marks if 0 <= now - each.at <= DECAY_DAYS * DAY_S)
    prior = FAILURES_PER_NODE_DAY * PRIOR_NODE_DAYS
    return max((prior + recent) / (PRIOR_NODE_DAYS + nodes * DECAY_DAYS), FAILURES_PER_NODE_DAY)


def judge(marks: Iterable[Mark], forgiven: Iterable[Forgiveness], now: float, nodes: int) -> tuple[Record, ...]:
    """Return every node that has ever been marked, worst first.

    Args:
        marks: all marks that are known, in any order.
        forgiven: what was forgiven.
        now: seconds since the epoch.
        nodes: the size of the fleet that the marks come from.
    """
    amnesty: dict[str, float] = {}
    for each in forgiven:
        amnesty[each.node] = max(each.at, amnesty.get(each.node, each.at))
    order = lambda each: (each.at, each.node, each.weight, each.cause, each.run, each.reason)  # noqa: E731
    known = sorted((each for each in marks if each.at <= now), key=order)
    single = _without_common_causes(known, nodes)
    rate = rate_of(single, now, nodes)
    wanted = {days: marks_of_a_lemon(rate, days, nodes) for days in WINDOWS_DAYS}
    last = {each.node: each for each in known}
    counted: dict[str, list[Mark]] = {node: [] for node in last}
    for mark in single:
        if mark.at > amnesty.get(mark.node, -math.inf):
            counted[mark.node].append(mark)
    found = [_record(node, _outages(counted[node]), now, wanted, last=last[node]) for node in sorted(last)]
    return tuple(sorted(found, key=lambda each: (-list(Standing).index(each.standing), -each.score, each.node)))


def _without_common_causes(marks: Sequence[Mark], nodes: int) -> list[Mark]:
    """Leave out marks that came with those of many other nodes: more than one, and more than the share, in a minute."""
    most = max(1, int(SHARE * nodes))
    times = [each.at for each in marks]
    kept = []
    for each in marks:
        first = bisect_left(times, each.at - SAME_MOMENT_S)
        end = bisect_right(times, each.at + SAME_MOMENT_S)
        if len({other.node for other in marks[first:end]}) <= most:
            kept.append(each)
    return kept


def _outages(marks: Sequence[Mark]) -> list[Mark]:
    """One mark an outage: the first of those within an hour, with the weight of the heaviest."""
    kept: list[Mark] = []
    for each in marks:
        if not kept or each.at - kept[-1].at > SAME_OUTAGE_S:
            kept.append(each)
        elif each.weight > kept[-1].weight:
            kept[-1] = replace(kept[-1], weight=each.weight)
    return kept


def _record(node: str, marks: Sequence[Mark], now: float, wanted: dict[float, int], *, last: Mark) -> Record:
    recent = [each for each in marks if now - each.at <= DECAY_DAYS * DAY_S]
    score = sum(each.weight * 0.5 ** ((now - each.at) / (DECAY_DAYS * DAY_S)) for each in marks)
    standing, reason = _standing(marks, now, wanted)
    return Record(node=node, standing=standing, reason=reason, marks=len(recent), score=round(score, 4), last=last)


def _standing(marks: Sequence[Mark], now: float, wanted: dict[float, int]) -> tuple[Standing, str]:
    """Walk through the marks: each may make a lemon, or bring one back that was on probation."""
    if not marks:
        return Standing.CLEAN, "no mark counts"
    flagged, why = -math.inf, ""
    for index, each in enumerate(marks):
        found = _flagged(marks[: index + 1], wanted)
        if not found and each.weight > _OMEN[1] and each.at - flagged <= 2 * DECAY_DAYS * DAY_S:
            found = "marked again while it was a lemon, or on probation"
        if found:
            flagged, why = each.at, found
    age_days = (now - flagged) / DAY_S
    if age_days <= DECAY_DAYS:
        return Standing.LEMON, f"{why}; counts for {DECAY_DAYS - age_days:.0f} more days"
    if age_days <= 2 * DECAY_DAYS:
        return Standing.PROBATION, f"was a lemon {age_days:.0f} days ago; one more mark excludes it"
    if now - marks[-1].at <= DECAY_DAYS * DAY_S:
        return Standing.MARKED, f"last marked {(now - marks[-1].at) / DAY_S:.0f} days ago; no more than chance"
    return Standing.CLEAN, "its marks have decayed"


def _flagged(marks: Sequence[Mark], wanted: dict[float, int]) -> str:
    """Return why the node is a lemon at the time of the last of these marks, or nothing."""
    for days, count in wanted.items():
        inside = [each for each in marks if marks[-1].at - each.at <= days * DAY_S]
        if sum(each.weight for each in inside) >= count:
            return f"{len(inside)} faults within {days:g} days, where {count} are more than chance"
    return ""


def to_exclude(records: Sequence[Record], partition: Collection[str], asked: int) -> tuple[Record, ...]:
    """Return the lemons that a job for `asked` nodes leaves out, worst first.

    Never more than the share of the partition, and never so many that the job could not run.
    """
    most = min(max(1, int(SHARE * len(partition))), max(len(partition) - asked, 0))
    return tuple(each for each in records if each.standing is Standing.LEMON and each.node in partition)[:most]
