"""When nodes would have been asked about with another `heartbeat.suspect_after`: from the silences that were recorded.

The detector's limit is `suspect_after`, or more where beats come unevenly, and `patience` times that where the observer
is not well (`core.detector`). How unevenly they came is not in the journal: so with a shorter limit a suspicion comes
sooner by the difference at most, and with a longer one later by the difference at least.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ftslurm.core.events import AgentUp, NodeHeard, NodeSuspected
from ftslurm.journal import Entry

Told = tuple[int, float, str, str, str]
"""Entry, epoch seconds, what, recorded, other."""


@dataclass(slots=True)
class _Silence:
    number: int
    t: float
    silent_s: float
    patience: float
    given_up_s: float | None = None
    heard_s: float | None = None


class Silences:
    """All silences of a run that led to questions."""

    def __init__(self, own_s: float, other_s: float) -> None:
        """The limits of both policies, in seconds."""
        self._own_s, self._other_s = own_s, other_s
        self._open: dict[str, _Silence] = {}
        self._all: list[tuple[str, _Silence]] = []

    def see(self, entry: Entry, *, given_up: frozenset[str]) -> None:
        """Take an entry, and the nodes that it gives up."""
        event = entry.event
        if self._own_s == self._other_s:
            return
        if isinstance(event, NodeSuspected) and event.node not in self._open:
            silence = _Silence(entry.number, entry.t, event.silent_s, event.patience)
            self._open[event.node] = silence
            self._all.append((event.node, silence))
        elif isinstance(event, NodeHeard | AgentUp) and event.node in self._open:
            silence = self._open.pop(event.node)
            silence.heard_s = silence.silent_s + entry.t - silence.t
        for node in given_up & self._open.keys():
            self._open[node].given_up_s = self._open[node].silent_s + entry.t - self._open[node].t

    def over(self) -> Iterator[Told]:
        """Yield what would have been otherwise."""
        for node, each in self._all:
            shift_s = (self._other_s - self._own_s) * each.patience
            own = f"asked about after {each.silent_s:.1f} s of silence" + _end(each)
            yield each.number, each.t, f"{node} was silent", own, _other(each, shift_s)


def _end(silence: _Silence) -> str:
    if silence.given_up_s is not None:
        return f", given up after {silence.given_up_s:.1f} s"
    return f", heard again after {silence.heard_s:.1f} s" if silence.heard_s is not None else ""


def _other(silence: _Silence, shift_s: float) -> str:
    if shift_s < 0:
        return f"asked about up to {-shift_s:.1f} s sooner"
    asked_s = silence.silent_s + shift_s
    if silence.heard_s is not None and asked_s > silence.heard_s:
        return f"never asked about: it would have been heard before {asked_s:.1f} s"
    return f"asked about at least {shift_s:.1f} s later"
