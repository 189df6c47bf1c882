"""What the MPI heartbeats tell of the run: that they are there or not, and a node that they alone miss.

None of it starts, stops or excludes anything. Agents and ranks do not depend on the ring, and a node that TCP hears is
not lost; but when a collective of the program fails later, the fabric's silence explains it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from ftslurm.core import evidence
from ftslurm.core.actions import Action, Say
from ftslurm.core.diagnosis import Cause, Diagnosis, Scope
from ftslurm.core.events import Event
from ftslurm.core.recovery import Policy
from ftslurm.core.state import Run


class RingState(StrEnum):
    """UP: every member is heard. LOST: it ended and is started again. OFF: there is none, and none will be started."""

    UP = "up"
    LOST = "lost"
    OFF = "off"


@dataclass(frozen=True, slots=True, kw_only=True)
class RingChanged(Event):
    """The ring came up, ended, or cannot be had; `detail` says what was found."""

    state: RingState
    nodes: tuple[str, ...] = ()
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FabricSilent(Event):
    """A node's successor in the ring, `by`, does not hear it any more, while TCP does; `others` of `of` are heard."""

    node: str
    by: str
    silent_s: float
    others: int
    of: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FabricHeard(Event):
    """The ring hears such a node again."""

    node: str


def on_ring_changed(run: Run, event: RingChanged, policy: Policy) -> tuple[Run, tuple[Action, ...]]:
    """Tell it. Nothing else follows: neither agents nor ranks depend on the ring."""
    del policy
    if event.state is RingState.UP:
        text = f"MPI heartbeats are up on {len(event.nodes)} nodes ({event.detail})"
    elif event.state is RingState.LOST:
        text = f"MPI heartbeats have ended: {event.detail}"
    else:
        text = f"the run goes on without MPI heartbeats: {event.detail}"
    return run, (Say(text=text, slug=f"ring_{event.state}"),)


def on_fabric_silent(run: Run, event: FabricSilent, policy: Policy) -> tuple[Run, tuple[Action, ...]]:
    """Tell it, and keep it as evidence for the diagnosis of a failure that may follow."""
    del policy
    if event.node in run.condemned or event.node in run.suspects:
        return run, ()
    reason = (
        f"{event.by} has not heard {event.node} over MPI for {event.silent_s:.1f} s, while {event.others} of "
        f"{event.of} other members are heard and TCP hears {event.node}"
    )
    found = Diagnosis(
        cause=Cause.FABRIC, scope=Scope.JOB, where=event.node, confidence=0.6, reason=reason, signature=Cause.FABRIC
    )
    said = Say(text=f"{reason}: the fabric may be at fault; nobody is excluded for it", slug="fabric_silent")
    return evidence.heard(run, evidence.Judged(at=event.at, mono=event.mono, diagnosis=found)), (said,)


def on_fabric_heard(run: Run, event: FabricHeard, policy: Policy) -> tuple[Run, tuple[Action, ...]]:
    """Tell it."""
    del policy
    return run, (Say(text=f"{event.node} is heard over MPI again", slug="fabric_heard"),)


RULES = ((RingChanged, on_ring_changed), (FabricSilent, on_fabric_silent), (FabricHeard, on_fabric_heard))
"""What the table of `core.run` says of these events in every phase of a run that has not ended."""
