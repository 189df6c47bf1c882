"""Every journal entry in one line: what happened, the phase after it, and what followed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ftslurm.core.records import to_record
from ftslurm.insight.render import relative
from ftslurm.insight.text import folded, time_of_day, visible

if TYPE_CHECKING:
    from ftslurm.core.actions import Action
    from ftslurm.core.events import Event
    from ftslurm.journal import Entry

_PLAIN_CHARS = 48
_NOT_TOLD = frozenset({"type", "at", "mono", "token"})
_NODE_LISTS = frozenset({"nodes", "placement", "gone", "down", "exclude"})


def lines(entries: Iterable[Entry]) -> Iterator[str]:
    """One line an entry: number, time, seconds since the first, epoch, phase, event => actions."""
    begun: float | None = None
    for entry in entries:
        begun = entry.t if begun is None else begun
        actions = ", ".join(_words(action) for action in entry.actions)
        stamp = f"{entry.number:>5} {time_of_day(entry.t)} {relative(entry.t - begun):>9} e{entry.epoch} "
        yield f"{stamp}{visible(entry.phase):<11} {_words(entry.event)}" + (f" => {actions}" if actions else "")


def _words(what: Event | Action) -> str:
    """`NodeSuspected(node=n3 silent_s=3.1)`: every field that is not at its default, in short."""
    record = to_record(what)
    told = " ".join(f"{name}={_short(name, value)}" for name, value in record.items() if name not in _NOT_TOLD)
    return f"{record['type']}({told})" if told else str(record["type"])


def _short(name: str, value: Any) -> str:  # noqa: ANN401 - JSON
    if name in _NODE_LISTS and isinstance(value, list):
        return folded(dict.fromkeys(value)) or "none"
    if name == "parts":
        return folded(each["node"] for each in value) or "none"
    if name == "part":
        return f"{visible(value['node'])}:{value['files']} files, {value['size_bytes']} bytes"
    if name == "findings":
        return ",".join(f"{each['witness']}:{each['outcome']}" for each in value)
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Mapping):
        return "{" + " ".join(f"{visible(str(key))}:{_short('', item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        shown = ",".join(_short("", item) for item in value[:4])
        return f"[{shown}{',...' if len(value) > 4 else ''}]"
    text = visible(str(value))
    return text if len(text) <= _PLAIN_CHARS else f"{text[: _PLAIN_CHARS - 3]}..."
