"""What outages look like in numbers: how many, how unevenly spread over nodes and time, how soon they come back.

The same numbers are taken of a trace and of what a generator has drawn, over as many nodes and as long a time, so that
what an end of the observation cuts off is cut off in both.
"""

from __future__ import annotations

import math
import statistics
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from ftslurm.core.lemons import DAY_S, SAME_MOMENT_S
from ftslurm.plan.trace import Outage


@dataclass(frozen=True, slots=True, kw_only=True)
class Measures:
    """Outages in numbers. A number that nothing is there to take from is NaN.

    Attributes:
        rate: faults in 1,000 node-days of all nodes, up or not.
        dispersion: variance of the nodes' counts over their mean; 1 for equal, independent nodes.
        within_day: the share of repairs after which the node fails again within a day.
        within_week: within 7 days.
        top_5: the share of the faults on the 5 % of the nodes that have most.
        top_10: on 10 %.
        top_20: on 20 %.
        gap_variation: standard deviation of the gaps between the fleet's faults over their mean; 1 for Poisson.
        together: the share of the faults that come within a minute of one on another node.
        out: the share of the nodes' time that they are out.
        repair_h: the median of the outages that are over, in hours.
    """

    rate: float
    dispersion: float
    within_day: float
    within_week: float
    top_5: float
    top_10: float
    top_20: float
    gap_variation: float
    together: float
    out: float
    repair_h: float


def measure(outages: Sequence[Outage], nodes: int, span_s: float) -> Measures:
    """Return the numbers of these outages of so many nodes in so long a time; the outages are in order."""
    counts = sorted(Counter(each.node for each in outages).values(), reverse=True)
    top = {share: sum(counts[: round(share * nodes)]) for share in (0.05, 0.1, 0.2)}
    returns, repaired = returns_s(outages, span_s), sum(1 for each in outages if each.end_s <= span_s)
    fleet = gaps_s(outages)
    repairs = repairs_s(outages, span_s)
    return Measures(
        rate=1000 * len(outages) / (nodes * span_s / DAY_S),
        dispersion=_dispersion(counts, nodes),
        within_day=_share(sum(each <= DAY_S for each in returns), repaired),
        within_week=_share(sum(each <= 7 * DAY_S for each in returns), repaired),
        top_5=_share(top[0.05], len(outages)),
        top_10=_share(top[0.1], len(outages)),
        top_20=_share(top[0.2], len(outages)),
        gap_variation=statistics.stdev(fleet) / statistics.fmean(fleet) if len(fleet) > 1 and any(fleet) else math.nan,
        together=_share(sum(len(each) for each in groups(outages) if len(each) > 1), len(outages)),
        out=out_s(outages, span_s) / (nodes * span_s),
        repair_h=statistics.median(repairs) / 3600 if repairs else math.nan,
    )


def gaps_s(outages: Sequence[Outage]) -> list[float]:
    """The times between one fault of the fleet and the next, in order of time."""
    return [later.at_s - earlier.at_s for earlier, later in pairwise(outages)]


def returns_s(outages: Iterable[Outage], span_s: float) -> list[float]:
    """The times from a repair to the next fault of the same node, where there is one."""
    up_since: dict[int, float] = {}
    found = []
    for each in outages:
        if each.node in up_since:
            found.append(each.at_s - up_since.pop(each.node))
        if each.end_s <= span_s:
            up_since[each.node] = each.end_s
    return found


def repairs_s(outages: Iterable[Outage], span_s: float) -> list[float]:
    """How long the outages were that were over in time."""
    return [each.repair_s for each in outages if each.end_s <= span_s]


def out_s(outages: Iterable[Outage], span_s: float) -> float:
    """The time that nodes were out until the end, all together."""
    return sum(min(each.end_s, span_s) - each.at_s for each in outages)


def groups(outages: Sequence[Outage]) -> Iterator[list[Outage]]:
    """Outages that came together: each within a minute of the one before."""
    group: list[Outage] = []
    for each in outages:
        if group and each.at_s - group[-1].at_s > SAME_MOMENT_S:
            yield group
            group = []
        group.append(each)
    if group:
        yield group


def distance(some: Sequence[float], others: Sequence[float]) -> float:
    """Return the Kolmogorov-Smirnov distance of two samples, each in order; NaN where one is empty.

    Between two values of `some` (the smaller one, for speed) only the others' share grows: so the ends are enough.
    """
    if not some or not others:
        return math.nan
    worst = 0.0
    for value in some:
        for place in (bisect_left, bisect_right):
            worst = max(worst, abs(place(some, value) / len(some) - place(others, value) / len(others)))
    return worst


def _share(part: int, whole: int) -> float:
    return part / whole if whole else math.nan


def _dispersion(counts: Sequence[int], nodes: int) -> float:
    """Variance over mean of the counts of all nodes, those without a fault included."""
    total = sum(counts)
    if not total or nodes < 2:
        return math.nan
    mean = total / nodes
    squares = sum((count - mean) ** 2 for count in counts) + (nodes - len(counts)) * mean**2
    return squares / (nodes - 1) / mean
