"""One incident: what was noticed, what was concluded, what was done, how long each part took and what it cost.

An incident begins when an attempt is stopped or a node is given up, and is over when the ranks of a later attempt are
released, or when the run leaves. What happens in between (a second node lost, a launch that fails) belongs to it.
Times are epoch seconds; whatever the journal does not tell is None.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ftslurm.core.diagnosis import Cause, Scope, diagnose_exits
from ftslurm.core.events import Finding, RankExited
from ftslurm.insight import alternatives
from ftslurm.insight.saves import Save

TAIL_LINES = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """A verdict. `findings` are the witnesses' words, `tail` is what the failed rank printed last.

    `by` says who noticed, where that is not what the incident began with.
    """

    t: float
    cause: Cause
    scope: Scope
    where: str
    reason: str
    by: str = ""
    confidence: float | None = None
    findings: tuple[Finding, ...] = ()
    tail: str = ""
    would_change: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A plan that was chosen, and why each of the others was not."""

    t: float
    kind: str
    reason: str
    rejected: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """Something else that was said meanwhile; `count` times until `until`."""

    t: float
    slug: str
    text: str
    count: int = 1
    until: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Incident:
    """What happened, start to end.

    Attributes:
        number: counts from 1 over the run.
        attempt: the attempt that it hit; None before the first.
        sign: when the failure first showed: the last beat of a silent node, the first report of a failed rank.
        noticed: when ftslurm noticed.
        by: who noticed, and what.
        decided: when the first verdict or the stop came.
        stopped: when nothing of the old attempt was left.
        launched, mustered, restored: the last launch; all its ranks there; all its nodes with the checkpoint.
        left, back: for a requeue, when the job went back to the queue, and when it started again.
        released: when training could go on.
        launches: how many launches it took.
        restored_from: the checkpoint that was gone back to; None: the beginning, or nothing yet.
        lost_s: training that has to be done again.
        outcome: how it ended, in words.
    """

    number: int
    attempt: int | None
    sign: float
    noticed: float
    by: str
    judgements: tuple[Judgement, ...] = ()
    choices: tuple[Choice, ...] = ()
    excluded: tuple[str, ...] = ()
    notes: tuple[Note, ...] = ()
    decided: float | None = None
    stopped: float | None = None
    launched: float | None = None
    mustered: float | None = None
    restored: float | None = None
    left: float | None = None
    back: float | None = None
    released: float | None = None
    launches: int = 0
    restored_from: Save | None = None
    lost_s: float | None = None
    outcome: str = ""

    @property
    def stages(self) -> tuple[tuple[str, float | None], ...]:
        """How long each part took, in seconds; launch and restore run side by side.

        How long a rank had been dead when its end was reported is not known.
        """
        return (
            ("detect", _between(self.sign, self.noticed) or None),
            ("decide", _between(self.noticed, self.decided)),
            ("stop", _between(self.decided, self.stopped)),
            ("leave", _between(self.stopped, self.left)),
            ("queue", _between(self.left, self.back)),
            ("launch", _between(self.launched, self.mustered)),
            ("restore", _between(self.launched, self.restored)),
        )

    @property
    def recovery_s(self) -> float | None:
        """From the first sign to the release of the next attempt's ranks."""
        return _between(self.sign, self.released)


def _between(start: float | None, end: float | None) -> float | None:
    return None if start is None or end is None else max(end - start, 0.0)


def with_judgement(incident: Incident, judgement: Judgement) -> Incident:
    """The incident with one more verdict, unless it is one that was told before."""
    said = {(each.cause, each.reason) for each in incident.judgements}
    if (judgement.cause, judgement.reason) in said:
        return incident
    return replace(incident, judgements=(*incident.judgements, judgement))


def judge_ranks(t: float, cause: Cause, reason: str, exits: Sequence[RankExited]) -> Judgement:
    """The verdict on ranks that ended, with what the rules say about these exits beside it."""
    again = diagnose_exits(exits)
    same = again.cause is cause
    rank = again.where.partition("@")[0]
    primary = next((event for event in exits if str(event.rank) == rank), None)
    tail = "\n".join(primary.tail.splitlines()[-TAIL_LINES:]) if primary and same else ""
    return Judgement(
        t=t,
        cause=cause,
        scope=again.scope,
        where=again.where if same else "",
        reason=reason,
        confidence=again.confidence if same else None,
        tail=tail,
        would_change=alternatives.of_ranks(exits) if same else (),
    )


def judge_node(t: float, node: str, cause: Cause, reason: str, evidence: alternatives.Evidence | None) -> Judgement:
    """The verdict on a node; `evidence` where witnesses were asked."""
    again = evidence.judged(evidence.findings).diagnosis if evidence else None
    same = again is not None and again.cause is cause
    return Judgement(
        t=t,
        cause=cause,
        scope=Scope.NODE,
        where=node,
        reason=reason,
        confidence=again.confidence if again and same else None,
        findings=evidence.findings if evidence else (),
        would_change=alternatives.of_node(evidence) if evidence and same else (),
    )
