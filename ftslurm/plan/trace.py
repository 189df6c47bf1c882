"""A trace: which nodes of a fleet were out, when, for how long and why.

Two formats are read. JSON is that of the public trace stepfun-ai/InfiniteHBD-Trace (Apache-2.0, arXiv 2502.03885): a
list of events {node_id, event_time, event_type, fault_type}, times in days, `fault_start` and `fault_end` of a node in
turns. CSV has the header `node,start,end,kind`, times in seconds since the beginning of the trace, a line for each
outage by its start; an empty `end` is an outage that was not over when the trace ended.

Rule: what is out of order, negative, unknown or left out is an error with file, line and reason, never repaired here. A
trace that was mended by guessing would be fitted and believed.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from ftslurm.core.lemons import DAY_S
from ftslurm.errors import StorageError, UsageError
from ftslurm.insight.text import visible

MOST_BYTES = 256 << 20
_COLUMNS = ["node", "start", "end", "kind"]
_EVENT = {"node_id", "event_time", "event_type", "fault_type"}
_FAULT = {"Level", "Class", "Desc"}
_TYPES = ("fault_start", "fault_end")
_LONGEST = 200
_FAR_S = 1e11
WHEN = attrgetter("at_s", "node")
"""The order of outages."""


class Outage(NamedTuple):
    """A node was out.

    Attributes:
        node: its number, from 0.
        at_s: when, in seconds since the beginning.
        repair_s: until it could be used again; infinite where that was not before the end.
        kind: what failed, in the trace's or generator's own word.
    """

    node: int
    at_s: float
    repair_s: float
    kind: str = ""

    @property
    def end_s(self) -> float:
        """When it could be used again."""
        return self.at_s + self.repair_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """Outages of a fleet, in the order of their beginning.

    Attributes:
        outages: the nodes in them are places in `names`; higher numbers are nodes that never failed.
        nodes: how many nodes were watched, those without any fault included.
        span_s: how long.
        names: of the nodes that failed, in the order in which they first did.
    """

    outages: tuple[Outage, ...]
    nodes: int
    span_s: float
    names: tuple[str, ...] = ()

    def between(self, start_s: float, end_s: float) -> Trace:
        """The outages that begin in a part of the time, which becomes a trace of its own; names stay."""
        kept = []
        for each in self.outages:
            if start_s <= each.at_s < end_s:
                repair_s = each.repair_s if each.end_s <= end_s else math.inf
                kept.append(each._replace(at_s=each.at_s - start_s, repair_s=repair_s))
        return Trace(outages=tuple(kept), nodes=self.nodes, span_s=end_s - start_s, names=self.names)

    def only(self, chosen: Collection[int]) -> Trace:
        """The outages of some of the nodes, numbered anew in their old order; names are left out."""
        place = {node: number for number, node in enumerate(sorted(chosen))}
        kept = tuple(each._replace(node=place[each.node]) for each in self.outages if each.node in place)
        return Trace(outages=kept, nodes=len(place), span_s=self.span_s)


def read_trace(path: Path, nodes: int | None = None, span_s: float | None = None) -> Trace:
    """Read a trace; a name that ends in `.csv` is CSV, anything else JSON.

    Args:
        path: the file.
        nodes: the size of the fleet; None: the nodes that the trace names, which are too few if others never failed.
        span_s: how long the fleet was watched; None: until the last event.

    Raises:
        StorageError: the file cannot be read.
        UsageError: it is no such trace (the message has file, line and reason), or has more nodes or time than given.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise StorageError(f"cannot read the trace {path}: {error.strerror}") from error
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UsageError(f"{path}:{line}: not a trace: this is no UTF-8 text") from None
    if len(data) > MOST_BYTES:
        raise UsageError(f"{path}: not read: a trace has at most {MOST_BYTES >> 20} MiB")
    book = _Book(path)
    (_read_csv if path.suffix == ".csv" else _read_json)(text, book)
    return book.close(nodes, span_s)


@dataclass(slots=True)
class _Book:
    """What was read so far; refuses what does not follow from it."""

    path: Path
    last_s: float = 0.0
    names: dict[str, int] = field(default_factory=dict)
    outages: list[Outage] = field(default_factory=list)
    out: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Nodes that are out: the place of the outage, and its line."""

    def refuse(self, line: int, reason: str) -> NoReturn:
        raise UsageError(f"{self.path}:{line}: {reason}")

    def node(self, line: int, name: object) -> int:
        if not isinstance(name, str) or not 0 < len(name) <= _LONGEST or not name.isprintable():
            self.refuse(line, f"the name of a node is 1 to {_LONGEST} printable characters, not {_shown(name)}")
        return self.names.setdefault(name, len(self.names))

    def moment(self, line: int, value: object, unit_s: float, *, ordered: bool = True) -> float:
        """A time in seconds, not before the last one where `ordered`."""
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < _FAR_S / unit_s:
            self.refuse(line, f"a time is a number of at least 0, not {_shown(value)}")
        at_s = round(value * unit_s, 3)
        if ordered:
            if at_s < self.last_s:
                self.refuse(line, f"out of order: {value:g} comes after {self.last_s / unit_s:g}")
            self.last_s = at_s
        return at_s

    def begin(self, line: int, outage: Outage) -> None:
        if outage.node in self.out:
            place, before = self.out[outage.node]
            if self.outages[place].end_s > outage.at_s:
                self.refuse(line, f"the node is out since line {before}; an outage begins after the end of the last")
        self.out[outage.node] = (len(self.outages), line)
        self.outages.append(outage)

    def end(self, line: int, node: int, at_s: float) -> None:
        if node not in self.out:
            self.refuse(line, "the end of a fault that has not begun")
        place, _ = self.out.pop(node)
        begun = self.outages[place]
        self.outages[place] = begun._replace(repair_s=round(at_s - begun.at_s, 3))

    def close(self, nodes: int | None, span_s: float | None) -> Trace:
        if not self.outages:
            self.refuse(1, "no outage is in this trace")
        if nodes is not None and nodes < len(self.names):
            raise UsageError(f"{self.path}: {len(self.names)} nodes failed, of a fleet of {nodes}")
        ends = (each.end_s for each in self.outages if math.isfinite(each.repair_s))
        last_s = max(self.last_s, self.outages[-1].at_s, *ends)
        if span_s is not None and span_s < last_s:
            raise UsageError(f"{self.path}: lasts {last_s / DAY_S:.2f} days, not {span_s / DAY_S:.2f}")
        return Trace(
            outages=tuple(sorted(self.outages, key=WHEN)),
            nodes=len(self.names) if nodes is None else nodes,
            span_s=last_s if span_s is None else span_s,
            names=tuple(self.names),
        )


def _shown(value: object) -> str:
    return visible(repr(value))[:60]


def _read_csv(text: str, book: _Book) -> None:
    rows = csv.reader(text.splitlines(keepends=True), strict=True)
    try:
        header = next(rows, [])
        if header != _COLUMNS:
            book.refuse(1, f"the header is {','.join(_COLUMNS)}, not {_shown(','.join(header))}")
        for row in rows:
            if row:
                _take_row(rows.line_num, row, book)
    except csv.Error as error:
        book.refuse(rows.line_num, f"not CSV: {error}")


def _take_row(line: int, row: list[str], book: _Book) -> None:
    if len(row) != len(_COLUMNS):
        book.refuse(line, f"{len(_COLUMNS)} columns are wanted, {len(row)} are there")
    name, start, end, kind = row
    node, at_s = book.node(line, name), book.moment(line, _number(start), 1.0)
    repair_s = math.inf
    if end:
        end_s = book.moment(line, _number(end), 1.0, ordered=False)
        if end_s < at_s:
            book.refuse(line, f"ends at {end_s:g}, before it begins at {at_s:g}")
        repair_s = round(end_s - at_s, 3)
    book.begin(line, Outage(node, at_s, repair_s, kind[:_LONGEST]))


def _number(text: str) -> object:
    try:
        return float(text)
    except ValueError:
        return text


def _read_json(text: str, book: _Book) -> None:
    for line, event in _events(text, book):
        if not isinstance(event, dict):
            book.refuse(line, f"an event is an object, not {_shown(event)}")
        _check_keys(line, event, _EVENT, book)
        fault = event["fault_type"]
        if not isinstance(fault, dict) or not all(isinstance(each, str) for each in fault.values()):
            book.refuse(line, f"fault_type is an object of texts, not {_shown(fault)}")
        _check_keys(line, fault, _FAULT, book)
        node, at_s = book.node(line, event["node_id"]), book.moment(line, event["event_time"], DAY_S)
        if event["event_type"] == _TYPES[0]:
            book.begin(line, Outage(node, at_s, math.inf, fault["Class"][:_LONGEST]))
        elif event["event_type"] == _TYPES[1]:
            book.end(line, node, at_s)
        else:
            book.refuse(line, f"event_type is one of {', '.join(_TYPES)}, not {_shown(event['event_type'])}")


def _check_keys(line: int, found: dict[str, Any], wanted: set[str], book: _Book) -> None:
    if unknown := sorted(found.keys() - wanted):
        book.refuse(line, f"unknown key {_shown(unknown[0])}: known are {', '.join(sorted(wanted))}")
    if missing := sorted(wanted - found.keys()):
        book.refuse(line, f"the key {missing[0]} is missing")


def _events(text: str, book: _Book) -> Iterator[tuple[int, Any]]:
    """The elements of a list, one by one, each with the line that it begins in."""
    decoder = json.JSONDecoder(object_pairs_hook=_once)
    place, line = _past(text, 0), 1
    if text[place : place + 1] != "[":
        book.refuse(1, "a trace is a list of events, or a .csv file")
    before, place = 0, _past(text, place + 1)
    while text[place : place + 1] != "]":
        line += text.count("\n", before, place)
        before = place
        try:
            event, place = decoder.raw_decode(text, place)
        except json.JSONDecodeError as error:
            book.refuse(error.lineno, f"not JSON: {error.msg}")
        except (ValueError, RecursionError) as error:
            book.refuse(line, f"not JSON: {error}")
        yield line, event
        place = _past(text, place)
        if text[place : place + 1] == ",":
            place = _past(text, place + 1)
        elif text[place : place + 1] != "]":
            book.refuse(text.count("\n", 0, place) + 1, "not JSON: expected a comma, or the end of the list")
    if (more := _past(text, place + 1)) != len(text):
        book.refuse(text.count("\n", 0, more) + 1, "not JSON: something comes after the list")


def _past(text: str, place: int) -> int:
    """The place of the next character that is no white space."""
    while text[place : place + 1] in (" ", "\t", "\r", "\n"):
        place += 1
    return place


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is there twice")
    return found
