"""From what the witnesses say about a silent node to a verdict, with the sentence that says why.

- Nobody is condemned on silence alone: it takes two independent witnesses who find the node dead or stuck while another
  node answers the same observer, or Slurm's own word that the node has left the job.
- A refusal or a missing tool is UNKNOWN and counts for nothing; srun's silence counts only when slurmctld answers.
- The ring is another node's view. Where it still hears the node, only the observer's own way to it is broken.
- `wants_hard`: more nodes are lost than is likely, so it may be the observer who is wrong. Then every witness must find
  the node unreachable, at the deadline, and none may have an answer from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from ftslurm.core.diagnosis import Cause, Diagnosis, Scope
from ftslurm.core.events import Finding, Outcome, Witness

ASKED = (Witness.PING, Witness.TCP, Witness.SSH, Witness.SRUN, Witness.RING)
"""Who can speak against a node besides Slurm."""


class Verdict(StrEnum):
    """What follows for a node that was suspected."""

    LOST = "lost"
    WELL = "well"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeVerdict:
    """What the witnesses' words amount to.

    Attributes:
        hard: Slurm itself says so: nothing that the observer may be wrong about matters.
        short: two witnesses speak against the node, which would do if `wants_hard` did not ask for more.
    """

    verdict: Verdict
    diagnosis: Diagnosis
    hard: bool = False
    short: bool = False


def judge_node(
    node: str, findings: Sequence[Finding], silent_s: float, *, final: bool, wants_hard: bool
) -> NodeVerdict:
    """Weigh the findings on a silent node.

    Args:
        node: its name.
        findings: at most one per witness; missing ones have not answered yet.
        silent_s: seconds since its agent was last heard.
        final: the deadline of the round has passed, nothing more will come.
        wants_hard: see the head of this file.
    """
    by = {finding.witness: finding for finding in findings}
    slurm = by.get(Witness.SLURM)
    if slurm is not None and slurm.outcome is Outcome.FAILED:
        reason = f"Slurm says {slurm.detail}; {_silence(node, silent_s)}"
        return NodeVerdict(verdict=Verdict.LOST, diagnosis=_found(node, Cause.NODE_DOWN, 0.99, reason), hard=True)
    sentence = _sentence(node, by, silent_s)
    if _says_ok(by, Witness.SRUN, Witness.SSH, Witness.CONTROL):
        return NodeVerdict(verdict=Verdict.WELL, diagnosis=_found(node, Cause.AGENT_LOST, 0.9, sentence))
    why = _objection(by, final=final)
    if why:
        return _undecided(node, f"{sentence}; {why}")
    cause = Cause.NODE_FROZEN if _says_ok(by, Witness.PING, Witness.TCP) else Cause.NODE_UNREACHABLE
    if wants_hard and not (final and cause is Cause.NODE_UNREACHABLE and len(_against(by)) >= _ALL_OF):
        many = "so many nodes are lost or silent at once that every witness must find it unreachable"
        return _undecided(node, f"{sentence}; {many if final else 'still asking'}", short=final)
    return NodeVerdict(verdict=Verdict.LOST, diagnosis=_found(node, cause, _CONFIDENCE[cause], sentence))


_NOBODY = Finding(witness=Witness.PEER, outcome=Outcome.UNKNOWN)
_CONFIDENCE = {Cause.NODE_UNREACHABLE: 0.95, Cause.NODE_FROZEN: 0.9}
_ALL_OF = 3
"""How many must have been able to speak, where every one must: on some sites two of the five never can."""


def _objection(by: dict[Witness, Finding], *, final: bool) -> str:
    """Return why the node cannot be condemned by these words; empty where it can."""
    if _says_ok(by, Witness.RING):
        return "the ring still hears it: only the observer's way to it may be broken"
    if not _says_ok(by, Witness.PEER):
        return "no other node answers either: the observer may be the one that is cut off" if final else "still asking"
    against = _against(by)
    alive = _says_ok(by, Witness.PING, Witness.TCP)  # the kernel: the node may be frozen, which takes time to tell
    enough = len(against) >= 2 and (final if alive else bool(against & {Witness.PING, Witness.RING}) or final)
    if enough:
        return ""
    return "two witnesses are needed" if final else "still asking"


def _against(by: dict[Witness, Finding]) -> set[Witness]:
    """Return the witnesses whose word counts against the node."""
    dead: set[Witness] = {
        witness for witness in ASKED if witness in by and by[witness].outcome in (Outcome.UNREACHABLE, Outcome.FAILED)
    }
    return dead if _says_ok(by, Witness.SLURM) else dead - {Witness.SRUN}


def _says_ok(by: dict[Witness, Finding], *witnesses: Witness) -> bool:
    return any(by.get(each, _NOBODY).outcome is Outcome.OK for each in witnesses)


def _undecided(node: str, reason: str, *, short: bool = False) -> NodeVerdict:
    return NodeVerdict(verdict=Verdict.UNKNOWN, diagnosis=_found(node, Cause.UNKNOWN, 0.0, reason), short=short)


def _found(node: str, cause: Cause, confidence: float, reason: str) -> Diagnosis:
    signature = cause if confidence and cause is not Cause.AGENT_LOST else ""
    return Diagnosis(
        cause=cause, scope=Scope.NODE, where=node, confidence=confidence, reason=reason, signature=signature
    )


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
