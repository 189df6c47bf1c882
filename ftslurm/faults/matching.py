"""Which injection explains what: the truth of a run beside what the run itself has said. Pure.

A *sign* is a sentence of the journal with its slug and time. An injection is **detected** when a sign that may rightly
be said of its fault comes in its time, or when an incident begins in it; it has the **right class** in the first case
only. Its time begins with the injection and ends with the next one of the same run, or after PATIENCE_S; while an
incident that began in it is not over it goes on, since two faults may strike at once.

A fault of which it is right to say nothing (`causes` is empty) is judged the other way round: right is that no
incident begins in its time. So is one that may pass unnoticed (`may_pass`) where nothing was said of it, and one that
lets the training go on and was undone before its time was over, as when the run came to its end: a slow rank is named
after fifty seconds, not before.
Of a double fault the whole is judged, not its parts. What failed to be done is left out; what may have been done,
because its writer was killed, is not judged, but may explain what was said.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from ftslurm.faults.truth import Injection, Outcome

if TYPE_CHECKING:
    from ftslurm.faults.fault import Fault
    from ftslurm.insight.incident import Incident

PATIENCE_S = 150.0
EARLY_S = 0.05
"""Injections are stamped before the deed; clocks of nodes may differ by so much."""

NOTHING = "nothing"


class Weights(StrEnum):
    """The final weights beside those of the undisturbed run."""

    EQUAL = "equal"
    DIFFERENT = "different"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Sign:
    """A sentence of the journal: when, its slug, and the node that it gives up (empty: none)."""

    t: float
    slug: str
    node: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One run of a campaign.

    Attributes:
        run: its run id.
        injections: what was done to it, in order.
        signs: what it said, in order.
        incidents: what it took for failures.
        steps: for each attempt, when its first training step was done, and which was its last.
        ended: how it ended: its phase, or empty while it has not.
        weights: whether it came to the weights of the undisturbed run.
    """

    run: str
    injections: tuple[Injection, ...] = ()
    signs: tuple[Sign, ...] = ()
    incidents: tuple[Incident, ...] = ()
    steps: Mapping[int, tuple[float, int]] = field(default_factory=dict)
    ended: str = ""
    weights: Weights = Weights.UNKNOWN


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One injection and what became of it.

    Attributes:
        run, injection, fault: which one.
        due: it is one that has to be noticed.
        detected: it was.
        right: what was said of it may rightly be said; of one that is not due: nothing was stopped for it.
        said: the slug of the right sign, else of the last verdict, else NOTHING.
        times: seconds of each part of the recovery, where the journal tells.
        lost_s: training that had to be done again.
        lost_steps: the same in steps, where the program tells.
    """

    run: str
    injection: str
    fault: str
    due: bool
    detected: bool
    right: bool
    said: str
    times: Mapping[str, float] = field(default_factory=dict)
    lost_s: float | None = None
    lost_steps: int | None = None


@dataclass(frozen=True, slots=True)
class Alarm:
    """Something that a run said of itself, and whether an injection explains it."""

    slug: str
    explained: bool


@dataclass(frozen=True, slots=True)
class _Span:
    """The time of one injection, and the incidents that began in it."""

    injection: Injection
    fault: Fault
    start: float
    end: float
    incidents: tuple[Incident, ...]

    def holds(self, t: float) -> bool:
        return self.start <= t <= self.end


def findings(case: Case, catalogue: Mapping[str, Fault]) -> tuple[Finding, ...]:
    """What became of each injection of a run."""
    return tuple(_finding(case, span) for span in _spans(case, catalogue) if span.injection.outcome is Outcome.DONE)


def alarms(case: Case, catalogue: Mapping[str, Fault]) -> tuple[Alarm, ...]:
    """Every incident of a run, and every other sign that some fault of the catalogue would be right about."""
    spans = _spans(case, catalogue)
    known = {slug for fault in catalogue.values() for slug in fault.causes}
    heard = [(each.noticed, each.judgements[-1].cause.value if each.judgements else NOTHING) for each in case.incidents]
    told = [(sign.t, sign.slug) for sign in case.signs if sign.slug in known and not _inside(case.incidents, sign.t)]
    return tuple(Alarm(slug, _explains(spans, t, slug)) for t, slug in sorted([*heard, *_once(told)]))


def wrong_exclusions(case: Case, catalogue: Mapping[str, Fault]) -> tuple[str, ...]:
    """The nodes that the run gave up although nothing was done to them that costs a node."""
    costly = [
        each for each in case.injections if each.outcome is not Outcome.FAILED and catalogue[each.fault].costs_node
    ]
    given_up: dict[str, float] = {}
    for sign in case.signs:
        if sign.node:
            given_up.setdefault(sign.node, sign.t)
    return tuple(
        node for node, t in given_up.items() if not any(each.node == node and each.at <= t + EARLY_S for each in costly)
    )


def _spans(case: Case, catalogue: Mapping[str, Fault]) -> list[_Span]:
    whole = (each for each in case.injections if not each.part_of and each.outcome is not Outcome.FAILED)
    done = sorted(whole, key=lambda each: each.at)
    spans = []
    for index, injection in enumerate(done):
        start = injection.at - EARLY_S
        following = done[index + 1].at - EARLY_S if index + 1 < len(done) else start + PATIENCE_S
        end = min(following, start + PATIENCE_S)
        mine = tuple(each for each in case.incidents if start <= each.noticed <= end)
        if not mine:  # it struck while an earlier incident was not over
            mine = tuple(each for each in case.incidents if each.noticed < start <= (each.released or start))
        over = [each.released for each in mine if each.released is not None]
        spans.append(_Span(injection, catalogue[injection.fault], start, max([end, *over]), mine))
    return spans


def _finding(case: Case, span: _Span) -> Finding:
    fault, injection = span.fault, span.injection
    own = [each for each in span.incidents if each.noticed >= span.start]
    rightly = [sign for sign in case.signs if span.holds(sign.t) and sign.slug in fault.causes]
    verdicts = [each.cause.value for incident in span.incidents for each in incident.judgements if each.t >= span.start]
    said = rightly[0].slug if rightly else verdicts[-1] if verdicts else NOTHING
    heard = bool(rightly or own)
    due = fault.stops_training or (
        bool(fault.causes) and (heard or not (fault.may_pass or _cut_short(injection, fault)))
    )
    hit = own[0] if own else span.incidents[0] if span.incidents else None
    return Finding(
        run=case.run,
        injection=injection.id,
        fault=fault.name,
        due=due,
        detected=heard,
        right=bool(rightly) if due else not own,
        said=said,
        times=_times(case, injection, hit) if hit is not None else _told(injection, rightly),
        lost_s=hit.lost_s if hit is not None else None,
        lost_steps=_lost_steps(case, hit) if hit is not None else None,
    )


def _cut_short(injection: Injection, fault: Fault) -> bool:
    """Whether it was undone before its time was over."""
    if fault.lasts_s is None or injection.undone_at is None:
        return False
    return injection.undone_at - injection.at < fault.lasts_s - EARLY_S


def _told(injection: Injection, signs: Sequence[Sign]) -> dict[str, float]:
    """Of a fault that stops nothing only the detection takes time."""
    return {"detect": max(signs[0].t - injection.at, 0.0)} if signs else {}


def _times(case: Case, injection: Injection, hit: Incident) -> dict[str, float]:
    """Seconds by part; launch and restore run side by side."""
    stages = {name: seconds for name, seconds in hit.stages if seconds is not None and name != "detect"}
    found = {"detect": max(hit.noticed - injection.at, 0.0), **stages}
    if hit.released is not None:
        found["released"] = hit.released - injection.at
        first = [t for t, _ in case.steps.values() if t >= hit.released]
        if first:
            found["first_step"] = min(first) - injection.at
    return found


def _lost_steps(case: Case, hit: Incident) -> int | None:
    """Steps that were done and have to be done again."""
    if hit.released is None or hit.attempt is None or hit.attempt not in case.steps:
        return None
    again = hit.restored_from.step if hit.restored_from is not None else 0
    return max(case.steps[hit.attempt][1] - again, 0)


def _inside(incidents: Iterable[Incident], t: float) -> bool:
    return any(each.noticed <= t <= (each.released or t) for each in incidents)


def _once(heard: Iterable[tuple[float, str]]) -> list[tuple[float, str]]:
    """What is said again and again within PATIENCE_S counts once."""
    last: dict[str, float] = {}
    found = []
    for t, slug in sorted(heard):
        if t - last.get(slug, -PATIENCE_S) >= PATIENCE_S or slug not in last:
            found.append((t, slug))
            last[slug] = t
    return found


def _explains(spans: Iterable[_Span], t: float, slug: str) -> bool:
    return any(span.holds(t) and slug in span.fault.causes for span in spans)
