"""When nodes were down, as Slurm's accounting remembers it (sacctmgr(1), `show event`)."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ftslurm.errors import UsageError
from ftslurm.slurm import nodeset, parse

if TYPE_CHECKING:
    from ftslurm.slurm.client import SlurmClient

_COLUMNS = "NodeName,TimeStart,TimeEnd,State,Reason"
_BROKEN = re.compile(r"DOWN|FAIL|ERROR")
"""In a state: Slurm has given the node up."""
_SICK = re.compile(
    r"\bNHC\b|health|kill task failed|(?:pro|epi)log error|gres/|low (?:real)?memory|\bxid\b|\becc\b", re.IGNORECASE
)
"""In the reason of a drained node: a machine has found it sick. Other nodes are drained because somebody wanted it."""
_WANTED = re.compile(r"POWER|REBOOT|MAINT|PLANNED|RES(?:ERVED)?\b")
_ON_PURPOSE = re.compile(r"\s*(?:scheduled |user |pending )?(?:reboot|maint|power)", re.IGNORECASE)
_TIMEOUT_S = 60.0
_SAME_S = 60.0
"""Two events of a node with no longer time between them are one outage: first drained, then down."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeDown:
    """A node was down from `begun` to `until` (None: still is), in epoch seconds. `reason` is Slurm's or an admin's."""

    node: str
    begun: float
    until: float | None
    state: str
    reason: str


def outages(client: SlurmClient, since: float) -> tuple[NodeDown, ...]:
    """Return the times in which nodes were down since then, by their begin.

    Raises:
        Refused: accounting is off, or does not show events to users (PrivateData=events).
        ServiceUnavailable: slurmdbd does not answer.
    """
    begin = dt.datetime.fromtimestamp(since).astimezone().strftime("%Y-%m-%dT%H:%M:%S")
    argv = ["sacctmgr", "--noheader", "--parsable2", "--readonly", "show", "event", "event=node", f"start={begin}"]
    return read(client.run([*argv, f"format={_COLUMNS}"], timeout_s=_TIMEOUT_S).check().stdout)


def read(text: str) -> tuple[NodeDown, ...]:
    """Return the outages in a table of node events; lines of another form are left out, and what was meant to be."""
    found: dict[str, list[NodeDown]] = {}
    for each in sorted(_rows(text), key=lambda row: (row.begun, row.node)):
        before = found.setdefault(each.node, [])
        if before and (before[-1].until is None or each.begun <= before[-1].until + _SAME_S):
            before[-1] = replace(before[-1], until=_later(before[-1].until, each.until))
        else:
            before.append(each)
    return tuple(sorted((each for rows in found.values() for each in rows), key=lambda row: (row.begun, row.node)))


def _later(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else max(one, other)


def _rows(text: str) -> Iterator[NodeDown]:
    for line in text.splitlines():
        columns = line.split("|", 4)  # the reason is free text, and last
        if len(columns) != 5:
            continue
        node, start, end, state, reason = columns
        begun = parse.epoch(start)
        if begun is not None and _is_node(node) and _is_fault(state.upper(), reason):
            yield NodeDown(node=node, begun=begun, until=parse.epoch(end), state=state, reason=reason)


def _is_fault(state: str, reason: str) -> bool:
    if _WANTED.search(state) or _ON_PURPOSE.match(reason):
        return False
    return bool(_BROKEN.search(state) or _SICK.search(reason))


def _is_node(name: str) -> bool:
    try:
        nodeset.check_name(name)
    except UsageError:
        return False
    return True
