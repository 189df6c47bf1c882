"""When nodes were down, as Slurm's accounting remembers it (sacctmgr(1), `show event`)."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ftslurm.errors import UsageError
from ftslurm.slurm import nodeset, parse

if TYPE_CHECKING:
    from ftslurm.slurm.client import SlurmClient

_COLUMNS = "NodeName,TimeStart,TimeEnd,State,Reason"
_BROKEN = re.compile(r"DOWN|FAIL|ERROR|NO_RESPOND|\*")
"""In a state: the node was not there, or Slurm had given it up. Drained is what somebody, or maintenance, wanted."""
_WANTED = re.compile(r"POWER|REBOOT|MAINT|PLANNED|RES(?:ERVED)?\b")
_ON_PURPOSE = re.compile(r"\s*(?:scheduled |user |pending )?(?:reboot|maint|power)", re.IGNORECASE)


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
    argv = ["sacctmgr", "--noheader", "--parsable2", "--readonly", "show", "event", "events=node", f"start={begin}"]
    return read(client.run([*argv, f"format={_COLUMNS}"]).check().stdout)


def read(text: str) -> tuple[NodeDown, ...]:
    """Return the outages in a table of node events; lines of another form are left out, and what was meant to be."""
    return tuple(sorted(_rows(text), key=lambda each: (each.begun, each.node)))


def _rows(text: str) -> Iterator[NodeDown]:
    for line in text.splitlines():
        columns = line.split("|", 4)  # the reason is free text, and last
        if len(columns) != 5:
            continue
        node, start, end, state, reason = columns
        begun = parse.epoch(start)
        if begun is None or not _is_node(node) or not _BROKEN.search(state.upper()):
            continue
        if _WANTED.search(state.upper()) or _ON_PURPOSE.match(reason):
            continue
        yield NodeDown(node=node, begun=begun, until=parse.epoch(end), state=state, reason=reason)


def _is_node(name: str) -> bool:
    try:
        nodeset.check_name(name)
    except UsageError:
        return False
    return True
