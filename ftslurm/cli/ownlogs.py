"""The logs of ftslurm's own processes (`runtime.logs`): which files, which lines of them, and how they are shown.

Each process has a file of its own for every attempt. What is asked for is put together by the time of the lines, as far
as they have come: clocks of nodes differ, and shared storage shows a file's end late.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from ftslurm.errors import UsageError

if TYPE_CHECKING:
    from ftslurm.insight.tail import Lines
    from ftslurm.paths import RunPaths

LEVELS = ("debug", "info", "warning", "error")
_LOUD = {**{name: number for number, name in enumerate(LEVELS)}, "critical": len(LEVELS)}
ROLES = ("supervisor", "parent", "observer", "agent", "ring", "rank")
"""As the names of the files begin; those of rank wrappers begin with `rank`."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """One log file: the attempt and rank that it belongs to; ftslurm's own have no rank."""

    path: Path
    attempt: int = -1
    rank: int = -1


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which lines: of which processes, about what, and how loud at least. None: any."""

    role: str | None = None
    place: str | None = None
    attempt: int | None = None
    level: str | None = None
    node: str | None = None
    ranks: Sequence[range] | None = None

    def takes(self, record: Mapping[str, Any]) -> bool:
        """Whether a line is wanted. One that cannot be read is wanted where nothing is asked of it."""
        labels = record.get("labels")
        labels = labels if isinstance(labels, Mapping) else {}
        if self.level is not None and _LOUD.get(str(record.get("log.level")), -1) < _LOUD[self.level]:
            return False
        if self.node is not None and labels.get("node") != self.node:
            return False
        rank = str(labels.get("rank"))
        return self.ranks is None or (rank.isdecimal() and any(int(rank) in each for each in self.ranks))


class _Line(NamedTuple):
    """A line with its time as it is written: UTC, so that the words sort as the times do."""

    stamp: str
    data: bytes
    record: Mapping[str, Any]


def sources(paths: RunPaths, wanted: Wanted) -> list[Source]:
    """The files that there are now; each line lies in the folder of the attempt that it is about."""
    found = []
    for folder in sorted(_numbered(paths.logs), key=lambda each: int(each.name)):
        if wanted.attempt is not None and int(folder.name) != wanted.attempt:
            continue
        found += [
            Source(path=path, attempt=int(folder.name))
            for path in sorted(folder.glob("*.ndjson"))
            if _is_of(path, wanted)
        ]
    return found


def check_place(paths: RunPaths, wanted: Wanted) -> None:
    """Refuse, with those that there are, the log of a process that has none."""
    if wanted.place is None or any(_is_of(path, wanted) for path in paths.logs.glob("[0-9]*/*.ndjson")):
        return
    prefix = f"{wanted.role}-"
    nodes = {path.stem.removeprefix(prefix) for path in paths.logs.glob(f"[0-9]*/{prefix}*.ndjson")}
    hint = f"with a log: {', '.join(sorted(nodes)) or 'none yet'}"
    raise UsageError(f"there is no log of the {wanted.role} on {wanted.place}", hint=hint)


def ranks_on(paths: RunPaths, attempt: int, node: str) -> set[int]:
    """The ranks of an attempt that ran on a node, by what their wrappers wrote."""
    found = set()
    for path in paths.attempt_logs(attempt).glob("rank-*.ndjson"):
        try:
            with path.open("rb") as file:
                labels = json.loads(file.readline())["labels"]
            if labels["node"] == node:
                found.add(int(labels["rank"]))
        except (ValueError, KeyError, TypeError):
            continue  # its first line is being written
    return found


def _numbered(folder: Path) -> Iterator[Path]:
    try:
        yield from (each for each in folder.iterdir() if each.name.isdecimal())
    except FileNotFoundError:
        return


def _is_of(path: Path, wanted: Wanted) -> bool:
    role, _, place = path.stem.partition("-")
    return role in ROLES and wanted.role in (None, role) and wanted.place in (None, place)


class Merged:
    """Prints the wanted lines of many files by their times."""

    def __init__(self, wanted: Wanted, *, as_json: bool, last: int | None) -> None:
        """`last`: of what is there at first only so many lines."""
        self._wanted = wanted
        self._as_json = as_json
        self._last = last
        self._halves: dict[Source, Lines] = {}
        self._stamps: dict[Source, str] = {}
        self._waiting: list[_Line] = []

    def put(self, source: Source, data: bytes) -> None:
        """Take what has come of a file."""
        from ftslurm.insight.tail import Lines

        self._take(source, self._halves.setdefault(source, Lines()).take(data))

    def turn(self) -> None:
        """Print what has come since the last time."""
        lines = sorted(self._waiting, key=lambda each: each.stamp)
        if self._last is not None:
            lines = lines[-self._last :] if self._last else []
        self._waiting, self._last = [], None
        for line in lines:
            click.echo(line.data if self._as_json else shown(line.record, line.data))

    def end(self) -> None:
        """Print lines that never got their newline."""
        for source, half in self._halves.items():
            self._take(source, half.end())
        self.turn()

    def _take(self, source: Source, lines: Iterable[bytes]) -> None:
        for data in lines:
            record = _record(data)
            stamp = self._stamps[source] = str(record.get("@timestamp") or self._stamps.get(source, ""))
            if self._wanted.takes(record):
                self._waiting.append(_Line(stamp, data, record))


def _record(data: bytes) -> Mapping[str, Any]:
    try:
        found = json.loads(data)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def shown(record: Mapping[str, Any], data: bytes) -> bytes:
    """A line for people: when, how loud, who, and what; then the traceback where there is one."""
    from ftslurm.insight.text import visible, visible_lines

    if "message" not in record:
        return visible(data.decode("utf-8", "replace")).encode("utf-8", "replace")
    error, level = record.get("error"), visible(str(record.get("log.level")))
    trace = str(error.get("stack_trace") or "") if isinstance(error, Mapping) else ""
    text = f"{_when(record)} {level:<8}{_who(record)} {visible(str(record['message']))}"
    return "\n    ".join([text, *visible_lines(trace)]).encode("utf-8", "replace")


def _when(record: Mapping[str, Any]) -> str:
    """Local time, as in the job's own output."""
    from ftslurm.insight.text import visible

    stamp = str(record.get("@timestamp"))
    try:
        return dt.datetime.fromisoformat(stamp).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    except ValueError:
        return visible(stamp)


def _who(record: Mapping[str, Any]) -> str:
    """`n3 agent`, `n3 rank 17`: where the line is about, and whose it is."""
    from ftslurm.insight.text import visible

    labels = record.get("labels")
    if not isinstance(labels, Mapping):
        return ""
    rank = str(labels.get("rank", "-"))
    role = str(labels.get("role", ""))
    words = [str(labels.get("node", "")), role if role != "wrapper" else "", f"rank {rank}" if rank != "-" else ""]
    return " " + visible(" ".join(word for word in words if word)) + ":"
