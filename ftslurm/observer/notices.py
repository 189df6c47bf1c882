"""Which entries of a journal are occasions to tell somebody, and the sentence for each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ftslurm.core.actions import EndRun, ReleaseRanks
from ftslurm.core.conditions import NodeHealth
from ftslurm.core.events import AllocationGranted, Phase
from ftslurm.core.health import Level
from ftslurm.insight.facts import actions, given_up, says, verdict_of
from ftslurm.insight.text import count, visible

if TYPE_CHECKING:
    from ftslurm.journal import Entry
    from ftslurm.observe_section import Occasion

LONGEST = 2000
_ENDS: dict[Phase, Occasion] = {Phase.FINISHED: "finished", Phase.FAILED: "failed"}


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that somebody may want to know; `text` is one line that no terminal, mail or chat obeys."""

    occasion: Occasion
    t: float
    text: str


class Noticing:
    """Goes through the entries in order."""

    def __init__(self) -> None:
        self._nodes: tuple[str, ...] = ()
        self._excluded: set[str] = set()
        self._said: set[str] = set()
        self._begun = self._failed = False

    def see(self, entry: Entry) -> list[Notice]:
        """Return the occasions in an entry."""
        return [Notice(occasion, entry.t, visible(text)[:LONGEST]) for occasion, text in self._found(entry)]

    def _found(self, entry: Entry) -> Iterator[tuple[Occasion, str]]:
        event = entry.event
        if isinstance(event, AllocationGranted):
            self._nodes = event.nodes
        lost = given_up(entry, self._nodes, self._excluded)
        self._excluded |= {verdict.where for verdict in lost}
        for found in lost:
            yield "node_excluded", f"{found.where} is given up: {found.reason}"
        for said in says(entry):
            verdict = verdict_of(said)
            if verdict is not None and verdict.where not in self._excluded and said.text not in self._said:
                self._said.add(said.text)
                self._failed = True
                yield "failure", f"{verdict.cause}: {verdict.reason}"
        self._failed = self._failed or bool(lost)
        if isinstance(event, NodeHealth) and event.level is not Level.HEALTHY:
            yield "node_health", f"{event.node} is {event.level}: {event.reason}"
        for release in actions(entry, ReleaseRanks):
            if not release.again:
                yield from self._released(release)
        if entry.phase == Phase.REQUEUED:
            yield "requeued", "the job goes back to the queue"
        for end in actions(entry, EndRun):
            if end.phase is not Phase.REQUEUED:
                yield _ENDS.get(end.phase, "stopped"), f"{end.phase}, exit code {end.code}: {end.reason}"

    def _released(self, release: ReleaseRanks) -> Iterator[tuple[Occasion, str]]:
        source = f"from step {release.step}" if release.checkpoint else "from the beginning"
        ranks = count(len(release.placement), "rank")
        nodes = count(len(set(release.placement)), "node")
        if self._failed:
            yield "recovered", f"attempt {release.attempt} trains again: {ranks} on {nodes}, {source}"
        elif not self._begun:
            yield "started", f"the training begins: {ranks} on {nodes}, {source}"
        self._begun, self._failed = True, False
        self._said.clear()
