"""What each event says about a failure: its cause, its place, how much it weighs. `core.fusion` takes them together.

Weights follow one scale: 0.97 for the word of him who did it (Slurm, the user), 0.9 to 0.95 for what only the cause
itself brings about (the kernel's count, a verdict of witnesses), 0.85 for an exception or a crash, 0.75 for a signal
whose sender nobody knows, 0.6 for an exit code alone, and 0.55 for a hint.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ftslurm.core.conditions import MemoryKilled, NodeHealth, XidSeen
from ftslurm.core.diagnosis import Cause, Scope
from ftslurm.core.events import Event, LaunchEnded, RankExited, RestoreRefused, SlurmReported, StopRequested
from ftslurm.core.events import StorageStalled as Stalled
from ftslurm.core.evidence import Judged
from ftslurm.core.health import METRICS, Level
from ftslurm.core.patterns import Reading, Role, last_exception, place_of_error, read, read_line
from ftslurm.core.symptoms import AutopsyTaken, LossAlarm, RanksStalled
from ftslurm.core.xids import Response, response_to

ORPHANED = 75
"""The exit code of a rank whose agent went away for good."""
_KILLED = frozenset({1, 2, 9, 15, 24})
_ABORT = 6
_FIRM = 0.85


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """One thing that somebody said about a failure.

    `where` is `rank@node`, a node, or empty; `node` is the node alone. `text` is the sentence.
    """

    cause: Cause
    role: Role
    weight: float
    scope: Scope
    where: str
    node: str
    source: str
    text: str
    at: float = 0.0
    mono: float = 0.0
    signature: str = ""

    def lighter(self, share: float) -> Fact:
        """The same fact with a share of its weight."""
        return replace(self, weight=self.weight * share)


def facts_of(events: Sequence[Event]) -> tuple[Fact, ...]:
    """Return the facts that the events hold, in the events' order."""
    found = []
    for event in events:
        reader = _READERS.get(type(event))
        fact = reader(event) if reader else None
        if fact is not None:
            found.append(replace(fact, at=event.at, mono=event.mono))
    return tuple(found)


# ---------------------------------------------------------------------------------------------------------- ranks


def of_exit(event: RankExited) -> Fact:
    """What a rank's end says."""
    place = f"rank {event.rank} on {event.node}"
    if not event.code and not event.signal:
        # Where the others only lost a connection, it was to the one that had left.
        text = f"{place} had ended with success before"
        return replace(_of_rank(event, Cause.APPLICATION_ERROR, 0.6, text, "left early"), role=Role.CASCADE)
    said = read(event.tail)
    if event.oom:
        return _of_rank(event, Cause.OOM_HOST, 0.95, f"the kernel killed {place} for memory", "oom")
    if event.signal:
        return _of_signal(event, place, said)
    if event.code == ORPHANED:
        text = f"{place} has ended itself: its agent was gone"
        return replace(_of_rank(event, Cause.UNKNOWN, 0.3, text, ""), role=Role.CASCADE)
    exception = last_exception(event.tail)
    detail = exception if exception or said is None else said.line
    if said is not None and exception and read_line(exception) is None and said.cause is not Cause.APPLICATION_ERROR:
        detail = said.line
    text = f"{place} exited with code {event.code}" + (f" ({detail})" if detail else "")
    signature = f"exit {event.code} {place_of_error(event.tail)}".strip()
    if said is None:
        killed = event.code in {128 + number for number in _KILLED}
        return _of_rank(event, Cause.RANK_KILLED if killed else Cause.APPLICATION_ERROR, 0.6, text, signature)
    return replace(_of_rank(event, said.cause, said.weight, text, signature), role=said.role)


def _of_signal(event: RankExited, place: str, said: Reading | None) -> Fact:
    text, signature = f"{place} was ended by signal {event.signal}", f"signal {event.signal}"
    if said is not None and said.role is Role.INITIATING and said.weight > _FIRM:
        return _of_rank(event, said.cause, said.weight, f"{text} ({said.line})", signature)
    if said is not None and said.role is Role.CASCADE and event.signal == _ABORT:
        return replace(_of_rank(event, said.cause, said.weight, f"{text} ({said.line})", signature), role=Role.CASCADE)
    if event.signal in _KILLED:
        return _of_rank(event, Cause.RANK_KILLED, 0.75, text, signature)
    return _of_rank(event, Cause.RANK_CRASHED, 0.85, text, signature)


def _of_rank(event: RankExited, cause: Cause, weight: float, text: str, signature: str) -> Fact:
    return Fact(
        cause=cause,
        role=Role.INITIATING,
        weight=weight,
        scope=Scope.RANK,
        where=f"{event.rank}@{event.node}",
        node=event.node,
        source=f"agent of {event.node}",
        text=" ".join(text.split()),
        signature=signature,
    )


# ----------------------------------------------------------------------------------------- launcher, Slurm, the user


def _job(cause: Cause, weight: float, source: str, text: str) -> Fact:
    return Fact(
        cause=cause,
        role=Role.INITIATING,
        weight=weight,
        scope=Scope.JOB,
        where="",
        node="",
        source=source,
        text=" ".join(text.split()),
    )


def _of_launch(event: LaunchEnded) -> Fact | None:
    """A launcher's words are read; its code alone proves little, and a launcher that we ended says nothing (M11)."""
    said = read(event.output)
    if said is not None and said.role is Role.INITIATING:
        return _job(said.cause, said.weight, "the launcher", f"the launcher says: {said.line}")
    if event.code <= 0 or not event.output.strip():
        return None
    last = event.output.strip().splitlines()[-1]
    return _job(Cause.LAUNCH_FAILED, 0.55, "the launcher", f"the launcher ended with code {event.code}: {last}")


_STATES = {
    "TIMEOUT": (Cause.TIME_LIMIT, 0.97),
    "DEADLINE": (Cause.TIME_LIMIT, 0.97),
    "PREEMPTED": (Cause.PREEMPTION, 0.97),
    "CANCELLED": (Cause.CANCEL, 0.97),
    "NODE_FAIL": (Cause.NODE_DOWN, 0.9),
    "OUT_OF_MEMORY": (Cause.OOM_HOST, 0.9),
    "BOOT_FAIL": (Cause.SCHEDULER, 0.9),
    "LAUNCH_FAILED": (Cause.SCHEDULER, 0.9),
}
_STOPS = {
    "time_limit": (Cause.TIME_LIMIT, "the time limit is near"),
    "preempt": (Cause.PREEMPTION, "the job is being preempted"),
    "cancel": (Cause.CANCEL, "the job is being cancelled"),
    "user": (Cause.CANCEL, "the user has asked the run to stop"),
}


def _of_slurm(event: SlurmReported) -> Fact | None:
    if event.job_state not in _STATES:
        return None
    cause, weight = _STATES[event.job_state]
    return _job(cause, weight, "Slurm", f"Slurm says that the job is {event.job_state}")


def _of_stop(event: StopRequested) -> Fact | None:
    if event.why not in _STOPS:
        return None
    cause, text = _STOPS[event.why]
    return _job(cause, 0.97, "Slurm", text)


def _of_storage(event: Stalled) -> Fact | None:
    """The longer shared storage hangs, the more it explains."""
    if not event.for_s:
        return None
    weight = min(0.55 + event.for_s / 200.0, 0.85)
    what = f": {event.error}" if event.error else ""
    text = f"shared storage has not taken a write for {event.for_s:.0f} s{what}"
    return _job(Cause.STORAGE, weight, "the supervisor", text)


def _of_refusal(event: RestoreRefused) -> Fact:
    cause, weight = (Cause.CHECKPOINT_DAMAGED, 0.92) if event.damaged else (Cause.STORAGE, 0.7)
    text = f"{event.node} could not restore {event.generation}: {event.reason}"
    return _job(cause, weight, f"agent of {event.node}", text)


# ---------------------------------------------------------------------------------------------- nodes and the program


def _node(node: str, cause: Cause, weight: float, text: str) -> Fact:
    return Fact(
        cause=cause,
        role=Role.INITIATING,
        weight=weight,
        scope=Scope.NODE,
        where=node,
        node=node,
        source=f"agent of {node}",
        text=" ".join(text.split()),
    )


def _of_verdict(event: Judged) -> Fact | None:
    found = event.diagnosis
    if found.cause in (Cause.UNKNOWN, Cause.AGENT_LOST):
        return None
    return Fact(
        cause=found.cause,
        role=Role.INITIATING,
        weight=found.confidence,
        scope=found.scope,
        where=found.where,
        node=found.where.rpartition("@")[2],
        source="the witnesses" if found.scope is Scope.NODE else "the supervisor",
        text=found.reason,
        signature=found.signature,
    )


_BY_LEVEL = {Level.FAILED: 0.9, Level.CRITICAL: 0.7}


def _of_health(event: NodeHealth) -> Fact | None:
    """What a probe finds wrong with a node; a warning says nothing about a failure."""
    if event.level not in _BY_LEVEL:
        return None
    cause = METRICS[event.metric].cause if event.metric in METRICS else Cause.NODE_UNHEALTHY
    return _node(event.node, cause, _BY_LEVEL[event.level], f"{event.node}: {event.reason}")


_XIDS = {
    Response.RESET: (Cause.GPU, 0.92),
    Response.REPLACE: (Cause.GPU, 0.95),
    Response.REPEAT: (Cause.GPU, 0.75),
    Response.RELAUNCH: (Cause.APPLICATION_ERROR, 0.6),
}
"""What an XID speaks for. Of those that end the program most are its own doing (13, 31); the others say nothing."""


def _of_xid(event: XidSeen) -> Fact | None:
    response = response_to(event.xid)
    if response not in _XIDS:
        return None
    cause, weight = _XIDS[response]
    text = f"GPU {event.gpu} on {event.node} reported XID {event.xid}" + (f" ({event.text})" if event.text else "")
    return _node(event.node, cause, weight, text)


def _of_memory(event: MemoryKilled) -> Fact:
    times = f"{event.kills} process{'es' if event.kills > 1 else ''}"
    text = f"the kernel's memory killer has ended {times} of the job on {event.node}"
    return _node(event.node, Cause.OOM_HOST, 0.93, text)


def _of_stall(event: RanksStalled) -> Fact:
    odd = event.behind or (event.ranks if event.count == 1 else ())
    who = f"rank {odd[0]}" if len(odd) == 1 else f"{event.count} ranks"
    text = f"{who} made no progress for {event.silent_s:.0f} s in {event.phase} (limit {event.limit_s:.0f} s)"
    if event.early:
        text = f"{who} had made no progress for {event.silent_s:.0f} s in {event.phase}, shortly before"
    return _job(Cause.PROGRAM_HANG, 0.85, "the supervisor", text)


def _of_autopsy(event: AutopsyTaken) -> Fact | None:
    """Ranks that all stand in the kernel wait for storage; a hang is no fault of the program then."""
    if event.resumed or not event.stacks or any(stack.state != "blocked" for stack in event.stacks):
        return None
    ranks = sum(len(stack.ranks) for stack in event.stacks)
    return _job(Cause.STORAGE, 0.8, "the agents", f"all {ranks} ranks wait in the kernel, as they do for storage")


def _of_loss(event: LossAlarm) -> Fact | None:
    if event.kind != "nan":
        return None
    text = f"the loss of rank {event.rank} is {event.value} at step {event.step}"
    return _job(Cause.NAN, 0.55, f"rank {event.rank}", text)


_READERS: dict[type[Event], Callable[[Any], Fact | None]] = {
    RankExited: of_exit,
    LaunchEnded: _of_launch,
    SlurmReported: _of_slurm,
    StopRequested: _of_stop,
    Stalled: _of_storage,
    RestoreRefused: _of_refusal,
    Judged: _of_verdict,
    NodeHealth: _of_health,
    XidSeen: _of_xid,
    MemoryKilled: _of_memory,
    RanksStalled: _of_stall,
    AutopsyTaken: _of_autopsy,
    LossAlarm: _of_loss,
}
