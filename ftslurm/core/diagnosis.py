"""From evidence to a verdict: what happened, where, and the sentence that says why we think so.

Rules for nodes. Nobody is condemned on silence alone: it takes two independent witnesses who find the node dead or
stuck while another node answers the same observer, or Slurm's own word that the node has left the job. A refusal or a
missing tool is UNKNOWN and counts for nothing. srun's silence counts only when slurmctld itself has answered.

Rules for ranks. The first failure that does not look like a consequence of another is the cause; a lost connection is a
consequence. A signal from outside says little about the program, an exception says much.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from ftslurm.core.events import Finding, Outcome, RankExited, Witness

_CASCADE = re.compile(
    r"Connection (reset|closed|refused)|connection was (reset|closed)|Broken pipe|connectFullMesh failed|"
    r"recvBytes|DistNetworkError|ncclRemoteError|ncclSystemError|NCCL.*abort|PMIX ERROR|was aborted|"
    r"MPI_ERR_PROC_FAILED|DistBackendError|Timed out waiting .* store",
    re.IGNORECASE,
)
_EXCEPTION = re.compile(
    r"^(?P<line>(?P<name>[A-Za-z_][\w.]*(?:Error|Exception|Interrupt|Exit|Warning)): ?.*)$", re.MULTILINE
)
_RAISED = re.compile(
    r"^Traceback \(most recent call last\):\n(?:[ \t].*\n)+(?P<line>(?P<name>[A-Za-z_][\w.]*)(?::.*)?)$", re.MULTILINE
)
"""An exception by its usual name, or by its place below the frames: a program's own may have any name."""
_FRAME = re.compile(r'^\s+File "(?P<file>[^"]+)", line (?P<line>\d+)', re.MULTILINE)
_ORPHANED = 75


class Cause(StrEnum):
    """The class of a failure."""

    RANK_KILLED = "rank_killed"
    RANK_CRASHED = "rank_crashed"
    APPLICATION_ERROR = "application_error"
    OUT_OF_MEMORY = "out_of_memory"
    NODE_UNREACHABLE = "node_unreachable"
    NODE_FROZEN = "node_frozen"
    NODE_DOWN = "node_down"
    NODE_UNKILLABLE = "node_unkillable"
    EXCISED = "excised"
    AGENT_LOST = "agent_lost"
    LAUNCH_FAILED = "launch_failed"
    WRONG_WORLD = "wrong_world"
    CHECKPOINT_DAMAGED = "checkpoint_damaged"
    UNKNOWN = "unknown"


class Scope(StrEnum):
    """What a diagnosis is about."""

    RANK = "rank"
    NODE = "node"
    JOB = "job"


class Verdict(StrEnum):
    """What follows for a node that was suspected."""

    LOST = "lost"
    WELL = "well"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """A verdict with its reason; `signature` is equal for two failures that look the same."""

    cause: Cause
    scope: Scope
    where: str
    confidence: float
    reason: str
    signature: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeVerdict:
    """What the witnesses' words amount to."""

    verdict: Verdict
    diagnosis: Diagnosis


def judge_node(
    node: str, findings: Sequence[Finding], silent_s: float, *, final: bool, wants_hard: bool
) -> NodeVerdict:
    """Weigh the findings on a silent node.

    Args:
        node: its name.
        findings: at most one per witness; missing ones have not answered yet.
        silent_s: seconds since its agent was last heard.
        final: the deadline of the round has passed, nothing more will come.
        wants_hard: other nodes fell in the same incident: every witness must agree before one more is condemned.
    """
    by = {finding.witness: finding for finding in findings}
    slurm = by.get(Witness.SLURM)
    if slurm is not None and slurm.outcome is Outcome.FAILED:
        return _lost(node, Cause.NODE_DOWN, 0.99, f"Slurm says {slurm.detail}; {_silence(node, silent_s)}")
    dead = _against(by)
    if _well(by):
        return _well_verdict(node, by, silent_s)
    if by.get(Witness.PEER, _NOBODY).outcome is not Outcome.OK:
        why = "no other node answers either: the observer may be the one that is cut off" if final else "still asking"
        return _undecided(node, by, silent_s, why)
    if Witness.PING in dead and len(dead) >= (3 if wants_hard else 2):
        return _lost(node, Cause.NODE_UNREACHABLE, 0.95, _sentence(node, by, silent_s))
    if final and Witness.PING not in dead and Witness.SRUN in dead and (not wants_hard or Witness.SSH in dead):
        return _lost(node, Cause.NODE_FROZEN, 0.9, _sentence(node, by, silent_s))
    return _undecided(node, by, silent_s, "two witnesses are needed" if final else "still asking")


_NOBODY = Finding(witness=Witness.PEER, outcome=Outcome.UNKNOWN)


def _against(by: dict[Witness, Finding]) -> set[Witness]:
    """Return the witnesses whose word counts against the node."""
    dead: set[Witness] = {
        witness
        for witness in (Witness.PING, Witness.TCP, Witness.SSH, Witness.SRUN)
        if witness in by and by[witness].outcome in (Outcome.UNREACHABLE, Outcome.FAILED)
    }
    slurm_answers = Witness.SLURM in by and by[Witness.SLURM].outcome is Outcome.OK
    return dead if slurm_answers else dead - {Witness.SRUN}


def _well(by: dict[Witness, Finding]) -> bool:
    """A node is well when something that needs a running process there has answered: srun's step, or ssh's echo."""
    return any(by.get(each, _NOBODY).outcome is Outcome.OK for each in (Witness.SRUN, Witness.SSH, Witness.CONTROL))


def _well_verdict(node: str, by: dict[Witness, Finding], silent_s: float) -> NodeVerdict:
    reason = _sentence(node, by, silent_s)
    found = Diagnosis(cause=Cause.AGENT_LOST, scope=Scope.NODE, where=node, confidence=0.9, reason=reason)
    return NodeVerdict(verdict=Verdict.WELL, diagnosis=found)


def _lost(node: str, cause: Cause, confidence: float, reason: str) -> NodeVerdict:
    found = Diagnosis(cause=cause, scope=Scope.NODE, where=node, confidence=confidence, reason=reason, signature=cause)
    return NodeVerdict(verdict=Verdict.LOST, diagnosis=found)


def _undecided(node: str, by: dict[Witness, Finding], silent_s: float, why: str) -> NodeVerdict:
    reason = f"{_sentence(node, by, silent_s)}; {why}"
    found = Diagnosis(cause=Cause.UNKNOWN, scope=Scope.NODE, where=node, confidence=0.0, reason=reason)
    return NodeVerdict(verdict=Verdict.UNKNOWN, diagnosis=found)


def _sentence(node: str, by: dict[Witness, Finding], silent_s: float) -> str:
    words = ", ".join(
        f"{witness} {finding.outcome}" + (f" ({finding.detail})" if finding.detail else "")
        for witness, finding in sorted(by.items())
    )
    silence = _silence(node, silent_s)
    return f"{silence}; {words}" if words else silence


def _silence(node: str, silent_s: float) -> str:
    """What made the node a suspect: a connection that was closed, or silence."""
    return f"{node} is silent for {silent_s:.1f} s" if silent_s else f"the agent on {node} has hung up"


def is_cascade(event: RankExited) -> bool:
    """Tell whether a rank's end looks like the consequence of somebody else's."""
    if event.signal:
        return False
    lines = [line for line in event.tail.splitlines() if line.strip()]
    return event.code == _ORPHANED or bool(lines and _CASCADE.search("\n".join(lines[-6:])))


def first_failure(exits: Sequence[RankExited]) -> RankExited:
    """Return the failed rank that the others followed, where they are given in the order in which they were heard."""
    return next((event for event in exits if not is_cascade(event)), exits[0])


def diagnose_exits(exits: Sequence[RankExited]) -> Diagnosis:
    """Return the cause behind the failed ranks of one attempt, given in the order in which they were heard."""
    if not exits:
        return Diagnosis(
            cause=Cause.UNKNOWN, scope=Scope.JOB, where="", confidence=0.0, reason="no rank reported why it ended"
        )
    primary = first_failure(exits)
    others = len(exits) - 1
    after = f"; {others} other rank{'s' if others > 1 else ''} ended after it" if others else ""
    where = f"rank {primary.rank} on {primary.node}"
    if primary.oom:
        return _rank(primary, Cause.OUT_OF_MEMORY, f"the kernel killed {where} for memory{after}", "oom")
    if primary.signal:
        cause = Cause.RANK_KILLED if primary.signal in (2, 9, 15) else Cause.RANK_CRASHED
        text = f"{where} was ended by signal {primary.signal}{after}"
        return _rank(primary, cause, text, f"signal {primary.signal}")
    name = last_exception(primary.tail)
    text = f"{where} exited with code {primary.code}" + (f" ({name})" if name else "") + after
    return _rank(primary, Cause.APPLICATION_ERROR, text, _signature(primary))


def _rank(event: RankExited, cause: Cause, reason: str, signature: str) -> Diagnosis:
    return Diagnosis(
        cause=cause,
        scope=Scope.RANK,
        where=f"{event.rank}@{event.node}",
        confidence=0.8,
        reason=reason,
        signature=signature,
    )


def last_exception(tail: str) -> str:
    """Return the last `SomeError: text` line of a traceback, or nothing."""
    found = _last_match(tail)
    return found["line"].strip() if found else ""


def _last_match(tail: str) -> re.Match[str] | None:
    found = [*_EXCEPTION.finditer(tail), *_RAISED.finditer(tail)]
    return max(found, key=lambda match: match.end(), default=None)


def _signature(event: RankExited) -> str:
    """Two application errors are the same when exception type and innermost frame are, whatever their numbers say."""
    found = _last_match(event.tail)
    frames = list(_FRAME.finditer(event.tail))
    name = found["name"] if found else ""
    frame = f"{frames[-1].group('file')}:{frames[-1].group('line')}" if frames else ""
    return f"exit {event.code} {name} {frame}".strip()
