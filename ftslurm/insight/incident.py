"""One incident: what was noticed, what was concluded, what was done, how long each part took and what it cost.

An incident begins when an attempt is stopped or a node is given up, and is over when the ranks of a later attempt are
released, or when the run leaves. What happens in between (a second node lost, a launch that fails) belongs to it.
Times are epoch seconds; whatever the journal does not tell is None.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ftslurm.core.diagnosis import Cause, Diagnosis, Scope
from ftslurm.core.events import Event, Finding, RankExited
from ftslurm.core.evidence import Judged
from ftslurm.core.fusion import diagnose
from ftslurm.insight import alternatives, reasoning
from ftslurm.insight.saves import Save

TAIL_LINES = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """A verdict. `findings` are the witnesses' words, `tail` is what the failed rank printed last, `chain` the facts.

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
    chain: tuple[reasoning.Link, ...] = ()
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
        worlds: ranks before and after, where that is not the same.
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
    worlds: tuple[int, int] | None = None
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


def judge(t: float, said: Diagnosis, evidence: Sequence[Event]) -> Judgement:
    """The verdict as it was said, with what the rules make of the evidence beside it."""
    if diagnose(evidence).cause is not said.cause:
        # It was not these events that it was concluded from: a watch of its own has seen more.
        evidence = (*evidence, Judged(at=t, diagnosis=said))
    again = diagnose(evidence)
    same = again.cause is said.cause
    where = again.where if same and not said.where else said.where
    return Judgement(
        t=t,
        cause=said.cause,
        scope=again.scope if same else said.scope,
        where=where,
        reason=said.reason,
        confidence=said.confidence,
        tail=_tail(evidence, where),
        chain=reasoning.chain(evidence) if same else (),
        would_change=reasoning.would_change(evidence) if same else (),
    )


def _tail(evidence: Sequence[Event], where: str) -> str:
    """What the rank that the verdict names has printed last."""
    exits = (each for each in evidence if isinstance(each, RankExited) and f"{each.rank}@{each.node}" == where)
    return "\n".join(next((each.tail for each in exits), "").splitlines()[-TAIL_LINES:])


def judge_node(t: float, said: Diagnosis, asked: alternatives.Evidence | None, evidence: Sequence[Event]) -> Judgement:
    """The verdict on a node; `asked` where witnesses were asked, `evidence` is what else was heard of the attempt."""
    again = asked.judged(asked.findings).diagnosis if asked else None
    same = again is not None and again.cause is said.cause
    whole = [*evidence, Judged(at=t, diagnosis=said)]
    return Judgement(
        t=t,
        cause=said.cause,
        scope=Scope.NODE,
        where=said.where,
        reason=said.reason,
        confidence=said.confidence,
        findings=asked.findings if asked else (),
        chain=reasoning.chain(whole) if len(whole) > 1 else (),
        would_change=alternatives.of_node(asked) if asked and same else (),
    )
