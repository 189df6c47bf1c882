"""Generators fitted to a trace, each by the simplest estimate that has a name.

    rate      faults over the node-days in which nodes were up
    repair    the median of all outages (those not over count as longer than it); the mean is all time out over all
              ends; the longest seen
    Weibull   the shape that has the trace's variation of gaps (moments)
    Clustered, from the trace read fault by fault:
      relapse, again  the share of repairs with a fault within a week, less what the rate alone makes; after a fault
                      that was no relapse, and after one that was
      soon, delay     the share of relapses within a day; median and mean of the times from a repair to one of them
      hasty           the mean of repairs that a relapse followed, over that of the others
      burst           the share of moments with several faults that are no relapses, and how many those are
      quality         the variance of the nodes' counts of other faults beyond Poisson's (a gamma by moments)
      steadiness      the same for counts of moments per fortnight

What shows no excess over chance becomes infinite: equal nodes, a steady rate.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from ftslurm.core.lemons import DAY_S
from ftslurm.errors import UsageError
from ftslurm.plan.generators import PERIOD_S, WEEK_S, Clustered, Exponential, Lemons, Lognormal, Weibull
from ftslurm.plan.measures import gaps_s, groups, out_s
from ftslurm.plan.trace import Outage, Trace

Model: TypeAlias = Clustered | Lemons | Weibull | Exponential
LEAST_FAULTS = 20
"""From fewer nothing is fitted."""
_SHORTEST_S = 60.0
_MOST = 0.95


def fit(trace: Trace) -> dict[str, Model]:
    """Return every generator, fitted to the trace, by its name; the most faithful first.

    Raises:
        UsageError: the trace has too few faults.
    """
    if len(trace.outages) < LEAST_FAULTS:
        raise UsageError(f"{len(trace.outages)} faults are too few to fit anything: at least {LEAST_FAULTS} are wanted")
    rate, repair = rate_of(trace), repair_of(trace)
    return {
        "clustered": clustered(trace),
        "lemons": Lemons(per_1000_node_days=rate, repair=repair),
        "weibull": Weibull(per_1000_node_days=rate, shape=shape_of(trace), repair=repair),
        "exponential": Exponential(per_1000_node_days=rate, repair=repair),
    }


def rate_of(trace: Trace) -> float:
    """Faults in 1,000 node-days of nodes that are up."""
    up_s = trace.nodes * trace.span_s - out_s(trace.outages, trace.span_s)
    return 1000 * len(trace.outages) / (up_s / DAY_S)


def repair_of(trace: Trace) -> Lognormal:
    """How long outages take. The mean is what spares follow from, so it counts those that are not over, too.

    None is longer than the longest seen: an uncut tail would hold a quarter of the mean where no trace can see it.
    """
    over = [each.repair_s for each in trace.outages if each.end_s <= trace.span_s]
    if not over:
        raise UsageError("no outage of the trace is over: nothing is known of repairs")
    mean_s = max(out_s(trace.outages, trace.span_s) / len(over), _SHORTEST_S)
    median_s = statistics.median(each.repair_s if each.end_s <= trace.span_s else math.inf for each in trace.outages)
    longest_s = max(min(each.end_s, trace.span_s) - each.at_s for each in trace.outages)
    cut_s = longest_s if mean_s < longest_s / 2 else math.inf
    return Lognormal(min(max(median_s, _SHORTEST_S), mean_s), mean_s, cut_s)


def shape_of(trace: Trace) -> float:
    """The Weibull shape whose variation is that of the gaps between the fleet's faults."""
    gaps = gaps_s(trace.outages)
    variation = statistics.stdev(gaps) / statistics.fmean(gaps)
    low, high = 0.2, 10.0
    for _ in range(50):
        middle = (low + high) / 2
        squares = math.exp(math.lgamma(1 + 2 / middle) - 2 * math.lgamma(1 + 1 / middle)) - 1
        low, high = (middle, high) if squares > variation**2 else (low, middle)
    return round((low + high) / 2, 4)


def clustered(trace: Trace) -> Clustered:
    """The one generator that knows relapses, bursts, bad nodes and bad times."""
    read = _read(trace)
    moments = list(groups(read.fresh))
    several = [len(each) for each in moments if len(each) > 1]
    periods = Counter(int(group[0].at_s // PERIOD_S) for group in moments)
    early = [each for each in read.delays_s if each <= DAY_S]
    return Clustered(
        per_1000_node_days=rate_of(trace),
        relapse=_chance(trace, read, read.after_fresh, read.fresh_out_s),
        again=_chance(trace, read, read.after_relapse, read.relapse_out_s),
        soon=len(early) / len(read.delays_s) if early else 0.0,
        delay=_delay(early),
        hasty=_hasty(read),
        burst_share=len(several) / len(moments),
        burst_size=statistics.fmean(several) if several else 2.0,
        quality=_quality(trace, read),
        steadiness=_gamma_shape([periods[number] for number in range(int(trace.span_s // PERIOD_S))]),
        fleet=trace.nodes,
        repair=repair_of(trace),
    )


@dataclass(slots=True)
class _Read:
    """A trace, fault by fault: which were relapses, and which were followed by one.

    Attributes:
        fresh: faults of nodes that had been well for a week.
        delays_s: from a repair to a relapse.
        after_fresh: for each fresh fault that was over a week before the trace's end, whether a relapse followed.
        after_relapse: the same for relapses.
        fresh_out_s: how long fresh faults have lasted that are not over.
        relapse_out_s: the same of relapses.
        hasty_s: repairs that a relapse followed.
        other_s: the other ones.
        marked_s: how long each node was out or within a week of a repair, when no fault of it is fresh.
    """

    fresh: list[Outage] = field(default_factory=list)
    delays_s: list[float] = field(default_factory=list)
    after_fresh: list[bool] = field(default_factory=list)
    after_relapse: list[bool] = field(default_factory=list)
    fresh_out_s: list[float] = field(default_factory=list)
    relapse_out_s: list[float] = field(default_factory=list)
    hasty_s: list[float] = field(default_factory=list)
    other_s: list[float] = field(default_factory=list)
    marked_s: dict[int, float] = field(default_factory=dict)


def _read(trace: Trace) -> _Read:
    found = _Read()
    ends: dict[int, float] = {}
    following = _next_begins(trace)
    for each, next_s in zip(trace.outages, following, strict=True):
        fresh = each.at_s - ends.get(each.node, -math.inf) > WEEK_S
        ends[each.node] = each.end_s
        follows = next_s - each.end_s <= WEEK_S
        if fresh:
            found.fresh.append(each)
        marked_s = min(each.end_s + WEEK_S, next_s, trace.span_s) - each.at_s
        found.marked_s[each.node] = found.marked_s.get(each.node, 0.0) + marked_s
        if follows:
            found.delays_s.append(next_s - each.end_s)
        if each.end_s + WEEK_S <= trace.span_s:
            (found.after_fresh if fresh else found.after_relapse).append(follows)
        if each.end_s <= trace.span_s:
            (found.hasty_s if follows else found.other_s).append(each.repair_s)
        else:
            (found.fresh_out_s if fresh else found.relapse_out_s).append(trace.span_s - each.at_s)
    return found


def _next_begins(trace: Trace) -> list[float]:
    """For each outage, when the next one of its node begins; infinite where none does."""
    begins: dict[int, float] = {}
    found = []
    for each in reversed(trace.outages):
        found.append(begins.get(each.node, math.inf))
        begins[each.node] = each.at_s
    return found[::-1]


def _chance(trace: Trace, read: _Read, followed: Sequence[bool], out_s: Sequence[float]) -> float:
    """The share that a relapse follows, less what chance alone makes.

    Outages that are not over count, too: they last long, and long repairs are followed less often. Each counts with the
    chance that it will be followed, by how many repairs of either kind lasted longer (Bayes).
    """
    if not followed:
        return 0.0
    share = sum(followed) / len(followed)
    expected = 0.0
    for each in out_s:
        hasty, other = share * _longer(read.hasty_s, each), (1 - share) * _longer(read.other_s, each)
        expected += hasty / (hasty + other) if hasty else 0.0
    share = (sum(followed) + expected) / (len(followed) + len(out_s))
    chance = -math.expm1(-rate_of(trace) / 1000 * WEEK_S / DAY_S)
    return min(max((share - chance) / (1 - chance), 0.0), _MOST)


def _longer(repairs_s: Sequence[float], than_s: float) -> float:
    return sum(each > than_s for each in repairs_s) / len(repairs_s) if repairs_s else 0.0


def _hasty(read: _Read) -> float:
    if not read.hasty_s or not read.other_s:
        return 1.0
    return max(statistics.fmean(read.hasty_s), _SHORTEST_S) / max(statistics.fmean(read.other_s), _SHORTEST_S)


def _delay(delays: Sequence[float]) -> Lognormal:
    if not delays:
        return Lognormal(_SHORTEST_S, _SHORTEST_S)
    median_s = max(statistics.median(delays), _SHORTEST_S)
    return Lognormal(median_s, max(statistics.fmean(delays), median_s))


def _quality(trace: Trace, read: _Read) -> float:
    """The gamma shape of the nodes' rates. For equal ones (count - expected)^2 - expected is 0 in the mean.

    What is expected of a node grows only while a fault of it would be fresh, which keeps that so (a martingale), though
    a node that has failed is watched for a shorter time than one that has not.
    """
    counts = Counter(each.node for each in read.fresh)
    watched_s = [trace.span_s - read.marked_s.get(node, 0.0) for node in range(trace.nodes)]
    rate = len(read.fresh) / sum(watched_s)
    excess = sum((counts[node] - rate * each) ** 2 - rate * each for node, each in enumerate(watched_s))
    return sum((rate * each) ** 2 for each in watched_s) / excess if excess > 0 else math.inf


def _gamma_shape(counts: Sequence[int]) -> float:
    mean = statistics.fmean(counts) if counts else 0.0
    excess = statistics.variance(counts) - mean if len(counts) > 1 else 0.0
    return mean**2 / excess if excess > 0 else math.inf
