"""Reading one journal entry: what the core said in it, and which nodes it gave up.

The story of a run is told from what was recorded, not by taking the decisions again: a journal may have been written by
an older release, whose decisions were others. Slugs are the core's stable names for what it says.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, TypeVar

from ftslurm.core.actions import Action, LaunchAgents, Say
from ftslurm.core.diagnosis import Cause
from ftslurm.core.events import AllocationGranted, NodeFenced, NodeProbed, Phase, RequeueAnswered, SlurmReported

if TYPE_CHECKING:
    from ftslurm.journal import Entry

NODE_CAUSES = frozenset(
    {Cause.NODE_UNREACHABLE, Cause.NODE_FROZEN, Cause.NODE_DOWN, Cause.NODE_UNKILLABLE, Cause.EXCISED}
)
"""Verdicts after which a node stays out for the rest of the run."""

PLAN = "plan_"
_VERDICTS = frozenset(Cause) - {Cause.AGENT_LOST, Cause.CHECKPOINT_DAMAGED}
"""The other two are said in passing: a node that is well, a checkpoint that is set aside."""

Kind = TypeVar("Kind", bound=Action)


def actions(entry: Entry, kind: type[Kind]) -> Iterator[Kind]:
    """The entry's actions of one kind, in order."""
    return (action for action in entry.actions if isinstance(action, kind))


def says(entry: Entry) -> Iterator[Say]:
    """What the core said to the user in this entry, in order."""
    return actions(entry, Say)


def verdict_of(said: Say) -> Cause | None:
    """The cause, where what was said is a verdict on a failure."""
    return Cause(said.slug) if said.slug in _VERDICTS else None


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


def given_up(entry: Entry, nodes: Collection[str], before: Collection[str]) -> list[tuple[str, Cause, str]]:
    """The nodes that this entry condemns, with cause and reason.

    Args:
        entry: the entry.
        nodes: the nodes of the allocation.
        before: those condemned already.
    """
    if not entry.actions:
        return []
    verdicts = [(cause, said.text) for said in says(entry) if (cause := verdict_of(said)) in NODE_CAUSES and cause]
    event = entry.event
    if isinstance(event, SlurmReported):
        gone = [node for node in event.gone if node in nodes and node not in before]
        reasons = {node: text for node in gone for _, text in verdicts if node in text.split()}
        return [(node, Cause.EXCISED, reasons.get(node, "Slurm has taken it out of the job")) for node in gone]
    if isinstance(event, NodeProbed | NodeFenced) and verdicts:
        return [(event.node, *verdicts[0])]
    return []
