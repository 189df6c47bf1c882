"""What a display of a run shows beside its summary: nodes in doubt and nodes that are gone, its pace, what went wrong.

`explain` tells each incident at length, from the whole journal; here the last few are kept, in one line each, so that a
display can follow a run for weeks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ftslurm.core.actions import CommitLocal, EndRun, LaunchAttempt, ProbeNode, ReleaseRanks
from ftslurm.core.diagnosis import Cause
from ftslurm.core.events import AgentUp, NodeHeard, Phase, SlurmReported
from ftslurm.insight.facts import actions, begins_incarnation, forgiven, says, verdict_of
from ftslurm.insight.text import took

if TYPE_CHECKING:
    from ftslurm.core.diagnosis import Diagnosis
    from ftslurm.journal import Entry

KEPT_HAPPENINGS = 5
KEPT_SAVES = 8
_GONE = frozenset(
    {Cause.NODE_UNREACHABLE, Cause.NODE_FROZEN, Cause.NODE_DOWN, Cause.NODE_UNKILLABLE, Cause.EXCISED}
)  # fmt: skip
"""Verdicts after which nothing can be done on a node; the others give up one that still answers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Happening:
    """One verdict, and what followed: `then` is empty, and `over` None, while nothing has."""

    t: float
    cause: str
    where: str
    text: str
    then: str = ""
    over: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Glance:
    """What is to be seen now. `steps_per_s` is between the last checkpoints of the newest attempt; None: not known."""

    suspected: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    steps_per_s: float | None = None
    happenings: tuple[Happening, ...] = ()


@dataclass(slots=True)
class Glancing:
    """Folds a journal's entries."""

    suspected: dict[str, None] = field(default_factory=dict)
    lost: dict[str, None] = field(default_factory=dict)
    saves: list[tuple[float, int]] = field(default_factory=list)
    happenings: list[Happening] = field(default_factory=list)

    def see(self, entry: Entry, given_up: Sequence[Diagnosis]) -> None:
        """Take one entry in; `given_up` are its verdicts that condemn nodes."""
        if begins_incarnation(entry):
            self.suspected.clear()
            self.lost.clear()
        self._nodes(entry, given_up)
        if entry.actions:
            self._judged(entry)
            self._went_on(entry)
        if entry.phase == Phase.REQUEUED:
            self._settle(entry.t, "the job goes back to the queue")

    def now(self) -> Glance:
        """What is to be seen after the entries so far."""
        return Glance(
            suspected=tuple(self.suspected),
            lost=tuple(self.lost),
            steps_per_s=_pace(self.saves),
            happenings=tuple(self.happenings),
        )

    def _nodes(self, entry: Entry, given_up: Sequence[Diagnosis]) -> None:
        event = entry.event
        self.suspected.update((probe.node, None) for probe in actions(entry, ProbeNode))
        if isinstance(event, NodeHeard | AgentUp):
            self.suspected.pop(event.node, None)
            self.lost.pop(event.node, None)
        elif isinstance(event, SlurmReported):
            self.lost.update(dict.fromkeys((*event.gone, *event.down)))
        for verdict in given_up:
            self.suspected.pop(verdict.where, None)
            if verdict.cause in _GONE:
                self.lost[verdict.where] = None
        for node in forgiven(entry):
            self.lost.pop(node, None)

    def _judged(self, entry: Entry) -> None:
        """Remember the verdicts; one that is said again is the same."""
        for said in says(entry):
            verdict = verdict_of(said)
            if verdict is None or any((each.cause, each.text) == (verdict.cause, said.text) for each in self._open()):
                continue
            fresh = Happening(t=entry.t, cause=verdict.cause, where=verdict.where, text=said.text)
            self.happenings = [*self.happenings, fresh][-KEPT_HAPPENINGS:]

    def _went_on(self, entry: Entry) -> None:
        for launch in actions(entry, LaunchAttempt):
            self.saves.clear()
            # A node that is used again is not gone, whatever was thought of it.
            for node in launch.nodes:
                self.lost.pop(node, None)
        self.saves += [(entry.t, commit.step) for commit in actions(entry, CommitLocal)]
        del self.saves[:-KEPT_SAVES]
        for release in actions(entry, ReleaseRanks):
            if not release.again:
                source = f"step {release.step}" if release.checkpoint else "the beginning"
                self._settle(entry.t, f"attempt {release.attempt} trains from {source}")
        for end in actions(entry, EndRun):
            self._settle(entry.t, f"the run is {end.phase}")

    def _open(self) -> list[Happening]:
        return [each for each in self.happenings if each.over is None]

    def _settle(self, t: float, then: str) -> None:
        self.happenings = [
            replace(each, then=f"{then}, {took(t - each.t)} later", over=t) if each.over is None else each
            for each in self.happenings
        ]


def _pace(saves: Sequence[tuple[float, int]]) -> float | None:
    """Steps a second between the first and the last of these; None where they do not tell."""
    if len(saves) < 2:
        return None
    (first_t, first), (last_t, last) = saves[0], saves[-1]
    return (last - first) / (last_t - first_t) if last > first and last_t > first_t else None
