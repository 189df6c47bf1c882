"""What has happened to the nodes of a fleet: their faults, and for how long each node was watched.

A rate needs both. Where nobody knows for how long nodes were watched, `exposure` is None: then faults are counted and
compared with each other, and no rate is told. Times are seconds: since the epoch, or since a trace began.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from ftslurm.core.lemons import DAY_S, SAME_MOMENT_S

Span = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A node was out from `at` on. `over`: when it was repaired; infinite: not yet; None: nobody wrote that down.

    `rated`: whether it happened while its node was watched, so that it counts for rates.
    """

    node: str
    at: float
    cause: str
    over: float | None = None
    rated: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where faults were looked for: `words` say what was found there, or why nothing was."""

    name: str
    words: str
    faults: int = 0
    begun: float | None = None
    until: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposure:
    """For how long nodes were watched. With `always`, every one of `nodes` was in that span; else each in its stays.

    `words` name the clock that rates run on.
    """

    nodes: int
    words: str
    always: Span | None = None
    stays: Mapping[str, Sequence[Span]] = field(default_factory=dict)

    def spans(self, node: str) -> Sequence[Span]:
        """When a node was watched."""
        return (self.always,) if self.always else self.stays.get(node, ())

    def node_days(self, node: str) -> float:
        """How many days a node was watched."""
        return sum(until - begun for begun, until in self.spans(node)) / DAY_S

    @property
    def total(self) -> float:
        """The node-days of all."""
        return self.nodes * self.node_days("") if self.always else sum(map(self.node_days, self.stays))


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """Faults in order of time, between `begun` and `until`.

    Attributes:
        faults: all of them.
        begun: when watching began.
        until: when it ended.
        fleet: how many nodes there are, with or without faults; None: unknown.
        exposure: for how long they were watched; None: unknown.
        dated: whether times are those of a calendar.
        sources: where all this comes from.
    """

    faults: tuple[Fault, ...]
    begun: float
    until: float
    fleet: int | None = None
    exposure: Exposure | None = None
    dated: bool = True
    sources: tuple[Source, ...] = ()

    @property
    def span_days(self) -> float:
        """From begin to end."""
        return (self.until - self.begun) / DAY_S

    @property
    def rated(self) -> tuple[Fault, ...]:
        """The faults that count for rates; all of them where there are no rates."""
        return tuple(each for each in self.faults if each.rated or self.exposure is None)

    @property
    def rate(self) -> float | None:
        """Faults a node-day; None where the exposure is unknown."""
        if self.exposure is None or not self.exposure.total:
            return None
        return len(self.rated) / self.exposure.total

    def clock(self, node: str | None = None) -> Clock:
        """The clock of the fleet or of a node: node-days that were watched; plain days where that is unknown."""
        watch = self.exposure
        if watch is None:
            return Clock([(self.begun, self.until)])
        if node is not None:
            return Clock(watch.spans(node))
        if watch.always:
            return Clock([watch.always], watch.nodes)
        return Clock([span for stays in watch.stays.values() for span in stays])


class Clock:
    """Days that were watched by a moment: the time on which faults come evenly while the rate does not change."""

    def __init__(self, spans: Sequence[Span], weight: float = 1.0) -> None:
        """`weight`: how many nodes each span stands for."""
        self._weight = weight
        self._starts, self._ends = sorted(begun for begun, _ in spans), sorted(until for _, until in spans)
        self._sums = [tuple(accumulate(times, initial=0.0)) for times in (self._starts, self._ends)]

    def at(self, t: float) -> float:
        """Node-days by `t`."""
        begun, over = bisect_right(self._starts, t), bisect_right(self._ends, t)
        seconds = (begun - over) * t - (self._sums[0][begun] - self._sums[1][over])
        return max(self._weight * seconds / DAY_S, 0.0)


def by_node(faults: Iterable[Fault]) -> dict[str, list[Fault]]:
    """The faults of each node, in their order."""
    found: dict[str, list[Fault]] = {}
    for each in faults:
        found.setdefault(each.node, []).append(each)
    return found


def moments(faults: Sequence[Fault], within_s: float = SAME_MOMENT_S) -> list[float]:
    """When something failed: faults that soon after each other, of whatever nodes, are one moment with one cause."""
    found: list[float] = []
    for each in faults:
        if not found or each.at - found[-1] > within_s:
            found.append(each.at)
    return found


def joined(spans: Iterable[Span]) -> tuple[Span, ...]:
    """The same time as spans that do not overlap."""
    found: list[Span] = []
    for begun, until in sorted(spans):
        if found and begun <= found[-1][1]:
            found[-1] = (found[-1][0], max(until, found[-1][1]))
        elif until > begun:
            found.append((begun, until))
    return tuple(found)
