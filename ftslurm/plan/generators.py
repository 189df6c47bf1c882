"""Where faults come from in a simulation: generators of outages, from the simplest to what a fleet has really shown.

    Exponential  equal nodes that fail independently of each other and of their past
    Weibull      the same with clusters in time: gaps of the fleet with shape 0.62 (InfiniteHBD trace)
    Lemons       15 % of the nodes fail five times as often (AIReSim's default)
    Clustered    nodes of different quality, relapses after a repair, bursts at one moment, good and bad fortnights
    Replay       what has happened, again

Rules: a generator of random numbers is an argument, so that a seed gives the same outages anywhere; nodes are numbers
from 0; a node that is out does not fail. A rate is in failures per 1,000 node-days of nodes that are up.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from random import Random
from statistics import NormalDist
from typing import Protocol

from ftslurm.core.lemons import DAY_S
from ftslurm.plan.trace import WHEN, Outage, Trace

HOUR_S = 3600.0
WEEK_S = 7 * DAY_S
"""A fault so soon after a repair is a relapse; what happened before is forgotten."""
PERIOD_S = 14 * DAY_S
"""For so long a fleet has the same good or bad time."""
WARM_UP_S = 28 * DAY_S
"""So long before the beginning outages are drawn, and left out, so that their relapses are not missed."""
_TRIES = 100
"""So often a delay of less than a day is drawn; a distribution that has none would be asked for ever."""


class Generator(Protocol):
    """Makes the outages of one run."""

    def outages(self, nodes: int, span_s: float, dice: Random) -> Sequence[Outage]:
        """The outages of `nodes` nodes that begin before `span_s` seconds, in the order of their beginning."""
        ...


@dataclass(frozen=True, slots=True)
class Lognormal:
    """A time with a long tail, by its median and its mean, in seconds; equal, they make it a constant.

    `longest_s` cuts the tail: what would be longer takes so long. The mean is that of what is left.

    Raises:
        ValueError: a median that is not positive, a mean below it, or half as long as the longest or more.
    """

    median_s: float
    mean_s: float
    longest_s: float = math.inf

    def __post_init__(self) -> None:
        if not 0 < self.median_s <= self.mean_s < self.longest_s / 2:
            raise ValueError(
                f"a median of {self.median_s:g} s, a mean of {self.mean_s:g} s and at most {self.longest_s:g} s are "
                "not lognormal"
            )

    def draw(self, dice: Random) -> float:
        """One such time, to the millisecond."""
        sigma = _sigma(self.median_s, self.mean_s, self.longest_s)
        return round(min(dice.lognormvariate(math.log(self.median_s), sigma), self.longest_s), 3)


@lru_cache(maxsize=64)
def _sigma(median_s: float, mean_s: float, longest_s: float) -> float:
    """The spread of the logarithm: closed where nothing is cut, else by bisection of E[min(X, longest)]."""
    sigma = math.sqrt(2 * math.log(mean_s / median_s))
    if math.isinf(longest_s) or sigma == 0:
        return sigma
    low, high, far, normal = sigma, 40.0, math.log(longest_s / median_s), NormalDist()
    for _ in range(60):
        sigma = (low + high) / 2
        below = math.exp(min(sigma**2 / 2, 700.0)) * normal.cdf(far / sigma - sigma)
        cut = median_s * below + longest_s * normal.cdf(-far / sigma)
        low, high = (sigma, high) if cut < mean_s else (low, sigma)
    return sigma


REPAIR = Lognormal(20.4 * HOUR_S, 132.8 * HOUR_S)
"""Of the InfiniteHBD trace (arXiv 2502.03885; 584 faults in 348 days)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exponential:
    """Equal, independent nodes without a memory."""

    per_1000_node_days: float
    repair: Lognormal = REPAIR

    def __post_init__(self) -> None:
        _check_rate(self.per_1000_node_days)

    def outages(self, nodes: int, span_s: float, dice: Random) -> list[Outage]:
        """One stream of faults for the fleet; one that hits a node that is out is none, as there is no memory."""
        rate = nodes * _per_second(self.per_1000_node_days)
        return _spread(_poisson(rate, 0.0, span_s, dice), lambda: int(nodes * dice.random()), self.repair, dice)


@dataclass(frozen=True, slots=True, kw_only=True)
class Weibull:
    """Clusters in time alone: the gaps between the faults of the whole fleet have a shape below 1."""

    per_1000_node_days: float
    shape: float = 0.62
    repair: Lognormal = REPAIR

    def __post_init__(self) -> None:
        _check_rate(self.per_1000_node_days)
        if not 0.1 <= self.shape <= 10:
            raise ValueError(f"a Weibull shape of {self.shape:g} is not between 0.1 and 10")

    def outages(self, nodes: int, span_s: float, dice: Random) -> list[Outage]:
        """A renewal process for the fleet, each fault on any of its nodes."""
        rate = nodes * _per_second(self.per_1000_node_days)
        return _spread(self._moments(rate, span_s, dice), lambda: int(nodes * dice.random()), self.repair, dice)

    def _moments(self, rate: float, span_s: float, dice: Random) -> Iterator[float]:
        if rate <= 0:
            return
        scale, at = 1 / (rate * math.gamma(1 + 1 / self.shape)), 0.0
        while (at := at + dice.weibullvariate(scale, self.shape)) < span_s:
            yield at


@dataclass(frozen=True, slots=True, kw_only=True)
class Lemons:
    """A share of the nodes fails `factor` times as often as the others; the rate is that of the whole fleet."""

    per_1000_node_days: float
    share: float = 0.15
    factor: float = 5.0
    repair: Lognormal = REPAIR

    def __post_init__(self) -> None:
        _check_rate(self.per_1000_node_days)
        if not (0 <= self.share <= 1 and 0 < self.factor < math.inf):
            raise ValueError(f"{self.share:g} of the nodes cannot be {self.factor:g} times as bad")

    def outages(self, nodes: int, span_s: float, dice: Random) -> list[Outage]:
        """As Exponential, but which nodes are bad is drawn first."""
        bad = round(self.share * nodes)
        order = dice.sample(range(nodes), nodes)
        hits_bad = bad * self.factor / (bad * self.factor + nodes - bad) if nodes else 0.0

        def pick() -> int:
            first, count = (0, bad) if dice.random() < hits_bad else (bad, nodes - bad)
            return order[first + int(count * dice.random())]

        rate = nodes * _per_second(self.per_1000_node_days)
        return _spread(_poisson(rate, 0.0, span_s, dice), pick, self.repair, dice)


@dataclass(frozen=True, slots=True, kw_only=True)
class Clustered:
    """What a fleet has shown; the defaults are fitted to the InfiniteHBD trace's first 174 days.

    Nodes that fail at one moment have one cause: they are repaired together, and what comes back comes back for all.

    Attributes:
        per_1000_node_days: all faults, relapses and bursts included.
        relapse: the chance that a node fails again within a week after a repair, if it had been well before.
        again: the same after a relapse.
        soon: of the relapses, those within a day; the others come at any time of the week.
        delay: from a repair to a relapse within a day.
        hasty: how long repairs take that a relapse follows, as a part of the others.
        burst_share: of the moments at which nodes fail, those at which several do.
        burst_size: how many they are then, in the mean; at least 2.
        quality: the shape of the gamma distribution of the nodes' own rates; infinite: they are equal.
        steadiness: the same of the fleet's rate from one fortnight to the next.
        fleet: a smaller number of nodes is taken from a fleet of this size, so that a burst hits few of them.
        repair: how long nodes are out, over all outages.
    """

    per_1000_node_days: float
    relapse: float = 0.25
    again: float = 0.5
    soon: float = 0.74
    delay: Lognormal = Lognormal(1.6 * HOUR_S, 4.4 * HOUR_S)
    hasty: float = 0.36
    burst_share: float = 0.11
    burst_size: float = 3.6
    quality: float = 4.1
    steadiness: float = 2.2
    fleet: int = 400
    repair: Lognormal = REPAIR

    def __post_init__(self) -> None:
        _check_rate(self.per_1000_node_days)
        shares = (self.relapse, self.again, self.burst_share)
        if not (all(0 <= each < 1 for each in shares) and 0 <= self.soon <= 1):
            raise ValueError(f"relapse, again, burst_share and soon lie between 0 and 1, not {(*shares, self.soon)}")
        if not (2 <= self.burst_size < math.inf and self.quality > 0 and self.steadiness > 0 and self.fleet > 0):
            raise ValueError("a burst has at least 2 nodes, quality, steadiness and fleet are more than 0")
        if not (self.delay.median_s <= DAY_S and 0 < self.hasty < math.inf):
            raise ValueError("half of the early relapses come within a day at least, and hasty is more than 0")

    def outages(self, nodes: int, span_s: float, dice: Random) -> list[Outage]:
        """Moments at which nodes fail, who fails then, and what follows for all of them."""
        fleet = max(nodes, self.fleet)
        pick = self._picker(fleet, dice)
        quiet_since: dict[int, float] = {}
        found: list[Outage] = []
        for at in self._moments(fleet, -WARM_UP_S, span_s, dice):
            size = self._size(dice)
            chain = self._chain(at, "burst" if size > 1 else "fault", dice)
            for node in {pick() for _ in range(size)} if size > 1 else (pick(),):
                if node < nodes and quiet_since.get(node, -math.inf) <= at:
                    found += [Outage(node, *each) for each in chain]
                    quiet_since[node] = found[-1].end_s
        return sorted((each for each in found if 0 <= each.at_s < span_s), key=WHEN)

    def _picker(self, nodes: int, dice: Random) -> Callable[[], int]:
        if math.isinf(self.quality):
            return lambda: int(nodes * dice.random())
        edges = list(accumulate(dice.gammavariate(self.quality, 1.0) for _ in range(nodes)))
        return lambda: min(bisect_right(edges, edges[-1] * dice.random()), nodes - 1)

    def _moments(self, nodes: int, start_s: float, span_s: float, dice: Random) -> Iterator[float]:
        """Poisson within a fortnight, with a factor that is drawn for each of them."""
        burst = 1 + self.burst_share * (self.burst_size - 1)
        rate = nodes * _per_second(self.per_1000_node_days) / (self._length * burst)
        while start_s < span_s:
            end_s = min(start_s + PERIOD_S, span_s)
            shape = self.steadiness
            factor = 1.0 if math.isinf(shape) else dice.gammavariate(shape, 1 / shape)
            yield from _poisson(rate * factor, start_s, end_s, dice)
            start_s = end_s

    @property
    def _length(self) -> float:
        """A fault and the relapses that follow from it, in the mean."""
        return 1 + self.relapse / (1 - self.again)

    def _size(self, dice: Random) -> int:
        """1, or in a burst 2 and a geometric number more."""
        if dice.random() >= self.burst_share:
            return 1
        more = self.burst_size - 2
        return 2 + (int(math.log(1 - dice.random()) / math.log(more / (1 + more))) if more > 0 else 0)

    def _chain(self, at: float, kind: str, dice: Random) -> list[tuple[float, float, str]]:
        """When nodes fail and how long they are out, again and again; a relapse makes the next one likelier."""
        whole = self._length / (1 + self.hasty * (self._length - 1))
        chain, chance = [], self.relapse
        while dice.random() < chance:
            repair_s = round(whole * self.hasty * self.repair.draw(dice), 3)
            chain.append((at, repair_s, kind))
            at, kind, chance = round(at + repair_s + self._delay(dice), 3), "relapse", self.again
        chain.append((at, round(whole * self.repair.draw(dice), 3), kind))
        return chain

    def _delay(self, dice: Random) -> float:
        if dice.random() >= self.soon:
            return dice.uniform(DAY_S, WEEK_S)
        for _ in range(_TRIES):
            delay_s = self.delay.draw(dice)
            if delay_s <= DAY_S:
                return delay_s
        return dice.uniform(0.0, DAY_S)


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """A trace again: all of its nodes exactly, or fewer of them, drawn by chance."""

    trace: Trace

    def outages(self, nodes: int, span_s: float, dice: Random) -> list[Outage]:
        """What the trace has.

        Raises:
            ValueError: more nodes or a longer time than the trace has.
        """
        if nodes > self.trace.nodes or span_s > self.trace.span_s:
            raise ValueError(
                f"the trace has {self.trace.nodes} nodes in {self.trace.span_s / DAY_S:.1f} days: {nodes} nodes in "
                f"{span_s / DAY_S:.1f} days cannot be replayed from it"
            )
        if nodes == self.trace.nodes:
            return [each for each in self.trace.outages if each.at_s < span_s]
        place = {node: number for number, node in enumerate(sorted(dice.sample(range(self.trace.nodes), nodes)))}
        kept = (each for each in self.trace.outages if each.node in place and each.at_s < span_s)
        return [each._replace(node=place[each.node]) for each in kept]


def _check_rate(rate: float) -> None:
    if not 0 <= rate < math.inf:
        raise ValueError(f"a rate of {rate:g} failures per 1000 node-days there is not")


def _per_second(per_1000_node_days: float) -> float:
    return per_1000_node_days / (1000 * DAY_S)


def _poisson(rate: float, start_s: float, end_s: float, dice: Random) -> Iterator[float]:
    """The moments of a Poisson process, to the millisecond."""
    if rate <= 0:
        return
    at = start_s
    while (at := at + dice.expovariate(rate)) < end_s:
        yield math.floor(at * 1000) / 1000  # down, so that none lies at the end


def _spread(moments: Iterable[float], pick: Callable[[], int], repair: Lognormal, dice: Random) -> list[Outage]:
    """An outage at each of the moments, on the node that is picked, unless that is out."""
    up_at: dict[int, float] = {}
    found = []
    for at in moments:
        node = pick()
        if up_at.get(node, 0.0) <= at:
            found.append(Outage(node, at, repair.draw(dice), "fault"))
            up_at[node] = found[-1].end_s
    return found
