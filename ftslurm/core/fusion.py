"""From all the evidence on a failed attempt to one diagnosis, with a confidence that is derived and not chosen.

1. Every event that speaks becomes a *fact* (`core.facts`): a cause, a place, a weight between 0 and 1, and a role.
   Facts of consequences (a lost connection, a collective that timed out) are no cause while anything else is there.
2. Initiating facts with the same cause at the same place make a *hypothesis*. Its support is 1 - prod(1 - weight):
   facts are taken as independent witnesses. Of ranks that failed by themselves the first counts in full, later ones
   by 0.8.
3. A hypothesis *explains* the facts that follow from it: a lost node everything that its ranks report, a cancellation
   the signals, a device that is gone a hang (`_EXPLAINS`, `_NEARBY`).
4. Its doubt is the largest support of a hypothesis of another class that it does not explain. Its confidence is
   support x (1 - doubt / 2): two equally good explanations of different classes leave each with less than one half.
5. The most confident one is the diagnosis, the earliest of equals. Below `BOUND` the cause is unknown, and the sentence
   says what the best guess was: blame needs more than a hint.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby
from math import prod

from ftslurm.core.diagnosis import NODE_CAUSES, Cause, Diagnosis, Scope, class_of
from ftslurm.core.events import Event, RankExited
from ftslurm.core.evidence import MOST_EXITS
from ftslurm.core.facts import Fact, facts_of
from ftslurm.core.patterns import Role

BOUND = 0.5
LATER = 0.8

_ENDED = frozenset({Cause.RANK_KILLED, Cause.RANK_CRASHED, Cause.LAUNCH_FAILED, Cause.SCHEDULER, Cause.PROGRAM_HANG})
_STUCK = frozenset({Cause.PROGRAM_HANG})
_EXPLAINS: dict[Cause, frozenset[Cause]] = {
    Cause.TIME_LIMIT: _ENDED,
    Cause.PREEMPTION: _ENDED,
    Cause.CANCEL: _ENDED,
    Cause.PROGRAM_HANG: frozenset({Cause.RANK_KILLED, Cause.RANK_CRASHED}),
    Cause.STORAGE: frozenset({Cause.PROGRAM_HANG, Cause.CHECKPOINT_DAMAGED, Cause.LAUNCH_FAILED}),
    Cause.GPU: frozenset({Cause.PROGRAM_HANG, Cause.FABRIC}),
    Cause.SCHEDULER: frozenset({Cause.LAUNCH_FAILED}),
    Cause.APPLICATION_ERROR: _STUCK | {Cause.LAUNCH_FAILED},
    Cause.RANK_KILLED: _STUCK | {Cause.LAUNCH_FAILED},
    Cause.RANK_CRASHED: _STUCK | {Cause.LAUNCH_FAILED},
    Cause.OOM_HOST: _STUCK | {Cause.LAUNCH_FAILED},
    Cause.OOM_GPU: _STUCK | {Cause.LAUNCH_FAILED},
    Cause.FABRIC: _STUCK,
    **dict.fromkeys(NODE_CAUSES, _STUCK | {Cause.FABRIC, Cause.LAUNCH_FAILED, Cause.SCHEDULER, Cause.NODE_DOWN}),
}
"""What follows from a cause wherever it shows."""
_OF_RANKS = frozenset({Cause.RANK_KILLED, Cause.RANK_CRASHED, Cause.APPLICATION_ERROR})
_NEARBY: dict[Cause, frozenset[Cause]] = {
    Cause.OOM_HOST: frozenset({Cause.RANK_KILLED}),
    Cause.GPU: _OF_RANKS,
    **dict.fromkeys(NODE_CAUSES, _OF_RANKS | {Cause.STORAGE, Cause.GPU}),
}
"""What follows from a cause on the same node; anywhere, where it befell the whole job."""


class Standing(StrEnum):
    """What became of a fact in the end."""

    COUNTED = "counted"
    CONSEQUENCE = "consequence"
    OUTWEIGHED = "outweighed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Weighed:
    """A fact, and what became of it; `why` says so in words."""

    fact: Fact
    standing: Standing
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ruling:
    """A diagnosis with everything that was weighed for it, in the order in which it was heard."""

    diagnosis: Diagnosis
    weighed: tuple[Weighed, ...] = ()


@dataclass(frozen=True, slots=True)
class _Hypothesis:
    cause: Cause
    facts: tuple[Fact, ...]
    support: float
    order: int

    @property
    def first(self) -> Fact:
        """The fact that tells it: the earliest that names a place."""
        return next((fact for fact in self.facts if fact.where), self.facts[0])

    def explains(self, fact: Fact) -> bool:
        if fact.role is Role.CASCADE or fact.cause in _EXPLAINS.get(self.cause, frozenset()):
            return True
        nearby = self.first.scope is Scope.JOB or fact.node in {each.node for each in self.facts}
        return nearby and fact.cause in _NEARBY.get(self.cause, frozenset())


def diagnose(events: Sequence[Event]) -> Diagnosis:
    """Return what lies behind the end of an attempt; `events` are given in the order in which they were heard."""
    return weigh(events).diagnosis


def weigh(events: Sequence[Event]) -> Ruling:
    """Return the diagnosis with the chain of evidence that it rests on."""
    facts = _discounted(facts_of(events))
    if not facts:
        return Ruling(diagnosis=_unknown("no rank reported why it ended"))
    hypotheses = _hypotheses(facts)
    believed = sorted(hypotheses, key=lambda each: (-round(_confidence(each, hypotheses), 6), each.order))
    if not believed or _confidence(believed[0], hypotheses) < BOUND:
        return _abstained(facts, believed, hypotheses)
    best = believed[0]
    return Ruling(
        diagnosis=_diagnosis(best, _confidence(best, hypotheses), events),
        weighed=tuple(_weighed(fact, best) for fact in facts),
    )


def _discounted(facts: Sequence[Fact]) -> tuple[Fact, ...]:
    """Ranks that failed by themselves after another rank may only have followed it."""
    found, before = [], False
    for fact in facts:
        own = fact.scope is Scope.RANK and fact.role is Role.INITIATING
        found.append(fact.lighter(LATER) if own and before else fact)
        before = before or own
    return tuple(found)


def _hypotheses(facts: Sequence[Fact]) -> tuple[_Hypothesis, ...]:
    """Group the facts; those of consequences make one only where nothing else does, and together weigh as one."""
    initiating = [fact for fact in facts if fact.role is Role.INITIATING]
    speaking = initiating or [fact for fact in facts if fact.cause is not Cause.UNKNOWN]
    found = []
    for key, group in groupby(sorted(speaking, key=_key), key=_key):
        mine = tuple(sorted(group, key=facts.index))
        together = 1.0 - prod(1.0 - fact.weight for fact in mine)
        support = together if initiating else max(fact.weight for fact in mine)
        found.append(_Hypothesis(Cause(key[0]), mine, support, facts.index(mine[0])))
    return tuple(sorted(found, key=lambda each: each.order))


def _key(fact: Fact) -> tuple[str, str]:
    """A cause at a place. What ranks die of is the same cause on all of them, what befalls a node is its own."""
    return (fact.cause.value, fact.node if fact.scope is Scope.NODE and fact.cause in NODE_CAUSES else "")


def _confidence(one: _Hypothesis, all_of_them: Sequence[_Hypothesis]) -> float:
    return one.support * (1.0 - _doubt(one, all_of_them) / 2.0)


def _doubt(one: _Hypothesis, all_of_them: Sequence[_Hypothesis]) -> float:
    rivals = (
        other.support
        for other in all_of_them
        if class_of(other.cause) is not class_of(one.cause) and not all(one.explains(fact) for fact in other.facts)
    )
    return max(rivals, default=0.0)


def _diagnosis(best: _Hypothesis, confidence: float, events: Sequence[Event]) -> Diagnosis:
    first = best.first
    # Who notices a hang is not who hangs.
    nowhere = first.role is Role.CASCADE and best.cause is Cause.PROGRAM_HANG
    return Diagnosis(
        cause=best.cause,
        scope=Scope.JOB if nowhere else first.scope,
        where="" if nowhere else first.where,
        confidence=round(confidence, 2),
        reason=first.text + _after(first, events),
        signature=first.signature or best.cause,
    )


def _after(first: Fact, events: Sequence[Event]) -> str:
    """How many other ranks went the same way: said where a rank began it."""
    exits = {each.rank for each in events if isinstance(each, RankExited) and (each.code or each.signal)}
    others = len(exits) - 1
    if first.scope is not Scope.RANK or others < 1:
        return ""
    few = "at least " if others + 1 >= MOST_EXITS else ""
    return f"; {few}{others} other rank{'s' if others > 1 else ''} ended after it"


def _abstained(facts: Sequence[Fact], believed: Sequence[_Hypothesis], rivals: Sequence[_Hypothesis]) -> Ruling:
    """Not enough to blame anything."""
    if not believed:
        first = facts[0]
        reason = f"every end looks like the consequence of another's, and nothing says whose: {first.text}"
        weighed = tuple(
            Weighed(fact=fact, standing=Standing.CONSEQUENCE, why="a consequence of something that was not seen")
            for fact in facts
        )
        return Ruling(diagnosis=_unknown(reason, first), weighed=weighed)
    guesses = ", ".join(f"{each.cause} ({_confidence(each, rivals):.2f})" for each in believed[:3])
    first = believed[0].first
    reason = f"not enough to blame anything; guesses are {guesses}; {first.text}"
    weighed = tuple(
        Weighed(fact=fact, standing=Standing.OUTWEIGHED, why=f"speaks for {fact.cause} with {fact.weight:.2f}")
        for fact in facts
    )
    return Ruling(diagnosis=_unknown(reason, first), weighed=weighed)


def _unknown(reason: str, fact: Fact | None = None) -> Diagnosis:
    return Diagnosis(
        cause=Cause.UNKNOWN,
        scope=fact.scope if fact else Scope.JOB,
        where=fact.where if fact else "",
        confidence=0.0,
        reason=reason,
        signature=fact.signature if fact else "",
    )


def _weighed(fact: Fact, best: _Hypothesis) -> Weighed:
    if fact in best.facts:
        return Weighed(fact=fact, standing=Standing.COUNTED, why=f"speaks for {fact.cause} with {fact.weight:.2f}")
    if best.explains(fact):
        return Weighed(fact=fact, standing=Standing.CONSEQUENCE, why=f"follows from {best.cause}")
    if class_of(fact.cause) is class_of(best.cause):
        return Weighed(fact=fact, standing=Standing.COUNTED, why=f"says the same: {fact.cause}")
    why = f"speaks for {fact.cause} with {fact.weight:.2f}, which leaves doubt"
    return Weighed(fact=fact, standing=Standing.OUTWEIGHED, why=why)
