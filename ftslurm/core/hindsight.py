"""The verdicts on nodes that follow from an attempt's events, for those who look at them afterwards.

While a run is alive its state holds them. A report, a benchmark or a test that has the events alone asks the same rules
again: what the witnesses said, which nodes Slurm took away, which would not let go of a process.
"""

from __future__ import annotations

from collections.abc import Sequence

from ftslurm.core.diagnosis import Cause, Diagnosis, Scope
from ftslurm.core.events import Event, NodeFenced, NodeProbed, NodeSuspected, SlurmReported
from ftslurm.core.evidence import Judged
from ftslurm.core.verdict import Verdict, judge_node


def with_verdicts(events: Sequence[Event]) -> tuple[Event, ...]:
    """Return the events, each followed by the verdicts that it led to."""
    silent: dict[str, float] = {}
    lost: set[str] = set()
    found: list[Event] = []
    for event in events:
        found.append(event)
        if isinstance(event, NodeSuspected):
            silent[event.node] = event.silent_s
        for verdict in _verdicts(event, silent, lost):
            if verdict.where not in lost:
                lost.add(verdict.where)
                found.append(Judged(at=event.at, mono=event.mono, diagnosis=verdict))
    return tuple(found)


def _verdicts(event: Event, silent: dict[str, float], lost: set[str]) -> tuple[Diagnosis, ...]:
    if isinstance(event, NodeProbed):
        silent_s = silent.get(event.node, 0.0)
        verdict = judge_node(event.node, event.findings, silent_s, final=event.final, wants_hard=bool(lost))
        return (verdict.diagnosis,) if verdict.verdict is Verdict.LOST else ()
    if isinstance(event, SlurmReported):
        return tuple(
            _of_node(Cause.EXCISED, node, 1.0, f"Slurm has taken {node} out of the job") for node in event.gone
        )
    if isinstance(event, NodeFenced) and event.left:
        reason = f"processes on {event.node} cannot be killed: {', '.join(event.left[:5])}"
        return (_of_node(Cause.NODE_UNKILLABLE, event.node, 0.9, reason),)
    return ()


def _of_node(cause: Cause, node: str, confidence: float, reason: str) -> Diagnosis:
    return Diagnosis(cause=cause, scope=Scope.NODE, where=node, confidence=confidence, reason=reason, signature=cause)
