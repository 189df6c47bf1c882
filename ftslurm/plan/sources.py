"""Where the past of the nodes is found: in a trace, or in node ledger, runs' journals and Slurm's accounting together.

A node that several of them saw go within an hour is one fault: its cause is ftslurm's word where there is one, its
repair is Slurm's. For how long nodes were watched is known from accounting (all nodes, all the time) or, without it,
from the journals (nodes while they were in use by runs). The ledger alone does not know. Of less than a day no rate is
told.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ftslurm import journal, ledger
from ftslurm.core.events import ENDED, AllocationGranted, Phase
from ftslurm.core.lemons import DAY_S, SAME_OUTAGE_S, mark_of
from ftslurm.errors import FtslurmError
from ftslurm.insight import index
from ftslurm.insight.facts import begins_incarnation, given_up
from ftslurm.insight.text import count
from ftslurm.plan.past import Exposure, Fault, Past, Source, Span, by_node, joined
from ftslurm.slurm.outages import outages

if TYPE_CHECKING:
    from ftslurm.journal import Entry
    from ftslurm.plan.trace import Trace
    from ftslurm.slurm.client import SlurmClient

_OMEN = "xid_"
_BY_WHOM = re.compile(r"\s*\[\w[^\]]*\]\s*$")
_CAUSE_CHARS = 60
_SLACK_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What one place knows: faults, when nodes were watched, and from when on the whole fleet was, if it was."""

    source: Source
    faults: tuple[Fault, ...] = ()
    stays: dict[str, tuple[Span, ...]] = field(default_factory=dict)
    fleet_since: float | None = None


def of_trace(trace: Trace, name: str, *, whole: bool) -> Past:
    """The past that a trace tells. `whole`: whether its number of nodes is known to be that of the fleet."""
    faults = tuple(
        Fault(
            node=trace.names[each.node],
            at=each.at_s,
            cause=each.kind or "not said",
            over=each.end_s,
        )
        for each in trace.outages
    )
    words = f"{count(trace.nodes, 'node')}, all of the time, repairs included"
    if not whole:
        words = f"{count(trace.nodes, 'node')} had faults; how many others were watched is unknown (--fleet says it)"
    source = Source(name=name, words=words, faults=len(faults), begun=0.0, until=trace.span_s)
    past = Past(faults=faults, begun=0.0, until=trace.span_s, dated=False, sources=(source,))
    if not whole:
        return past
    watch = Exposure(nodes=trace.nodes, words=words, always=(0.0, trace.span_s))
    return replace(past, fleet=trace.nodes, exposure=watch)


def of_the_user(folder: Path, client: SlurmClient, fleet: Sequence[str], days: float) -> Past:
    """The past as the user's ledger, runs and Slurm's accounting know it, of the last days.

    Args:
        folder: the ledger's.
        client: Slurm.
        fleet: the nodes that are asked about; none: all that are named.
        days: how far back.

    Raises:
        StorageError: the ledger is there and cannot be read.
    """
    now = time.time()
    since = now - days * DAY_S
    of_slurm = from_accounting(client, fleet, (since, now))
    of_runs = from_journals(days, since)
    seen = (from_ledger(folder, since), of_runs, of_slurm)
    # The first source of an outage gives its cause: what the ledger and the journals say is finer than Slurm's reason.
    faults = one_each(fault for each in seen for fault in each.faults)
    begins = [each.source.begun for each in seen if each.source.begun is not None]
    begun = min(begins, default=since)
    past = Past(
        faults=faults, begun=begun, until=now, fleet=len(fleet) or None, sources=tuple(each.source for each in seen)
    )
    if of_slurm.fleet_since is not None and fleet and now - of_slurm.fleet_since >= DAY_S:
        return _watched_by_slurm(past, set(fleet), of_slurm.fleet_since)
    if sum(until - begun for spans in of_runs.stays.values() for begun, until in spans) >= DAY_S:
        return _watched_by_runs(past, of_runs.stays)
    return past


def _watched_by_slurm(past: Past, fleet: set[str], since: float) -> Past:
    words = "all nodes of the partition, all of the time, repairs included"
    watch = Exposure(nodes=len(fleet), words=words, always=(since, past.until))
    # The fault with which watching begins says nothing of the rate: without it nobody would have begun there.
    faults = tuple(replace(each, rated=each.node in fleet and each.at > since) for each in past.faults)
    return replace(past, faults=faults, exposure=watch)


def _watched_by_runs(past: Past, stays: dict[str, tuple[Span, ...]]) -> Past:
    watch = Exposure(nodes=len(stays), words="nodes while your runs had them", stays=stays)
    faults = tuple(
        replace(
            each,
            rated=any(begun - _SLACK_S <= each.at <= until + _SLACK_S for begun, until in stays.get(each.node, ())),
        )
        for each in past.faults
    )
    return replace(past, faults=faults, exposure=watch)


def one_each(faults: Iterable[Fault]) -> tuple[Fault, ...]:
    """One fault an outage: those of a node within an hour; the first that is given keeps its cause, any its repair."""
    found: list[Fault] = []
    for of_node in by_node(faults).values():
        kept: list[Fault] = []
        for each in of_node:
            same = [place for place, other in enumerate(kept) if abs(other.at - each.at) <= SAME_OUTAGE_S]
            if same:
                other = kept[same[0]]
                kept[same[0]] = replace(other, at=min(other.at, each.at), over=_first(other.over, each.over))
            else:
                kept.append(each)
        found += kept
    return tuple(sorted(found, key=lambda each: (each.at, each.node, each.cause)))


def _first(one: float | None, other: float | None) -> float | None:
    return other if one is None else one


# ----------------------------------------------------------------------------------------------------- the three places


def from_ledger(folder: Path, since: float) -> Seen:
    """Marks of nodes that were given up. Omens of GPUs are counted, and are no faults.

    Raises:
        StorageError: the folder is there and cannot be read.
    """
    found = ledger.read(folder)
    marks = [each for each in found.marks if each.at >= since]
    faults = [Fault(node=each.node, at=each.at, cause=each.cause) for each in marks if not each.cause.startswith(_OMEN)]
    faults.sort(key=lambda each: (each.at, each.node))
    omens = len(marks) - len(faults)
    words = [count(len(faults), "mark")]
    words += [f"{count(omens, 'omen')} of GPUs not counted"] if omens else []
    words += [f"{count(found.unread, 'line')} passed over"] if found.unread else []
    words += ["when nodes were repaired it does not know, nor for how long they were watched"]
    begun, until = (faults[0].at, faults[-1].at) if faults else (None, None)
    source = Source(name=f"ledger {folder}", words="; ".join(words), faults=len(faults), begun=begun, until=until)
    return Seen(source=source, faults=tuple(faults))


def from_journals(days: float, since: float) -> Seen:
    """Nodes that the user's own runs had, and gave up."""
    faults: list[Fault] = []
    stays: dict[str, list[Span]] = {}
    damaged = read = 0
    for paths in index.recent(days):
        told = _Told(since)
        try:
            for entry in journal.read(paths):
                told.see(entry)
        except FtslurmError:
            damaged += 1
            continue
        told.end()
        read += 1
        faults += told.faults
        for node, spans in told.stays.items():
            stays.setdefault(node, []).extend(spans)
    faults.sort(key=lambda each: (each.at, each.node))
    used = {node: whole for node, spans in sorted(stays.items()) if (whole := joined(spans))}
    total = sum(until - begun for spans in used.values() for begun, until in spans) / DAY_S
    words = f"{count(read, 'run')} with {total:.1f} node-days on {count(len(used), 'node')}"
    words += f"; {count(damaged, 'journal')} could not be read" if damaged else ""
    begun = min((spans[0][0] for spans in used.values()), default=None)
    until = max((spans[-1][1] for spans in used.values()), default=None)
    source = Source(name="journals of your runs", words=words, faults=len(faults), begun=begun, until=until)
    return Seen(source=source, faults=tuple(faults), stays=used)


class _Told:
    """One journal, entry by entry: which nodes the run had, from when to when, and what it gave up."""

    def __init__(self, since: float) -> None:
        self._since = since
        self._open: dict[str, float] = {}
        self._nodes: tuple[str, ...] = ()
        self._gone: set[str] = set()
        self._last = since
        self.stays: dict[str, list[Span]] = {}
        self.faults: list[Fault] = []

    def see(self, entry: Entry) -> None:
        """Take the next entry in."""
        event = entry.event
        if isinstance(event, AllocationGranted):
            if begins_incarnation(entry):
                self.end()
                self._open = dict.fromkeys(event.nodes, entry.t)
            self._nodes = event.nodes
        for lost in given_up(entry, self._nodes, self._gone):
            self._gone.add(lost.where)
            self._close(lost.where, entry.t)
            if entry.t >= self._since and mark_of(lost.cause) is not None:
                self.faults.append(Fault(node=lost.where, at=entry.t, cause=lost.cause.value))
        self._last = entry.t
        if entry.phase in ENDED or entry.phase == Phase.REQUEUED:
            self.end()

    def end(self) -> None:
        """The run has no nodes any more; or this is its last word so far."""
        for node in tuple(self._open):
            self._close(node, self._last)

    def _close(self, node: str, at: float) -> None:
        begun = self._open.pop(node, None)
        if begun is not None:
            self.stays.setdefault(node, []).append((max(begun, self._since), at))


def from_accounting(client: SlurmClient, fleet: Sequence[str], span: Span) -> Seen:
    """Nodes that Slurm called down. Accounting is taken to be whole from its first event on, not before."""
    name = "Slurm's accounting (sacctmgr show event)"
    since, now = span
    try:
        events = outages(client, since)
    except FtslurmError as error:
        return Seen(source=Source(name=name, words=f"cannot be asked: {error}"))
    wanted = set(fleet)
    events = tuple(each for each in events if not wanted or each.node in wanted)
    if not events:
        return Seen(source=Source(name=name, words="has no node down, or keeps no events: the exposure is unknown"))
    begun = max(min(each.begun for each in events), since)
    faults = tuple(
        Fault(node=each.node, at=each.begun, cause=_cause(each.reason), over=each.until or math.inf)
        for each in events
        if each.begun >= since
    )
    words = f"{count(len(faults), 'outage')}; watched from its first event on, which is not in the rates itself"
    source = Source(name=name, words=words, faults=len(faults), begun=begun, until=now)
    return Seen(source=source, faults=faults, fleet_since=begun)


def _cause(reason: str) -> str:
    """Slurm's reason without who gave it and when."""
    text = _BY_WHOM.sub("", reason).strip()
    return f"slurm: {text[:_CAUSE_CHARS] or 'no reason'}"
