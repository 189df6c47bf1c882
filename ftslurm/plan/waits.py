"""Waits of the core that would have had another length: which of them would have been over before what was waited for.

A recorded wait ends when its timer runs out, or is dropped or replaced because what was waited for has come. With
another length it makes a difference only where it would have run out first, or has run out and would not have yet, and
where something follows from it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ftslurm.core.actions import Action, SetTimer
from ftslurm.core.events import TimerFired
from ftslurm.core.recovery import Policy
from ftslurm.core.run import advance
from ftslurm.core.state import Run
from ftslurm.journal import Entry
from ftslurm.plan.deeds import deeds, told

Told = tuple[str, tuple[str, ...], tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class _Wait:
    """A timer that both policies set, for different times; `t` is when, in epoch seconds."""

    token: int
    t: float
    own_s: float
    other_s: float


class Waits:
    """Those that are under way. `harmless`: how many were over without a difference."""

    def __init__(self, other: Policy) -> None:
        """`other` decides what follows where a wait is over sooner."""
        self._other = other
        self._open: dict[str, _Wait] = {}
        self.harmless = 0

    def see(
        self, entry: Entry, before: Run, after: Run, actions: tuple[tuple[Action, ...], tuple[Action, ...]]
    ) -> Iterator[Told]:
        """Take an entry, the states around it, and what both policies do; yields (what, recorded, other)."""
        for name, wait in list(self._open.items()):
            sooner = entry.t > wait.t + wait.other_s
            if not sooner and after.timers.get(name) == wait.token:
                continue
            del self._open[name]
            done = self._done(name, wait, before, entry) if sooner else ()
            if done:
                what = f"the wait for {name} would have been over after {wait.other_s:g} s"
                yield what, (f"waited {wait.own_s:g} s at most",), done
            elif not sooner and _fired(entry, name, wait) and deeds(entry.actions):
                more = f"would still have waited, {wait.other_s - wait.own_s:g} s more"
                yield f"the wait for {name} ran out after {wait.own_s:g} s", told(entry.actions), (more,)
            else:
                self.harmless += 1
        own, other = (_timers(each) for each in actions)
        for name in own.keys() & other.keys():
            if own[name].after_s != other[name].after_s and name in after.timers:
                self._open[name] = _Wait(own[name].token, entry.t, own[name].after_s, other[name].after_s)

    def _done(self, name: str, wait: _Wait, run: Run, entry: Entry) -> tuple[str, ...]:
        """What follows where a wait is over before this entry comes; nothing: it would have made no difference."""
        shift_s = entry.t - (wait.t + wait.other_s)
        event = TimerFired(name=name, token=wait.token, at=entry.event.at - shift_s, mono=entry.event.mono - shift_s)
        return told(advance(run, event, self._other)[1])


def _fired(entry: Entry, name: str, wait: _Wait) -> bool:
    event = entry.event
    return isinstance(event, TimerFired) and (event.name, event.token) == (name, wait.token)


def _timers(actions: tuple[Action, ...]) -> dict[str, SetTimer]:
    return {each.name: each for each in actions if isinstance(each, SetTimer)}
