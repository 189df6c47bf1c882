"""What would have changed the verdict on a silent node: found by asking the core again with one thing different.

Nothing here knows the rules. Each witness's word is turned around, the core judges once more, and what comes
out differently is told. So the sentences stay true when the rules change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ftslurm.core.events import Finding, Outcome, Witness
from ftslurm.core.verdict import NodeVerdict, Verdict, judge_node

_ASKED = (Witness.PING, Witness.TCP, Witness.SSH, Witness.SRUN, Witness.SLURM, Witness.PEER)

_ORDER = (Verdict.WELL, Verdict.UNKNOWN, Verdict.LOST)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What a node was judged by."""

    node: str
    findings: tuple[Finding, ...]
    silent_s: float
    wants_hard: bool

    def judged(self, findings: Sequence[Finding]) -> NodeVerdict:
        """What the rules say to these findings, everything else being equal, when no more will come."""
        return judge_node(self.node, findings, self.silent_s, final=True, wants_hard=self.wants_hard)


def of_node(evidence: Evidence) -> tuple[str, ...]:
    """Sentences that say which single word would have led to another verdict on a node that was given up.

    Empty where today's rules would not have given it up: the journal comes from a release with other ones.
    """
    now = evidence.judged(evidence.findings)
    if now.verdict is not Verdict.LOST:
        return ()
    by = {finding.witness: finding for finding in evidence.findings}
    changes: dict[tuple[int, str, str], list[Witness]] = {}
    for witness in _ASKED:
        finding = by.get(witness)
        turned = Outcome.UNKNOWN if finding is not None and finding.outcome is Outcome.OK else Outcome.OK
        other = evidence.judged([*_without(evidence.findings, witness), Finding(witness=witness, outcome=turned)])
        effect = _effect(evidence.node, now, other)
        if effect:
            how = "answering" if turned is Outcome.OK else "not answering"
            changes.setdefault((_ORDER.index(other.verdict), how, effect), []).append(witness)
    sentences = [f"{_one_of(changes[key])} {key[1]} {key[2]}" for key in sorted(changes)]
    none = f"no single answer: {evidence.node} would have been given up whatever one more witness had said"
    return tuple(sentences or [none])


def _effect(node: str, now: NodeVerdict, other: NodeVerdict) -> str:
    """What the other verdict would have meant; empty where it is the same."""
    if other.verdict is Verdict.WELL:
        return f"would have kept {node}"
    if other.verdict is Verdict.UNKNOWN:
        return f"would have left it open: {node} would have been asked about again"
    if other.diagnosis.cause is not now.diagnosis.cause:
        return f"would have made it {other.diagnosis.cause}, and {node} lost all the same"
    return ""


def _without(findings: Sequence[Finding], witness: Witness) -> list[Finding]:
    return [finding for finding in findings if finding.witness is not witness]


def _one_of(witnesses: Sequence[Witness]) -> str:
    names = [f"{witness}" for witness in witnesses]
    return names[0] if len(names) == 1 else f"one of {', '.join(names)}"
