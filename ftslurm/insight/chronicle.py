"""The moments of a story in the making: what repeats itself is counted, checkpoints are told of together."""

from __future__ import annotations

import re
from dataclasses import replace

from ftslurm.insight.incident import Incident, Note
from ftslurm.insight.records import Kind, Moment
from ftslurm.insight.saves import Save
from ftslurm.insight.text import count

# Numbers that stand alone: the 3 of `n3` is part of a name.
_NUMBER = re.compile(r"(?<![A-Za-z0-9])[0-9]+(\.[0-9]+)?(?![A-Za-z0-9])")


class Chronicle:
    """Moments, in the order in which they were heard of."""

    def __init__(self) -> None:
        self._moments: list[Moment] = []
        self._saved: list[tuple[float, int]] = []

    def add(self, t: float, kind: Kind, text: str, incident: int | None = None) -> None:
        """Something that happened once."""
        self._moments.append(Moment(t=t, kind=kind, text=text, incident=incident))

    def note(self, t: float, kind: Kind, slug: str, text: str) -> None:
        """Something that may repeat itself: then it is counted where it stands, if nothing else came between."""
        for index in range(len(self._moments) - 1, -1, -1):
            before = self._moments[index]
            if before.kind is not kind:
                break
            if alike((before.slug, before.text), (slug, text)):
                self._moments[index] = replace(before, count=before.count + 1, until=t)
                return
        self._moments.append(Moment(t=t, kind=kind, slug=slug, text=text))

    def demote(self, incident: int, remark: str) -> None:
        """What was taken for an incident is a note, with a remark that says why."""
        for index, moment in enumerate(self._moments):
            if moment.incident == incident:
                text = f"{moment.text}: {remark}"
                self._moments[index] = replace(moment, kind=Kind.NOTE, incident=None, text=text)

    def saved(self, t: float, step: int) -> None:
        """A checkpoint has become whole."""
        self._saved.append((t, step))

    def tell_of_saves(self, durable: Save | None) -> None:
        """Tell of the checkpoints since the last time, in one line."""
        if not self._saved:
            return
        last = self._saved[-1][0]
        steps = [step for _, step in self._saved]
        span = f"step {steps[0]}" if len(steps) == 1 else f"steps {min(steps)} to {max(steps)}"
        where = f"step {durable.step} is on shared storage" if durable else "none is on shared storage yet"
        self.add(last, Kind.CHECKPOINTS, f"{count(len(self._saved), 'checkpoint')} saved ({span}); {where}")
        self._saved = []

    def moments(self) -> tuple[Moment, ...]:
        """All of them by time: an incident begins before it is known to be one."""
        return tuple(sorted(self._moments, key=lambda moment: moment.t))


def with_note(incident: Incident, t: float, slug: str, text: str) -> Incident:
    """The incident with a note, or with one that it has counted once more."""
    notes = list(incident.notes)
    same = next((i for i, each in enumerate(notes) if alike((each.slug, each.text), (slug, text))), None)
    if same is None:
        notes.append(Note(t=t, slug=slug, text=text))
    else:
        notes[same] = replace(notes[same], count=notes[same].count + 1, until=t)
    return replace(incident, notes=tuple(notes))


def alike(one: tuple[str, str], other: tuple[str, str]) -> bool:
    """Whether two (slug, text) say the same but for their numbers."""
    return bool(one[0]) and one[0] == other[0] and _NUMBER.sub("#", one[1]) == _NUMBER.sub("#", other[1])
