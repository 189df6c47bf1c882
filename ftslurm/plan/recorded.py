"""What a projection needs of a recorded run: what happened to it from outside, and how long things took in it.

From outside come the jobs (when one started, on which nodes), the failures (when the first sign was, which nodes were
lost, how long it took to notice and to stop the rest), and the wishes of people and of Slurm. Everything that took
time is measured in the run itself, as the median where there are several; what was not measured is None.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from statistics import median

from ftslurm.core.actions import ReleaseRanks
from ftslurm.core.diagnosis import Cause
from ftslurm.core.events import ENDED, AllocationGranted, Phase, StopRequested
from ftslurm.core.recovery import Policy, Situation, worth_of
from ftslurm.core.situation import mtbf_s
from ftslurm.core.working import WorkPaused
from ftslurm.insight.facts import actions, begins_incarnation
from ftslurm.insight.incident import Incident
from ftslurm.insight.saves import Saves
from ftslurm.insight.story import story
from ftslurm.insight.walltime import WORK, Category, Interval, Walltime
from ftslurm.journal import Entry
from ftslurm.plan.replay import Replayed

_CLOSE_S = 0.1
"""Work that is not worth telling from the moment in which a save is made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job begins at `t` (epoch seconds) on these nodes, which it had waited for until then."""

    t: float
    nodes: tuple[str, ...]
    wanted: int
    resumed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Something fails at `t`, when it first showed; no nodes: the program did.

    `detect_s` later it was known, `stop_s` after that nothing of the attempt was left. `behind_s` of work lay between
    the newest save and the one that was restored. `now` is what the plan was made from; None: none was made.
    """

    t: float
    nodes: tuple[str, ...]
    cause: Cause
    detect_s: float = 0.0
    stop_s: float = 0.0
    behind_s: float = 0.0
    now: Situation | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """Somebody wants the run to stop at `t`; where it goes on afterwards, `wait_s` later a job begins."""

    t: float
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """What happened to a run, and how long things took in it; seconds.

    Attributes:
        begun, until: its first and its last moment, in epoch seconds.
        finished: whether it came to its end by success.
        happened: jobs, failures and stops, in order.
        start_s: from a job's start to the release of its ranks.
        restart_s: from a launch to the release of its ranks.
        load_s: from there to the first step.
        queue_s: how long a requeued or resubmitted job waited.
        interval_s: work between two saves.
        pause_s: for how long the ranks stood still for a save.
        step_s: how long a step took.
        stepped: (ranks, seconds of a step), as often as the run has told it.
        mtbf_s: the expected time between failures, as the core reckons it.
        worlds: (epoch seconds, nodes) of each release.
        intervals: what the time was spent on.
        attempts, requeues: how many there were.
        no_kill: whether the job survives the loss of a node.
        continue_by: how the job can be gone on from, as it found out; empty: as the policy says.
    """

    begun: float
    until: float
    finished: bool
    happened: tuple[Job | Fault | Stop, ...]
    start_s: float | None = None
    restart_s: float | None = None
    load_s: float | None = None
    queue_s: float | None = None
    interval_s: float | None = None
    pause_s: float | None = None
    step_s: float | None = None
    stepped: tuple[tuple[int, float], ...] = ()
    mtbf_s: float = 0.0
    worlds: tuple[tuple[float, int], ...] = ()
    intervals: tuple[Interval, ...] = ()
    attempts: int = 0
    requeues: int = 0
    no_kill: bool = True
    continue_by: str = ""

    @property
    def wanted(self) -> int:
        """The nodes that the user wanted."""
        return next((each.wanted for each in self.happened if isinstance(each, Job)), 1)


def recorded(entries: Sequence[Entry], replayed: Replayed) -> Recorded | None:
    """Return what a projection needs; None for a run in which nothing has happened yet."""
    if not entries:
        return None
    told, kept = story(entries), _Measures()
    for entry in entries:
        kept.see(entry)
    plans = {round(each.t, 3): each.now for each in replayed.decisions}
    faults = [
        _fault(each, plans, kept.whole) for each in told.incidents if each.choices or each.excluded or each.launches
    ]
    happened: list[Job | Fault | Stop] = [*kept.jobs, *kept.stops, *faults]
    until = told.until or entries[-1].t
    return Recorded(
        begun=told.begun or entries[0].t,
        until=until,
        finished=told.phase is Phase.FINISHED,
        happened=tuple(sorted(happened, key=lambda each: each.t)),
        start_s=_middle(kept.starts),
        restart_s=_middle(_between(each.launched, each.released) for each in told.incidents if each.left is None),
        load_s=_loading(kept.time.intervals(until)),
        queue_s=_middle(kept.queues),
        interval_s=_middle(kept.gaps),
        pause_s=_middle(kept.pauses),
        step_s=_middle(kept.steps),
        stepped=replayed.run.stepped,
        mtbf_s=mtbf_s(replayed.run),
        worlds=tuple(kept.worlds),
        intervals=tuple(kept.time.intervals(until)),
        attempts=told.totals.attempts,
        requeues=told.totals.requeues,
        no_kill=replayed.run.no_kill,
        continue_by=replayed.run.continue_by,
    )


def _fault(incident: Incident, plans: dict[float, Situation], whole: Sequence[tuple[float, float]]) -> Fault:
    decided = incident.decided if incident.decided is not None else incident.noticed
    stopped = incident.stopped if incident.stopped is not None else decided
    now = next((plans[round(each.t, 3)] for each in incident.choices if round(each.t, 3) in plans), None)
    cause = incident.judgements[-1].cause if incident.judgements else Cause.UNKNOWN
    return Fault(
        t=incident.sign,
        nodes=incident.excluded,
        cause=cause,
        detect_s=max(decided - incident.sign, 0.0),
        stop_s=max(stopped - decided, 0.0),
        behind_s=_behind(incident, [seen for known, seen in whole if known <= stopped]),
        now=now,
    )


def _behind(incident: Incident, seen: Sequence[float]) -> float:
    """How much work was lost beyond the newest save, as its checkpoint could not be used; all of it without one."""
    if not incident.lost_s or not seen:
        return incident.lost_s or 0.0
    behind_s = incident.lost_s - max(incident.sign - max(seen), 0.0)
    return behind_s if behind_s > _CLOSE_S else 0.0


@dataclass(slots=True)
class _Measures:
    """What is measured while the entries go by. `whole`: when which save was whole, and when it was first seen."""

    jobs: list[Job] = field(default_factory=list)
    stops: list[Stop] = field(default_factory=list)
    starts: list[float] = field(default_factory=list)
    queues: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    pauses: list[float] = field(default_factory=list)
    steps: list[float] = field(default_factory=list)
    worlds: list[tuple[float, int]] = field(default_factory=list)
    whole: list[tuple[float, float]] = field(default_factory=list)
    time: Walltime = field(default_factory=Walltime)
    _saves: Saves = field(default_factory=Saves)
    _started: float | None = None
    _left: float | None = None
    _since: tuple[float, int | None] | None = None
    _newest: str = ""

    def see(self, entry: Entry) -> None:
        """Take the next entry into account."""
        self.time.see(entry)
        self._saves.see(entry, ())
        event = entry.event
        if isinstance(event, AllocationGranted) and begins_incarnation(entry):
            self._begin(entry, event)
        elif isinstance(event, StopRequested) and entry.phase == Phase.DRAINING:
            self.stops.append(Stop(t=entry.t, why=event.why))
        elif isinstance(event, WorkPaused):
            self.pauses.append(event.took_s)
        for release in actions(entry, ReleaseRanks):
            if not release.again:
                self._release(entry.t, release)
        self._save(entry.t)
        if entry.phase == Phase.REQUEUED and self._left is None:
            self._left = entry.t
        elif entry.phase in ENDED:
            self._left = None

    def _begin(self, entry: Entry, event: AllocationGranted) -> None:
        wanted = event.wanted_nodes or len(event.nodes)
        self.jobs.append(Job(t=entry.t, nodes=event.nodes, wanted=wanted, resumed=event.resumed))
        self._started, self._since = entry.t, None
        if self._left is not None:
            self.queues.append(entry.t - self._left)
        self._left = None

    def _release(self, t: float, release: ReleaseRanks) -> None:
        self.worlds.append((t, len(set(release.placement))))
        self._since = (t, release.step if release.checkpoint else None)
        if self._started is not None:
            self.starts.append(t - self._started)
        self._started = None

    def _save(self, t: float) -> None:
        """Measure the work between two saves of one attempt, and of the first one since its release."""
        newest = self._saves.newest
        if newest is None or newest.generation == self._newest or newest.seen is None or self._since is None:
            return
        self._newest = newest.generation
        self.whole.append((t, newest.seen))
        since, step = self._since
        if newest.seen > since:
            self.gaps.append(newest.seen - since)
            if step is not None and newest.step > step:
                self.steps.append((newest.seen - since) / (newest.step - step))
        self._since = (newest.seen, newest.step)


def _loading(intervals: Iterable[Interval]) -> float | None:
    return _middle(each.seconds for each in intervals if each.category is Category.LOADING)


def _between(start: float | None, end: float | None) -> float | None:
    return None if start is None or end is None else end - start


def _middle(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


def rate_of(nodes: int, wanted: int, found: Recorded, policy: Policy) -> float:
    """Return the work of a world, in nodes: as prices have it (`core.pricing`)."""
    return nodes * worth_of(nodes, wanted, found.stepped, policy).share if nodes < wanted else float(nodes)


def nodes_at(found: Recorded, t: float) -> int:
    """Return how many nodes trained at a moment, or trained last before it."""
    return next((nodes for since, nodes in reversed(found.worlds) if since <= t), 0)


def pieces(found: Recorded) -> Iterable[tuple[Category, float, int]]:
    """Yield what the time was spent on: (category, seconds, nodes that trained)."""
    marks = [since for since, _ in found.worlds]
    for each in found.intervals:
        cuts = [each.start, *(mark for mark in marks if each.start < mark < each.end), each.end]
        for start, end in pairwise(cuts):
            yield each.category, end - start, nodes_at(found, start) if each.category in WORK else 0


def work_at(found: Recorded, t: float, policy: Policy) -> float:
    """Return how much work had been done for the first time until then, in node-seconds."""
    before = replace(found, intervals=tuple(_until(found.intervals, t)))
    done = (item for item in pieces(before) if item[0] is Category.PRODUCTIVE)
    return sum(seconds * rate_of(nodes, found.wanted, found, policy) for _, seconds, nodes in done)


def _until(intervals: Iterable[Interval], t: float) -> Iterable[Interval]:
    return (replace(each, end=min(each.end, t)) for each in intervals if each.start < t)


def with_shift(fault: Fault, shift_s: float) -> Fault:
    """Return a failure that is noticed so much later (negative: sooner); only the silence of a node can be."""
    return replace(fault, detect_s=max(fault.detect_s + shift_s, 0.0)) if fault.nodes else fault
