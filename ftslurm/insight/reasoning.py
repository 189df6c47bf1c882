"""Why a verdict is what it is: the facts that it rests on, those that did not count, and what would have changed it.

Nothing here knows the rules. The facts and their standing are those that `core.fusion` has weighed. What would have
changed the verdict is found by weighing again, with one event left out, or with one more that was not there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ftslurm.core.conditions import MemoryKilled, XidSeen
from ftslurm.core.diagnosis import Cause, Diagnosis, Scope
from ftslurm.core.events import Event, StopRequested
from ftslurm.core.evidence import Judged
from ftslurm.core.fusion import Standing, diagnose, weigh

ASKED = 24
"""Events that are left out in turn: the first ones; with thousands of ranks the others are all alike."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """One fact of a chain of evidence: what was said, by whom, when (epoch seconds), and what became of it."""

    t: float
    source: str
    text: str
    standing: Standing
    why: str


def chain(events: Sequence[Event]) -> tuple[Link, ...]:
    """The facts in the order in which they were heard; those alike in source, standing and reason are told once."""
    found: dict[tuple[str, ...], Link] = {}
    alike: dict[tuple[str, ...], int] = {}
    for each in weigh(events).weighed:
        fact = each.fact
        of = "" if each.standing is Standing.COUNTED else fact.cause.value
        key = (each.standing, each.why, of, fact.text if each.standing is Standing.COUNTED else "")
        alike[key] = alike.get(key, 0) + 1
        found.setdefault(key, Link(t=fact.at, source=fact.source, text=fact.text, standing=each.standing, why=each.why))
    return tuple(_counted(link, alike[key] - 1) for key, link in found.items())


def _counted(link: Link, more: int) -> Link:
    if not more:
        return link
    text = f"{link.text} (and {more} more like it)"
    return Link(t=link.t, source=link.source, text=text, standing=link.standing, why=link.why)


def would_change(events: Sequence[Event]) -> tuple[str, ...]:
    """Sentences that say which single event less, or more, would have led to another verdict."""
    now = diagnose(events)
    return (*(_less(events, now) if len(events) > 1 else ()), *_more(events, now))


def _less(events: Sequence[Event], now: Diagnosis) -> Iterator[str]:
    """What the verdict would have been without one event; several that lead to the same are told in one sentence."""
    changes: dict[str, list[str]] = {}
    for index, event in enumerate(events[:ASKED]):
        text = _text(event)
        other = diagnose([*events[:index], *events[index + 1 :]])
        if text and (other.cause, other.where) != (now.cause, now.where):
            changes.setdefault(_outcome(other), []).append(text)
    for outcome, texts in changes.items():
        more = f" (or any of {len(texts) - 1} others)" if len(texts) > 1 else ""
        yield f'without "{texts[0]}"{more} it would have been {outcome}'


def _text(event: Event) -> str:
    """What one event says, taken by itself."""
    return next((each.fact.text for each in weigh([event]).weighed), "")


def _outcome(other: Diagnosis) -> str:
    if other.cause is Cause.UNKNOWN:
        return "unknown"
    where = f" on {other.where}" if other.where else ""
    return f"{other.cause}{where} (confidence {other.confidence:.2f})"


def _more(events: Sequence[Event], now: Diagnosis) -> Iterator[str]:
    """What one more event would have made of it, where it would have."""
    found = []
    for text, event in _possible(now):
        other = diagnose([*events, event])
        if other.cause is not now.cause:
            found.append(f"{text} ({other.cause})")
    if found:
        yield f"one more fact would have changed it: {', or '.join(found)}"


def _possible(now: Diagnosis) -> Iterator[tuple[str, Event]]:
    """What might have been seen besides, on the node that the verdict names."""
    node = now.where.rpartition("@")[2]
    if not node:
        yield "a cancellation of the job", StopRequested(why="cancel", save=False)
        return
    yield f"the kernel's memory killer at work on {node}", MemoryKilled(node=node, kills=1)
    yield f"XID 79 of a GPU on {node}", XidSeen(node=node, gpu="0", xid=79)
    dead = Diagnosis(cause=Cause.NODE_UNREACHABLE, scope=Scope.NODE, where=node, confidence=0.95, reason="")
    yield f"{node} found dead by its witnesses", Judged(diagnosis=dead)
