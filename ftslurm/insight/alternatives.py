"""What would have changed a verdict: found by asking the decision's own rules again with one thing different.

Nothing here knows the rules. Each witness's word is turned around, `core.diagnosis` judges once more, and what comes
out differently is told. So the sentences stay true when the rules change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ftslurm.core.diagnosis import Cause, NodeVerdict, Verdict, diagnose_exits, is_cascade, judge_node
from ftslurm.core.events import Finding, Outcome, RankExited, Witness

_ASKED = (Witness.PING, Witness.TCP, Witness.SSH, Witness.SRUN, Witness.SLURM, Witness.PEER)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What a node was judged by."""

    node: str
    findings: tuple[Finding, ...]
    silent_s: float
    final: bool
    wants_hard: bool

    def judged(self, findings: Sequence[Finding]) -> NodeVerdict:
        """What the rules say to these findings, everything else being equal."""
        return judge_node(self.node, findings, self.silent_s, final=self.final, wants_hard=self.wants_hard)


def of_node(evidence: Evidence) -> tuple[str, ...]:
    """Sentences that say which single word would have led to another verdict on a node that was given up.

    Empty where today's rules would not have given it up: the journal comes from a release with other ones.
    """
    now = evidence.judged(evidence.findings)
    if now.verdict is not Verdict.LOST:
        return ()
    by = {finding.witness: finding for finding in evidence.findings}
    kept: list[Witness] = []
    renamed: dict[Cause, list[Witness]] = {}
    doubted: list[Witness] = []
    for witness in _ASKED:
        finding = by.get(witness)
        turned = Outcome.UNKNOWN if finding is not None and finding.outcome is Outcome.OK else Outcome.OK
        other = evidence.judged([*_without(evidence.findings, witness), Finding(witness=witness, outcome=turned)])
        if other.verdict is Verdict.LOST:
            if other.diagnosis.cause is not now.diagnosis.cause:
                renamed.setdefault(other.diagnosis.cause, []).append(witness)
        elif turned is Outcome.OK:
            kept.append(witness)
        else:
            doubted.append(witness)
    return tuple(_sentences(evidence.node, kept, renamed, doubted))


def _without(findings: Sequence[Finding], witness: Witness) -> list[Finding]:
    return [finding for finding in findings if finding.witness is not witness]


def _sentences(
    node: str, kept: list[Witness], renamed: dict[Cause, list[Witness]], doubted: list[Witness]
) -> list[str]:
    sentences = []
    if kept:
        sentences.append(f"{_one_of(kept)} answering would have kept {node}")
    for cause, witnesses in renamed.items():
        sentences.append(f"{_one_of(witnesses)} answering would have made it {cause}: given up all the same")
    if doubted:
        sentences.append(f"without the answer of {_one_of(doubted)} nothing would have been decided yet")
    return sentences or [f"no single answer: {node} would have been given up whatever one more witness had said"]


def _one_of(witnesses: Sequence[Witness]) -> str:
    names = [f"{witness}" for witness in witnesses]
    return names[0] if len(names) == 1 else f"one of {', '.join(names)}"


def of_ranks(exits: Sequence[RankExited]) -> tuple[str, ...]:
    """What the verdict on the ranks' exits rests on, and what it would have been without the one that decided."""
    if not exits:
        return ("a report of any rank about its end",)
    primary = next((event for event in exits if not is_cascade(event)), exits[0])
    rest = [event for event in exits if event is not primary]
    if not rest:
        return ()
    consequences = sum(is_cascade(event) for event in rest)
    without = diagnose_exits(rest)
    sentences = [f"without the report of rank {primary.rank} it would have been {without.cause}: {without.reason}"]
    if consequences:
        sentences.append(f"{consequences} of {len(rest)} other exits look like the consequence of a lost connection")
    return tuple(sentences)

