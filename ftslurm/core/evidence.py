"""What is kept of the events of an attempt, so that its end can be explained from all of them together.

The state machine reacts to each event as it comes; why an attempt failed is asked later, when its ranks are gone.
Until then the events that may speak about it are kept here, in the order in which they were heard: the last words of
the launcher and of Slurm come after the ranks' own. A new attempt begins with no evidence. Verdicts on nodes join them
as `Judged`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ftslurm.core.conditions import MemoryKilled, NodeHealth, XidSeen
from ftslurm.core.diagnosis import Cause, Diagnosis
from ftslurm.core.events import (
    ENDED,
    Event,
    LaunchEnded,
    Phase,
    RankExited,
    RestoreRefused,
    SlurmReported,
    StopRequested,
    StorageStalled,
)
from ftslurm.core.symptoms import AutopsyTaken, LossAlarm, RanksResumed, RanksStalled

if TYPE_CHECKING:
    from ftslurm.core.state import Run

MOST = 256
MOST_EXITS = 64
"""Events kept at most, and ends of ranks among them, the first ones: what comes after that many is a consequence."""
SPEAKING_STATES = frozenset(
    {"TIMEOUT", "DEADLINE", "PREEMPTED", "CANCELLED", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "LAUNCH_FAILED"}
)
"""States of a job that say why its processes ended."""
_ALWAYS = (
    AutopsyTaken,
    LossAlarm,
    MemoryKilled,
    NodeHealth,
    RanksStalled,
    XidSeen,
    LaunchEnded,
    RestoreRefused,
    StopRequested,
    StorageStalled,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged(Event):
    """A verdict that was reached while the attempt ran: on a node, or by a watch of its own. Never in a journal."""

    diagnosis: Diagnosis


def speaks(event: Event) -> bool:
    """Tell whether an event may say why an attempt failed."""
    if isinstance(event, SlurmReported):
        return event.job_state in SPEAKING_STATES
    return isinstance(event, (Judged, RankExited, *_ALWAYS))


def add(evidence: tuple[Event, ...], event: Event, attempt: int) -> tuple[Event, ...]:
    """Return the evidence on an attempt with one more event, unless it is about another one or says nothing new."""
    if isinstance(event, RanksResumed) and event.attempt == attempt:
        return tuple(each for each in evidence if not (of_stall(each) or isinstance(each, AutopsyTaken)))
    if not speaks(event) or getattr(event, "attempt", attempt) != attempt or len(evidence) >= MOST:
        return evidence
    if isinstance(event, RankExited):
        exits = [each for each in evidence if isinstance(each, RankExited)]
        news = len(exits) < MOST_EXITS and not any(_tells_already(event, each) for each in exits)
        return (*evidence, event) if news else evidence
    timeless = replace(event, at=0.0, mono=0.0)
    if any(replace(each, at=0.0, mono=0.0) == timeless for each in evidence if type(each) is type(event)):
        return evidence
    return (*evidence, event)


def of_stall(event: Event) -> bool:
    """Tell whether it says that the program hangs, which ranks that go on disprove."""
    judged = isinstance(event, Judged) and event.diagnosis.cause is Cause.PROGRAM_HANG
    return judged or isinstance(event, RanksStalled)


def _tells_already(event: RankExited, other: RankExited) -> bool:
    """The first report of a rank counts; of those that ended with success, the first alone, and before any failure."""
    well = not event.code and not event.signal
    return well or other.rank == event.rank


def heard(run: Run, event: Event) -> Run:
    """Return the run with an event among the evidence on its attempt; nothing is added once the run has left."""
    if run.attempt is None or run.phase in ENDED | {Phase.REQUEUED}:
        return run
    kept = add(run.evidence, event, run.attempt.number)
    return run if kept is run.evidence else replace(run, evidence=kept)


def gathered(run: Run) -> tuple[Event, ...]:
    """Return all the evidence on the attempt: the events, the verdicts on its nodes, and what it was stopped for."""
    nodes = run.attempt.nodes if run.attempt else ()
    verdicts = [found for node, found in run.condemned.items() if node in nodes]
    if run.blame is not None and run.blame not in verdicts:
        verdicts.append(run.blame)
    return (*run.evidence, *(Judged(diagnosis=found) for found in verdicts))
