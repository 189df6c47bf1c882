"""What the metrics of a run are made of: counts and durations, folded entry by entry from its journal."""

from __future__ import annotations

from collections import Counter, deque
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING

from ftslurm.core.actions import CommitLocal, LaunchAttempt, ProbeNode, ReleaseRanks
from ftslurm.core.diagnosis import Diagnosis, class_of
from ftslurm.core.events import (
    ENDED,
    AgentUp,
    AllocationGranted,
    GenerationDurable,
    NodeHeard,
    PartPending,
    PartSaved,
    Phase,
    RestoreReady,
)
from ftslurm.core.manifest import generation_name
from ftslurm.core.working import WorkBegun
from ftslurm.insight.facts import PLAN, actions, forgiven, given_up, says, verdict_of
from ftslurm.insight.ills import Ills
from ftslurm.insight.saves import Saves
from ftslurm.insight.walltime import Category, Walltime
from ftslurm.observer.histogram import SECONDS, Histogram

if TYPE_CHECKING:
    from ftslurm.journal import Entry

INTERVALS = 20
_STOPPED = frozenset({Phase.STOPPING, Phase.PLANNING, Phase.RELAUNCHING})


class Tally:
    """Folds a run's journal; `see` every entry in order."""

    def __init__(self, submitted: float | None = None) -> None:
        self.saves, self.ills = Saves(), Ills()
        self.time = Walltime(self.saves, submitted=submitted)
        self.entries = 0
        self.phase = Phase.SUBMITTED
        self.nodes: tuple[str, ...] = ()
        self.excluded: dict[str, None] = {}
        self.attempts = self.false_suspicions = self.lost_steps = self.checkpoint_bytes = 0
        self.failures: Counter[tuple[str, str]] = Counter()
        self.guilty: Counter[str] = Counter()
        self.recoveries: Counter[tuple[str, str]] = Counter()
        self.checkpoints: Counter[str] = Counter()
        self.failed_in_a_row = self.barren = 0
        self.detection = Histogram(SECONDS)
        self.recovery: dict[str, Histogram] = {}
        self.stages: dict[str, Histogram] = {"save": Histogram(SECONDS), "drain": Histogram(SECONDS)}
        self.stages["restore"] = Histogram(SECONDS)
        self._suspected: set[str] = set()
        self._incident = _Incident()
        self._launched = self._restored = 0.0
        self._step = 0
        self._pending: dict[str, float] = {}
        self._whole: dict[str, float] = {}
        self._saved_at: deque[float] = deque(maxlen=INTERVALS)

    def see(self, entry: Entry) -> None:
        """Take the next entry into account."""
        if isinstance(entry.event, AllocationGranted):
            self.nodes = entry.event.nodes
            self._suspected.clear()
        lost = given_up(entry, self.nodes, self.excluded)
        gone = self.saves.see(entry, [verdict.where for verdict in lost])
        self.checkpoints["lost"] += len(gone)
        self.excluded.update(dict.fromkeys(verdict.where for verdict in lost))
        for node in forgiven(entry):
            self.excluded.pop(node, None)
        self.time.see(entry)
        self.ills.see(entry)
        self._suspicions(entry, {verdict.where for verdict in lost})
        self._checkpoints(entry)
        self._failed(entry)
        self._attempt(entry)
        self.phase = Phase(entry.phase)
        self.entries = entry.number + 1

    def _suspicions(self, entry: Entry, lost: set[str]) -> None:
        event = entry.event
        self._suspected -= lost
        if isinstance(event, NodeHeard | AgentUp) and event.node in self._suspected:
            self._suspected.discard(event.node)
            self.false_suspicions += 1
        self._suspected |= {probe.node for probe in actions(entry, ProbeNode)}

    def _checkpoints(self, entry: Entry) -> None:
        event = entry.event
        if isinstance(event, PartPending | PartSaved):
            name = generation_name(event.step, event.attempt)
            if isinstance(event, PartPending) and event.gone:
                self.checkpoints["failed"] += self._pending.pop(name, None) is not None
            elif name not in self._whole:
                self._pending.setdefault(name, entry.t)
        for commit in actions(entry, CommitLocal):
            self.checkpoints["saved"] += 1
            self.checkpoint_bytes = sum(part.size_bytes for part in commit.parts)
            self.stages["save"].observe(entry.t - self._pending.pop(commit.generation, entry.t))
            self._whole[commit.generation] = entry.t
            self._saved_at.append(entry.t)
            self.barren = 0
        if isinstance(event, GenerationDurable):
            self.checkpoints["failed" if event.error else "durable"] += 1
            since = self._whole.pop(event.generation, None)
            if since is not None and not event.error:
                self.stages["drain"].observe(entry.t - since)
                # Older ones will not be drained any more.
                self._whole = {name: t for name, t in self._whole.items() if t > since}

    def _failed(self, entry: Entry) -> None:
        """Verdicts, each once an incident, and the plans."""
        opens = Phase(entry.phase) in _STOPPED and self.phase not in _STOPPED and self._released
        for said in says(entry):
            verdict = verdict_of(said)
            if verdict is not None and (verdict.cause, verdict.where) not in self._incident.told:
                self._incident.told.add((verdict.cause, verdict.where))
                self._count(verdict)
            if said.slug.startswith(PLAN):
                self._incident.plan = said.slug.removeprefix(PLAN)
        if opens:
            self.barren += 1
            self._incident.since = self.time.incident_since
            self.detection.observe(max(entry.t - (self._incident.since or entry.t), 0.0))
        elif entry.phase == Phase.STOPPING and self.phase is Phase.RELAUNCHING:
            self._recovered("failed")

    def _count(self, verdict: Diagnosis) -> None:
        self.failures[class_of(verdict.cause).value, verdict.scope.value] += 1
        if verdict.where:
            self.guilty[verdict.where] += 1

    @property
    def _released(self) -> bool:
        return self.phase in (Phase.TRAINING, Phase.SUSPECTING)

    def _recovered(self, outcome: str) -> None:
        if self._incident.plan:
            self.recoveries[self._incident.plan, outcome] += 1
            self.failed_in_a_row = 0 if outcome == "recovered" else self.failed_in_a_row + 1

    def _attempt(self, entry: Entry) -> None:
        for _ in actions(entry, LaunchAttempt):
            self.attempts += 1
            self._launched, self._restored = entry.t, 0.0
            self.checkpoints["failed"] += len(self._pending)  # nobody will finish them
            self._pending.clear()
        if isinstance(entry.event, RestoreReady):
            self._restored = entry.t
        for release in actions(entry, ReleaseRanks):
            if not release.again:
                self._begins(entry, release)
        event = entry.event
        if isinstance(event, WorkBegun) and event.until >= 0:
            self.lost_steps += max(event.until - self._step, 0)
        if entry.phase in ENDED and self.phase not in ENDED and self._incident.plan:
            self._recovered("failed")
            self._incident = _Incident()

    def _begins(self, entry: Entry, release: ReleaseRanks) -> None:
        self._step = release.step
        if release.checkpoint and self._restored >= self._launched > 0.0:
            self.stages["restore"].observe(self._restored - self._launched)
        self._recovered("recovered")
        if self._incident.plan and self._incident.since is not None:
            taken = self.recovery.setdefault(self._incident.plan, Histogram(SECONDS))
            taken.observe(entry.t - self._incident.since)
        self._incident = _Incident()

    # --------------------------------------------------------------------------------------------------- answers

    @property
    def interval_s(self) -> float | None:
        """The usual time between two checkpoints, of the last ones; None before there were three."""
        times = list(self._saved_at)
        between = [after - before for before, after in pairwise(times)]
        return median(between) if len(between) > 1 else None

    def share(self, good: int, bad: int) -> float | None:
        """Which share was good; None before there was any."""
        return good / (good + bad) if good + bad else None

    @property
    def recovered_share(self) -> float | None:
        """Which share of the recoveries led to training."""
        good = sum(count for (_, outcome), count in self.recoveries.items() if outcome == "recovered")
        return self.share(good, sum(self.recoveries.values()) - good)

    @property
    def saved_share(self) -> float | None:
        """Of all that was tried with checkpoints, the share that went well."""
        return self.share(self.checkpoints["saved"], self.checkpoints["failed"] + self.checkpoints["lost"])

    def wall(self, until: float) -> dict[Category, float]:
        """Seconds by category."""
        return self.time.spent(until)


class _Incident:
    """What is remembered of the incident that is going on."""

    def __init__(self) -> None:
        self.told: set[tuple[str, str]] = set()
        self.plan = ""
        self.since: float | None = None
