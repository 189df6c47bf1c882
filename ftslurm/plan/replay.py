"""A recorded run once more: are its decisions those of its policy, and what would another policy have decided?

`advance` is pure and a journal holds every event that changed the run, so the same events with the same policy give the
same actions. Where they do not, the journal was written by a release with other rules, and that is said.

Another policy is asked in the recorded situation, entry by entry: the state is always the one that the run's own policy
had led to. So each answer is exact for its moment, and the answers do not add up to another history: after the first
one that differs the recorded events are not what would have happened. What would have is estimated elsewhere
(`plan.projection`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from ftslurm.core.actions import Action
from ftslurm.core.diagnosis import Diagnosis
from ftslurm.core.events import AllocationGranted, Event
from ftslurm.core.recovery import Kind, Plan, Situation, price_of
from ftslurm.core.run import Step, advance
from ftslurm.core.state import Planned, Run
from ftslurm.errors import DataDamaged, IllegalTransition
from ftslurm.journal import Entry
from ftslurm.plan.deeds import deeds, words
from ftslurm.plan.otherpolicy import Rules
from ftslurm.plan.silences import Silences
from ftslurm.plan.waits import Waits


@dataclass(frozen=True, slots=True, kw_only=True)
class Mismatch:
    """The first entry whose decision is not the recorded one; `recorded` and `now` are what was and would be done."""

    number: int
    t: float
    event: str
    recorded: tuple[str, ...]
    now: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A plan, with its price in node-seconds by what the run's own policy assumes; None: it has none, the run ends."""

    plan: Plan
    price_node_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """One question of what to do next, and the answers; None: this policy made no plan in this moment.

    Attributes:
        number: the journal's entry.
        t: epoch seconds.
        attempt: the attempt that had ended.
        found: why it had ended.
        now: the situation, as the run's own policy saw it.
        own: the answer of the run's own policy, by the rules of this release.
        other: the answer of the other policy; the same as `own` where there is none.
    """

    number: int
    t: float
    attempt: int
    found: Diagnosis
    now: Situation
    own: Choice | None
    other: Choice | None

    @property
    def same(self) -> bool:
        """Whether both do the same with the same nodes."""
        if self.own is None or self.other is None:
            return self.own is self.other
        mine, theirs = self.own.plan, self.other.plan
        return (mine.kind, mine.nodes) == (theirs.kind, theirs.nodes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Something besides a plan that the other policy would have done otherwise, `count` times, first at `t`."""

    number: int
    t: float
    at: str
    own: tuple[str, ...]
    other: tuple[str, ...]
    count: int = 1


@dataclass(slots=True)
class Replayed:
    """What came out. `first` is where the other policy leaves the recorded course; None: it never does.

    `harmless` waits would have had another length, and were over before; `run` is the state after the last entry.
    """

    run: Run = field(default_factory=Run)
    entries: int = 0
    mismatch: Mismatch | None = None
    mismatches: int = 0
    decisions: list[Decision] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)
    first: Difference | None = None
    harmless: int = 0


def replay(entries: Iterable[Entry], own: Rules, other: Rules | None = None) -> Replayed:
    """Take every decision of a run again, with its own policy, and in each situation with another one.

    Raises:
        DataDamaged: entries are missing, or one makes a move that the rules of this release do not allow.
    """
    told, run = _Telling(own, other), Run()
    for count, entry in enumerate(entries):
        if entry.number != count:
            raise DataDamaged(f"the journal has no entry {count}, but an entry {entry.number}")
        run = told.see(entry, run)
    return told.finished(run)


class _Telling:
    """What is remembered while the entries go by."""

    def __init__(self, own: Rules, other: Rules | None) -> None:
        self._own, self._other = own, other
        self._found = Replayed()
        self._alike: dict[tuple[object, ...], int] = {}
        self._waits = Waits(other.policy if other else own.policy)
        self._silences = Silences(own.suspect_after_s, (other or own).suspect_after_s)

    def see(self, entry: Entry, run: Run) -> Run:
        """Take the next entry, in the state before it; returns the state after it."""
        self._found.entries += 1
        after, actions = _own_step(run, entry, self._own)
        self._compare(entry, after, actions)
        other_after, other_actions = self._ask_other(run, entry.event, (after, actions))
        self._decide(entry, run, after, other_after)
        if self._other is not None:
            self._differ(entry, run, actions, other_actions)
            self._time(entry, run, after, (actions, other_actions))
        return after

    def finished(self, run: Run) -> Replayed:
        """Return what came out, after the last entry."""
        self._found.run = run
        for number, t, at, own, other in self._silences.over():
            self._add(Difference(number=number, t=t, at=at, own=(own,), other=(other,)))
        found = self._found
        found.harmless = self._waits.harmless
        found.differences.sort(key=lambda each: each.number)
        plans = [
            Difference(number=each.number, t=each.t, at="plan", own=_kind(each.own), other=_kind(each.other))
            for each in found.decisions
            if not each.same
        ]
        found.first = min([*found.differences[:1], *plans[:1]], key=lambda each: each.number, default=None)
        return found

    def _compare(self, entry: Entry, after: Run, actions: tuple[Action, ...]) -> None:
        if actions == entry.actions and after.phase == entry.phase:
            return
        self._found.mismatches += 1
        if self._found.mismatch is None:
            self._found.mismatch = Mismatch(
                number=entry.number,
                t=entry.t,
                event=type(entry.event).__name__,
                recorded=(*map(words, entry.actions), f"the run is {entry.phase}"),
                now=(*map(words, actions), f"the run is {after.phase}"),
            )

    def _ask_other(self, run: Run, event: Event, own: Step) -> Step:
        other = self._other
        if other is None:
            return own
        way = other.continue_by or run.continue_by
        return advance(replace(run, continue_by=way), _told_way(event, other), other.policy)

    def _decide(self, entry: Entry, before: Run, own: Run, other: Run) -> None:
        """Note what was planned in this entry, by either."""
        mine = own.planned if own.planned is not before.planned else None
        theirs = other.planned if other.planned is not before.planned else None
        asked = mine or theirs
        if asked is None:
            return
        self._found.decisions.append(
            Decision(
                number=entry.number,
                t=entry.t,
                attempt=before.attempt.number if before.attempt else 0,
                found=asked.found,
                now=asked.now,
                own=self._choice(mine, asked),
                other=self._choice(theirs, asked) if self._other is not None else self._choice(mine, asked),
            )
        )

    def _choice(self, planned: Planned | None, asked: Planned) -> Choice | None:
        """A plan with its price: both by what the run's own policy assumes, else they could not be compared."""
        if planned is None:
            return None
        plan = planned.plan
        price = price_of(plan.kind, len(plan.nodes), asked.now, self._own.policy)
        return Choice(plan=plan, price_node_s=None if plan.kind is Kind.ABORT else price.total)

    def _differ(self, entry: Entry, run: Run, own: tuple[Action, ...], other: tuple[Action, ...]) -> None:
        """Note what else is done otherwise; words and the length of waits are not deeds."""
        mine, theirs = deeds(own), deeds(other)
        last = self._found.decisions[-1] if self._found.decisions else None
        if mine == theirs or (last is not None and last.number == entry.number and not last.same):
            return
        only_mine = tuple(words(each) for each in mine if each not in theirs)
        only_theirs = tuple(words(each) for each in theirs if each not in mine)
        kinds = (
            type(entry.event).__name__,
            *(type(each).__name__ for each in mine if each not in theirs),
            "|",
            *(type(each).__name__ for each in theirs if each not in mine),
        )
        at = f"{type(entry.event).__name__} while {run.phase}"
        self._add(Difference(number=entry.number, t=entry.t, at=at, own=only_mine, other=only_theirs), kinds)

    def _time(self, entry: Entry, run: Run, after: Run, actions: tuple[tuple[Action, ...], tuple[Action, ...]]) -> None:
        """Note waits and silences that would have been over at another time."""
        for at, own, other in self._waits.see(entry, run, after, actions):
            self._add(Difference(number=entry.number, t=entry.t, at=at, own=own, other=other), (at, own[:1]))
        self._silences.see(entry, given_up=frozenset(after.condemned) - frozenset(run.condemned))

    def _add(self, found: Difference, kinds: tuple[object, ...] = ()) -> None:
        """One more difference; those alike are counted where the first of them stands."""
        index = self._alike.get(kinds) if kinds else None
        if index is None:
            self._alike[kinds] = len(self._found.differences)
            self._found.differences.append(found)
        else:
            known = self._found.differences[index]
            self._found.differences[index] = replace(known, count=known.count + 1)


def _own_step(run: Run, entry: Entry, own: Rules) -> Step:
    try:
        return advance(run, entry.event, own.policy)
    except IllegalTransition as error:
        raise DataDamaged(
            f"journal entry {entry.number} makes a move that the rules of this release do not allow: {error}",
            hint="was it written by another release of ftslurm?",
        ) from error


def _told_way(event: Event, other: Rules) -> Event:
    """A job's start says how the job can be gone on from, as it was found under the run's own policy."""
    if other.continue_by and isinstance(event, AllocationGranted):
        return replace(event, continue_by=other.continue_by)
    return event


def _kind(choice: Choice | None) -> tuple[str, ...]:
    return (choice.plan.kind,) if choice else ()
