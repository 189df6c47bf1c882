"""What the ranks of an attempt tell of their work: a further part of the vocabulary of `core.events`, and its rules.

Nothing follows from it at once. It is kept in the journal, so that it can be told afterwards where the time went: how
long ranks loaded before their first step, what was done a second time, for how long they stood still to save. The pace
of their steps says what a smaller world is worth (`core.scaling`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from ftslurm.core.actions import Action
from ftslurm.core.events import Event
from ftslurm.core.phases import LIVE
from ftslurm.core.recovery import Policy
from ftslurm.core.state import Attempt, Run

Step = tuple[Run, tuple[Action, ...]]
KEPT_PACES = 9
"""Of each world size: their median is not that of one bad hour."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkBegun(Event):
    """The ranks of an attempt have made their first step, `ago_s` seconds ago.

    `step` is the newest one, -1 where ranks do not number them; `until` that to which an attempt before had come.
    """

    attempt: int
    step: int = -1
    until: int = -1
    ago_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkRegained(Event):
    """The ranks are where an attempt before them was: from here on their work is new."""

    attempt: int
    step: int
    ago_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkPaused(Event):
    """For `took_s` seconds the ranks stood still to save, the last of them `ago_s` seconds ago."""

    attempt: int
    took_s: float
    ago_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkPaced(Event):
    """The ranks have made so many steps, each in `step_s` seconds; what they stood still to save is not in it."""

    attempt: int
    steps: int
    step_s: float


def _of_attempt(change: Callable[[Attempt, Any], Attempt]) -> Callable[[Run, Any, Policy], Step]:
    def rule(run: Run, event: Any, policy: Policy) -> Step:  # noqa: ANN401 - one of the three
        del policy
        if not _is_of_now(run, event.attempt):
            return run, ()
        return replace(run, attempt=change(run.current, event)), ()

    return rule


def _is_of_now(run: Run, number: int) -> bool:
    attempt = run.attempt
    return attempt is not None and number == attempt.number and attempt.released and not attempt.fencing


def _begun(attempt: Attempt, event: WorkBegun) -> Attempt:
    """Once: a supervisor that was started again may see it once more."""
    return attempt if attempt.begun else replace(attempt, begun=True, behind=event.until > event.step)


def _regained(attempt: Attempt, event: WorkRegained) -> Attempt:
    del event
    return replace(attempt, behind=False)


def _paused(attempt: Attempt, event: WorkPaused) -> Attempt:
    return replace(attempt, paused_s=attempt.paused_s + event.took_s)


def on_paced(run: Run, event: WorkPaced, policy: Policy) -> Step:
    """Keep the newest paces of every world size that the run has had."""
    del policy
    if not _is_of_now(run, event.attempt) or event.step_s <= 0:
        return run, ()
    ranks = run.current.world_size
    old = [index for index, (size, _) in enumerate(run.stepped) if size == ranks][: 1 - KEPT_PACES]
    kept = tuple(each for index, each in enumerate(run.stepped) if index not in old)
    return replace(run, stepped=(*kept, (ranks, event.step_s))), ()


RULES = (
    (WorkBegun, _of_attempt(_begun), LIVE),
    (WorkRegained, _of_attempt(_regained), LIVE),
    (WorkPaused, _of_attempt(_paused), LIVE),
    (WorkPaced, on_paced, LIVE),
)
