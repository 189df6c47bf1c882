"""Reading one journal entry: what the core said in it, and which nodes it gave up.

The story of a run is told from what was recorded, not by taking the decisions again: a journal may have been written by
an older release, whose decisions were others. Slugs are the core's stable names for what it says.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, TypeVar

from ftslurm.core.actions import Action, LaunchAgents, Say
from ftslurm.core.diagnosis import Cause, Diagnosis, Scope
from ftslurm.core.events import AllocationGranted, Phase, RequeueAnswered

if TYPE_CHECKING:
    from ftslurm.journal import Entry

PLAN = "plan_"
_VERDICTS = frozenset(Cause) - {Cause.AGENT_LOST, Cause.CHECKPOINT_DAMAGED}
"""The other two are said in passing: a node that is well, a checkpoint that is set aside."""

Kind = TypeVar("Kind", bound=Action)


def actions(entry: Entry, kind: type[Kind]) -> Iterator[Kind]:
    """The entry's actions of one kind, in order; most entries have none at all."""
    if not entry.actions:
        return iter(())
    return (action for action in entry.actions if isinstance(action, kind))


def says(entry: Entry) -> Iterator[Say]:
    """What the core said to the user in this entry, in order."""
    return actions(entry, Say)


def verdict_of(said: Say) -> Diagnosis | None:
    """The verdict, where what was said is one on a failure; a node is named where it was given up for it."""
    if said.slug not in _VERDICTS:
        return None
    node = said.facts.get("excluded", "")
    return Diagnosis(
        cause=Cause(said.slug),
        scope=Scope.NODE if node else Scope.JOB,
        where=node,
        confidence=float(said.facts.get("confidence", 0.0)),
        reason=said.text,
    )


def begins_incarnation(entry: Entry) -> bool:
    """Whether a job starts here: a supervisor that is started again in the same job launches no agents."""
    return isinstance(entry.event, AllocationGranted) and any(True for _ in actions(entry, LaunchAgents))


def is_requeue(event: AllocationGranted, before: AllocationGranted | None) -> bool:
    """Whether a job starts once more, rather than another job."""
    return before is not None and event.job_id == before.job_id and event.restart > before.restart


def forgiven(entry: Entry) -> tuple[str, ...]:
    """The nodes that count again, since too few others would be left to ask Slurm for."""
    event = entry.event
    return event.forgiven if isinstance(event, RequeueAnswered) and entry.phase == Phase.REQUEUED else ()


def given_up(entry: Entry, nodes: Collection[str], before: Collection[str]) -> list[Diagnosis]:
    """The verdicts by which this entry condemns nodes.

    Args:
        entry: the entry.
        nodes: the nodes of the allocation.
        before: those condemned already.
    """
    verdicts = (verdict_of(said) for said in says(entry))
    return [found for found in verdicts if found and found.where in nodes and found.where not in before]
