"""Where a run's time went: every second of it belongs to exactly one category, so that the parts sum to the whole.

    kept = of(journal.read(paths))         # or Walltime().see(entry), entry by entry
    kept.spent(until)                      # seconds by category
    kept.intervals(until)                  # the same as stretches of time, in order
    ettr(kept.window(until, 3600.0))       # of the last hour

Training is PRODUCTIVE from the first step that the ranks tell (LOADING before it) but for the time in which they stand
still to save (SAVING), and for work that is done a second time (RECOMPUTING): until the ranks are where an attempt
before them was, where they tell their steps, else for as long as the lost work had taken. What a failure cost begins
when it first showed (DETECTING: the last beat of a silent node), not when it was noticed. IDLE is the time between an
end and a resumption: the run was not to be trained then.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from ftslurm.core.actions import ProbeNode, ReleaseRanks
from ftslurm.core.events import ENDED, AgentUp, AllocationGranted, NodeHeard, Phase
from ftslurm.core.symptoms import AutopsyTaken, RanksResumed, RanksStalled
from ftslurm.core.working import WorkBegun, WorkPaused, WorkRegained
from ftslurm.insight.facts import actions, begins_incarnation, forgiven, given_up
from ftslurm.insight.saves import Saves

if TYPE_CHECKING:
    from ftslurm.journal import Entry


class Category(StrEnum):
    """What a stretch of time was spent on, in the order of a run's life."""

    QUEUED = "queued"
    STARTING = "starting"
    LOADING = "loading"
    PRODUCTIVE = "productive"
    SAVING = "saving"
    DETECTING = "detecting"
    RECOVERING = "recovering"
    RECOMPUTING = "recomputing"
    IDLE = "idle"


WORK = frozenset({Category.PRODUCTIVE, Category.RECOMPUTING})
_RECOVERING = frozenset({Phase.STOPPING, Phase.PLANNING, Phase.RELAUNCHING})


@dataclass(frozen=True, slots=True)
class Interval:
    """A stretch of time, in epoch seconds."""

    start: float
    end: float
    category: Category

    @property
    def seconds(self) -> float:
        """How long it is."""
        return self.end - self.start


class Walltime:
    """Counts a run's time. Moments may come a little late (a silence is noticed after it began): see `_mark`."""

    def __init__(self, saves: Saves | None = None, *, submitted: float | None = None) -> None:
        """`saves` are kept by the caller, who shows them every entry first; the first wait began when `submitted`."""
        self._own = _Own() if saves is None else None
        self._saves = self._own.saves if self._own is not None else saves
        self._submitted = submitted
        self._since: float | None = None
        self._now = Category.IDLE
        self._closed: list[Interval] = []
        self._spent = dict.fromkeys(Category, 0.0)
        self._trained: list[Interval] = []
        self._due: float | None = None
        self._debt_s = 0.0
        self._tells = False
        self._phase = Phase.SUBMITTED
        self._released = self._incident = False
        self._signs: dict[str, float] = {}
        self._last = 0.0
        self.lost_s: float | None = 0.0
        """How much work the newest attempt has to do again, as the time that it had taken; None: nobody knows."""
        self.incident_since: float | None = None
        """When the newest failure of a training first showed."""

    # --------------------------------------------------------------------------------------------------- entries

    def see(self, entry: Entry) -> None:
        """Take the next entry into account."""
        if self._own is not None:
            self._own.see(entry)
        if self._since is None:
            self._begin(entry)
        if begins_incarnation(entry):
            self._start(entry)
        self._see_event(entry)
        for probe in actions(entry, ProbeNode):
            self._signs.setdefault(probe.node, entry.t - getattr(entry.event, "silent_s", 0.0))
        for release in actions(entry, ReleaseRanks):
            if not release.again:
                self._release(entry, release)
        self._phase_changed(entry)
        self._last = entry.t

    def _begin(self, entry: Entry) -> None:
        self._since = entry.t
        if self._submitted is not None and self._submitted < entry.t:
            self._since, self._now = self._submitted, Category.QUEUED

    def _start(self, entry: Entry) -> None:
        """A job starts. Where the one before it did not say how it ended, nobody knows that it did any good since."""
        if self._phase not in ENDED | {Phase.SUBMITTED, Phase.REQUEUED}:
            self._mark(self._last, Category.QUEUED)
        self._released = self._incident = False
        self._signs.clear()
        self._mark(entry.t, Category.STARTING)

    def _see_event(self, entry: Entry) -> None:
        event, t = entry.event, entry.t
        if isinstance(event, NodeHeard | AgentUp):
            self._signs.pop(event.node, None)
        elif isinstance(event, RanksStalled):
            self._signs[""] = t - event.silent_s
        elif isinstance(event, RanksResumed) or (isinstance(event, AutopsyTaken) and event.resumed):
            self._signs.pop("", None)
        elif isinstance(event, WorkBegun):
            self._work_begins(event, t - event.ago_s)
        elif isinstance(event, WorkRegained) and self._now is Category.RECOMPUTING:
            self._mark(t - event.ago_s, Category.PRODUCTIVE)
        elif isinstance(event, WorkPaused) and self._now in WORK:
            self._pause(t - event.ago_s, event.took_s)

    def _pause(self, t: float, took_s: float) -> None:
        before, by_time = self._now, self._due is not None
        self._mark(t - took_s, Category.SAVING)
        if by_time and not self._debt_s:
            before = Category.PRODUCTIVE
        self._mark(t, before)
        if before is Category.RECOMPUTING and by_time:
            self._due = max(t, self._since or t) + self._debt_s

    def _work_begins(self, event: WorkBegun, t: float) -> None:
        if not self._released or self._incident:
            return
        if self._now in WORK:
            self._now = Category.LOADING  # it was not known yet that this run would tell its first step
        self._tells = True
        if self._now is Category.LOADING:
            self._due = None
            self._debt_s = 0.0 if event.step >= 0 else self._debt_s
            behind = event.until > event.step or self._debt_s > 0.0
            self._mark(t, Category.RECOMPUTING if behind else Category.PRODUCTIVE)
            if self._debt_s:
                self._due = max(t, self._since or t) + self._debt_s

    def _release(self, entry: Entry, release: ReleaseRanks) -> None:
        restored = self._saves.wanted if release.checkpoint and self._saves is not None else None
        known = restored is None or restored.seen is not None
        self.lost_s = self._lose_after(restored.seen if restored else None) if known else None
        self._debt_s += self.lost_s or 0.0
        self._released, self._incident = True, False
        self._signs.clear()
        if self._tells:
            self._mark(entry.t, Category.LOADING)
        elif self._debt_s:
            self._mark(entry.t, Category.RECOMPUTING)
            self._due = entry.t + self._debt_s
        else:
            self._mark(entry.t, Category.PRODUCTIVE)

    def _phase_changed(self, entry: Entry) -> None:
        before, self._phase = self._phase, Phase(entry.phase)
        now = self._phase
        if now is before:
            return
        if now is Phase.TRAINING and before is Phase.SUSPECTING:
            # Nobody is suspected any more: a node that stood idle was given up, and nothing was stopped for it.
            self._signs = {node: t for node, t in self._signs.items() if not node}
        if now in _RECOVERING and self._released and not self._incident:
            self._incident = True
            self.incident_since = min([entry.t, *self._signs.values()])
            self._mark(self.incident_since, Category.DETECTING)
            self._mark(entry.t, Category.RECOVERING)
        elif now is Phase.DRAINING:
            self._mark(entry.t, Category.RECOVERING if self._incident else Category.SAVING)
        elif now is Phase.REQUEUED:
            self._mark(entry.t, Category.QUEUED)
        elif now in ENDED:
            self._mark(entry.t, Category.IDLE)

    # ----------------------------------------------------------------------------------------------------- marks

    def _mark(self, t: float, category: Category) -> None:
        """From `t` on time belongs to `category`; `t` may lie back, but not before the last mark."""
        for each in self._tail(t):
            self._close(each)
        if self._due is not None:
            since = self._since or t
            self._debt_s = max(self._due - max(t, since), 0.0)
            self._due = None
        self._since, self._now = max(t, self._since or t), category

    def _close(self, done: Interval) -> None:
        self._spent[done.category] += done.seconds
        last = self._closed[-1] if self._closed else None
        if last is not None and last.category is done.category:
            self._closed[-1] = Interval(last.start, done.end, done.category)
        else:
            self._closed.append(done)
        if done.category in WORK:
            self._trained.append(done)

    def _tail(self, until: float) -> Iterator[Interval]:
        """What is not closed yet, up to `until`."""
        start = self._since
        if start is not None and self._due is not None and start < self._due < until:
            yield Interval(start, self._due, self._now)
            yield Interval(self._due, until, Category.PRODUCTIVE)
        elif start is not None and until > start:
            yield Interval(start, until, self._now)

    def _lose_after(self, t: float | None) -> float:
        """Return how much work since `t` (None: since ever) has to be done again; it is never counted twice."""
        lost = 0.0
        kept: list[Interval] = []
        for each in self._trained:
            end = each.start if t is None else min(max(t, each.start), each.end)
            lost += each.end - end
            if end > each.start:
                kept.append(Interval(each.start, end, each.category))
        self._trained = kept
        return lost

    # --------------------------------------------------------------------------------------------------- answers

    @property
    def now(self) -> Category:
        """The category of the present."""
        return self._now

    def spent(self, until: float) -> dict[Category, float]:
        """Seconds by category, up to `until` (epoch seconds)."""
        found = dict(self._spent)
        for each in self._tail(until):
            found[each.category] += each.seconds
        return found

    def intervals(self, until: float) -> list[Interval]:
        """The same as stretches of time without gaps, in order; no two in a row have one category."""
        found = list(self._closed)
        for each in self._tail(until):
            if found and found[-1].category is each.category:
                each = Interval(found.pop().start, each.end, each.category)  # noqa: PLW2901 - the two are one
            found.append(each)
        return found

    def window(self, until: float, length_s: float) -> dict[Category, float]:
        """Seconds by category in the time of this length that ends at `until`."""
        found = dict.fromkeys(Category, 0.0)
        start = until - length_s
        for each in (*reversed([*self._tail(until)]), *reversed(self._closed)):
            if each.end <= start:
                break
            found[each.category] += each.end - max(each.start, start)
        return found


@dataclass(slots=True)
class _Own:
    """The checkpoints of a run, for whoever does not keep them anyway."""

    saves: Saves
    nodes: tuple[str, ...]
    excluded: dict[str, None]

    def __init__(self) -> None:
        self.saves, self.nodes, self.excluded = Saves(), (), {}

    def see(self, entry: Entry) -> None:
        if isinstance(entry.event, AllocationGranted):
            self.nodes = entry.event.nodes
        lost = [verdict.where for verdict in given_up(entry, self.nodes, self.excluded)]
        self.excluded.update(dict.fromkeys(lost))
        for node in forgiven(entry):
            self.excluded.pop(node, None)
        self.saves.see(entry, lost)


def of(entries: Iterable[Entry], *, submitted: float | None = None) -> Walltime:
    """Return what these entries tell of a run's time."""
    kept = Walltime(submitted=submitted)
    for entry in entries:
        kept.see(entry)
    return kept


def goodput(spent: Mapping[Category, float]) -> float | None:
    """The productive share of all the time; None where there was none."""
    whole = sum(spent.values())
    return spent[Category.PRODUCTIVE] / whole if whole else None


def ettr(spent: Mapping[Category, float]) -> float | None:
    """The effective training time ratio: the productive share of the time in which the run was to be trained."""
    return goodput({**spent, Category.IDLE: 0.0})
