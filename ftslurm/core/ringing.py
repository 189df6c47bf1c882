"""The ring of MPI heartbeats: who beats to whom, what a member says of the one it watches, and what its silence counts.

Each member beats to its successor, the next living member, and watches its predecessor: one message an interval for
each node, at any size. A member that is known to be lost is left out, so the ring closes over it.

- The ring is a witness, never a judge. Its silence about a node counts while most of the others are still heard: PMIx
  ends all members at once when one process dies (M5), and that says nothing about any node.
- A beat carries the age of the newest word of the supervisor (or of a majority of the agents) that the sender knows of.
  So a node whose management network is broken learns over the fabric that it has not been given up.
- The ring alone missing a node that TCP hears is evidence against the fabric (`core.fabric`). It excludes nobody.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from ftslurm.core.events import Finding, Outcome, Witness

Mark = tuple[int, int]
"""Which ring: the supervisor's epoch, and the how manieth that it has started."""

INTERVALS = 3.5
SHARE_OF_PATIENCE = 2 / 3


class Heard(StrEnum):
    """How a member hears the one it watches; NEW: not yet, since it began to watch it."""

    NEW = "new"
    OK = "ok"
    SILENT = "silent"


def limit_s(interval_s: float, suspect_after_s: float) -> float:
    """Return the silence of a member that counts: before TCP's own, so that the ring can testify when it is asked."""
    return max(INTERVALS * interval_s, SHARE_OF_PATIENCE * suspect_after_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One member's knowledge. Members are numbers, in the ring's order; moments are on the member's own clock.

    Attributes:
        dead: members that are left out.
        since: when it began to watch the one it watches.
        heard: when each other member was last heard.
        anchor: the moment of the newest word of the supervisor, or of a majority, that came over the ring.
    """

    rank: int
    size: int
    limit_s: float
    since: float
    dead: frozenset[int] = frozenset()
    heard: Mapping[int, float] = field(default_factory=dict)
    anchor: float = -math.inf

    @property
    def successor(self) -> int:
        """Whom to beat to; oneself, when nobody else is left."""
        return self._next(1)

    @property
    def watched(self) -> int:
        """Whose beats to expect; oneself, when nobody else is left."""
        return self._next(-1)

    def _next(self, way: int) -> int:
        around = ((self.rank + way * distance) % self.size for distance in range(1, self.size))
        return next((member for member in around if member not in self.dead), self.rank)


def on_beat(member: Member, sender: int, anchor_age_s: float, now: float) -> Member:
    """Return the member after a beat; one that is left out counts for nothing, also as a bearer of news."""
    if sender in member.dead:
        return member
    return replace(member, heard={**member.heard, sender: now}, anchor=max(member.anchor, now - anchor_age_s))


def without(member: Member, dead: Collection[int], now: float) -> Member:
    """Return the member when these are lost: who comes to be watched has a moment to be heard."""
    changed = replace(member, dead=member.dead | frozenset(dead) - {member.rank})
    return changed if changed.watched == member.watched else replace(changed, since=now)


def says(member: Member, now: float) -> tuple[Heard, float]:
    """Return how the watched member is heard, and for how long it has been silent."""
    last = member.heard.get(member.watched)
    if last is None:
        return Heard.NEW, now - member.since
    silent_s = now - max(last, member.since)
    return (Heard.OK if silent_s <= member.limit_s else Heard.SILENT), silent_s


# ---------------------------------------------------------------------------------------------------------- what counts


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a member said of the one it watches, and when that arrived."""

    by: str
    watched: str
    heard: Heard
    silent_s: float
    at: float


def word_on(node: str, reports: Iterable[Report], now: float, fresh_s: float) -> Finding:
    """Return the ring's word on a node: its successor's, if that is fresh.

    Silence counts only while most of the others are heard, the successor among them: a member whose own way to the
    fabric is broken hears nobody.
    """
    fresh = [report for report in reports if now - report.at <= fresh_s]
    mine = next((report for report in fresh if report.watched == node and report.by != node), None)
    if mine is None:
        return _finding(Outcome.UNKNOWN, "no member of a ring watches it")
    if mine.heard is Heard.NEW:
        return _finding(Outcome.UNKNOWN, f"{mine.by} has not heard it yet")
    if mine.heard is Heard.OK:
        return _finding(Outcome.OK, f"{mine.by} hears it over MPI")
    heard, others = heard_besides(node, fresh)
    silent_s = mine.silent_s + now - mine.at
    text = f"{mine.by} has not heard it over MPI for {silent_s:.1f} s, {heard} of {others} others are heard"
    if 2 * heard <= others or not heard:
        return _finding(Outcome.UNKNOWN, f"{text}: the ring itself may be at fault")
    if not any(report.watched == mine.by and report.heard is Heard.OK for report in fresh):
        return _finding(Outcome.UNKNOWN, f"{text}, but {mine.by} is not heard itself")
    return _finding(Outcome.UNREACHABLE, text)


def heard_besides(node: str, fresh: Iterable[Report]) -> tuple[int, int]:
    """Return how many other members are heard by those who watch them, and of how many somebody speaks."""
    others = [report for report in fresh if node not in (report.watched, report.by)]
    return sum(report.heard is Heard.OK for report in others), len(others)


def _finding(outcome: Outcome, detail: str) -> Finding:
    return Finding(witness=Witness.RING, outcome=outcome, detail=detail)


# ------------------------------------------------------------------------------------------------------------ launching


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How often a ring that ends is started again.

    Attributes:
        start_s: time for every member to be heard.
        pauses_s: waits before each further try in a row; after the last one none follows.
        proven_s: a ring that was up for so long has no failures behind it.
        settle_s: how long the set of nodes must have stayed the same.
    """

    start_s: float = 35.0
    pauses_s: tuple[float, ...] = (2.0, 5.0, 15.0, 60.0, 300.0)
    proven_s: float = 60.0
    settle_s: float = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ring:
    """Where the ring stands: its members (empty: none runs), since when, and the failures in a row before it."""

    nodes: tuple[str, ...] = ()
    launched: float = 0.0
    up: float | None = None
    failures: int = 0
    retry: float = 0.0
    wanted: tuple[str, ...] = ()
    wanted_since: float = 0.0
    given_up: bool = False


def wants(ring: Ring, nodes: tuple[str, ...], now: float) -> Ring:
    """Return the ring after a look at the nodes that it should have now."""
    return ring if nodes == ring.wanted else replace(ring, wanted=nodes, wanted_since=now)


def due(ring: Ring, now: float, patience: Patience) -> bool:
    """Tell whether a ring of the wanted nodes must be started now. One node alone needs none."""
    settled = now - ring.wanted_since >= patience.settle_s and now >= ring.retry
    return not ring.given_up and len(ring.wanted) > 1 and settled and ring.wanted != ring.nodes


def launched(ring: Ring, now: float) -> Ring:
    """Return the ring that has just been started with the wanted nodes."""
    return replace(ring, nodes=ring.wanted, launched=now, up=None)


def failed(ring: Ring, now: float, patience: Patience) -> Ring:
    """Return the ring after its end: how long to wait for the next one, or that there is no next one."""
    before = 0 if ring.up is not None and now - ring.up >= patience.proven_s else ring.failures
    if before == len(patience.pauses_s):
        return replace(ring, nodes=(), up=None, failures=before + 1, given_up=True)
    return replace(ring, nodes=(), up=None, failures=before + 1, retry=now + patience.pauses_s[before])
