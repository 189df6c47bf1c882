"""What each node did when, from the journal: worked in an attempt, was held idle, was lost; and what happened to it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from ftslurm.core.actions import LaunchAttempt
from ftslurm.core.events import ENDED, AllocationGranted, Phase, RankExited
from ftslurm.insight.facts import actions, begins_incarnation, given_up

if TYPE_CHECKING:
    from ftslurm.insight.incident import Incident
    from ftslurm.journal import Entry


class Role(StrEnum):
    """What a node of the job is to the run; until the first attempt all of them work for its start."""

    WORKS = "works"
    HELD = "held"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Stretch:
    """A time, in epoch seconds, in which a node had one role."""

    node: str
    start: float
    end: float
    role: Role


@dataclass(frozen=True, slots=True)
class Mark:
    """A failure at one moment; `node` is empty where it was none of one node's."""

    t: float
    node: str
    label: str


class _Roles:
    """Follows the roles while the entries go by."""

    def __init__(self) -> None:
        self._now: dict[str, tuple[float, Role]] = {}
        self._nodes: tuple[str, ...] = ()
        self._lost: dict[str, None] = {}
        self.stretches: list[Stretch] = []

    def see(self, entry: Entry) -> None:
        event = entry.event
        if isinstance(event, AllocationGranted) and begins_incarnation(entry):
            self._over(entry.t)
            self._nodes = event.nodes
            self._lost.clear()
            for node in event.nodes:
                self._set(node, entry.t, Role.WORKS)
        for verdict in given_up(entry, self._nodes, self._lost):
            self._lost[verdict.where] = None
            self._set(verdict.where, entry.t, Role.LOST)
        for launch in actions(entry, LaunchAttempt):
            for node in self._nodes:
                if node not in self._lost:
                    self._set(node, entry.t, Role.WORKS if node in launch.nodes else Role.HELD)
        if entry.phase in ENDED or entry.phase == Phase.REQUEUED:
            self._over(entry.t)

    def _set(self, node: str, t: float, role: Role) -> None:
        known = self._now.get(node)
        if known is not None and known[1] is role:
            return
        self._end(node, t)
        self._now[node] = (t, role)

    def _end(self, node: str, t: float) -> None:
        known = self._now.pop(node, None)
        if known is not None and t > known[0]:
            self.stretches.append(Stretch(node, known[0], t, known[1]))

    def _over(self, t: float) -> None:
        for node in list(self._now):
            self._end(node, t)

    def until(self, t: float) -> list[Stretch]:
        self._over(t)
        return self.stretches


def stretches(entries: Iterable[Entry], until: float) -> list[Stretch]:
    """Return every node's stretches, in the order in which they ended."""
    roles = _Roles()
    for entry in entries:
        roles.see(entry)
    return roles.until(until)


def marks(entries: Iterable[Entry], incidents: Sequence[Incident]) -> list[Mark]:
    """Return the failures: what each incident was about, and the first rank of an attempt that failed on each node."""
    found = [
        Mark(incident.sign, said.where.rpartition("@")[2], said.cause)
        for incident in incidents
        for said in incident.judgements[:1]
    ]
    known = {(mark.node, round(mark.t)) for mark in found}
    told: set[tuple[int, str]] = set()
    for entry in entries:
        event = entry.event
        if not isinstance(event, RankExited) or not (event.code or event.signal):
            continue
        if (event.attempt, event.node) not in told and (event.node, round(entry.t)) not in known:
            told.add((event.attempt, event.node))
            # What ends while an attempt is being stopped was ended by it.
            if entry.phase in (Phase.TRAINING, Phase.SUSPECTING, Phase.STOPPING) and entry.actions:
                found.append(Mark(entry.t, event.node, f"rank {event.rank} ended"))
    return sorted(found, key=lambda mark: (mark.t, mark.node))


def order(found: Sequence[Stretch], marked: Sequence[Mark], most: int) -> tuple[list[str], int]:
    """Return the nodes to show, at most so many, in the order of their names, and how many are left out.

    Nodes that something happened to come before all others.
    """
    nodes = sorted({each.node for each in found}, key=_by_number)
    if len(nodes) <= most:
        return nodes, 0
    special = {mark.node for mark in marked} | {each.node for each in found if each.role is not Role.WORKS}
    chosen = set([node for node in nodes if node in special][:most])
    chosen |= set([node for node in nodes if node not in special][: most - len(chosen)])
    return [node for node in nodes if node in chosen], len(nodes) - len(chosen)


def _by_number(node: str) -> list[tuple[int, str]]:
    """Where a node stands in a list: n2 comes before n10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"([0-9]+)", node)]
