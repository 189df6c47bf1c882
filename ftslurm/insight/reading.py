"""One run's journal, read on from where it was left: a display looks again and again, and a journal may be long.

A journal only grows at its end, so what is new stands behind what was read. Where that is not so, it is read anew from
its beginning, by the rules of `journal.read`: where two supervisors wrote the same number, where a file is shorter than
it was or holds other bytes, and where a line is damaged, which that reading then names.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path

from ftslurm import journal
from ftslurm.errors import DataDamaged, StorageError
from ftslurm.insight.summary import Fold, Summary
from ftslurm.paths import RunPaths

MARK_BYTES = 1024
Stamp = tuple[tuple[int, int, int], ...]


class _NotFurther(Exception):
    """The journal has not just grown: a reason to read it anew."""


@dataclass(frozen=True, slots=True)
class Place:
    """How far a file was read: to the end of a line, and what stands there."""

    offset: int = 0
    mark: str = ""


@dataclass(slots=True)
class Reading:
    """What is known of a run after reading its journal up to `places`, by epoch."""

    fold: Fold = field(default_factory=Fold)
    places: dict[int, Place] = field(default_factory=dict)

    def catch_up(self, paths: RunPaths) -> Summary:
        """Read what is new, and return where the run stands.

        Raises:
            DataDamaged: a line other than the last of a file cannot be read.
            StorageError: the journal cannot be read.
        """
        try:
            entries, places = self._new(paths)
        except _NotFurther:
            places = {epoch: _end_of(path) for epoch, path in files(paths).items()}
            # What comes in between is read now and will be seen again: then it is read anew once more.
            entries, self.fold = list(journal.read(paths)), Fold()
        for entry in entries:
            self.fold.see(entry)
        self.places = places
        return self.fold.summary()

    @property
    def size_bytes(self) -> int:
        """How much was read."""
        return sum(place.offset for place in self.places.values())

    def _new(self, paths: RunPaths) -> tuple[list[journal.Entry], dict[int, Place]]:
        """The entries behind the places, and the places behind the entries."""
        there = files(paths)
        if not self.places.keys() <= there.keys():
            raise _NotFurther
        entries: list[journal.Entry] = []
        places: dict[int, Place] = {}
        number, least = self.fold.number, self.fold.epoch
        for epoch, path in sorted(there.items()):
            lines, places[epoch] = _behind(path, self.places.get(epoch, Place()))
            for line in lines:
                entry = _parsed(line)
                if entry.number <= number or entry.epoch < least:
                    raise _NotFurther
                number, least = entry.number, entry.epoch
                entries.append(entry)
        return entries, places


def files(paths: RunPaths) -> dict[int, Path]:
    """The files of a run's journal, by epoch."""
    return {epoch: Path(found.path) for epoch, found in _found(paths)}


def stamp(paths: RunPaths) -> Stamp:
    """What changes whenever a run's journal does: (epoch, size, time of the last change) of its files."""
    stats = ((epoch, found.stat()) for epoch, found in _found(paths))
    return tuple(sorted((epoch, about.st_size, about.st_mtime_ns) for epoch, about in stats))


def _found(paths: RunPaths) -> list[tuple[int, os.DirEntry[str]]]:
    try:
        with os.scandir(paths.root) as found:
            named = [(each.name.split("."), each) for each in found]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StorageError(f"cannot read {paths.root}: {error.strerror}") from error
    return [
        (int(name[1]), each)
        for name, each in named
        if len(name) == 3 and name[0] == "journal" and name[2] == "jsonl" and name[1].isdigit()
    ]


def _behind(path: Path, place: Place) -> tuple[list[bytes], Place]:
    """The whole lines behind a place, and the place behind them."""
    start = max(place.offset - MARK_BYTES, 0)
    try:
        with path.open("rb") as file:
            file.seek(start)
            data = file.read()
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}") from error
    known = data[: place.offset - start]
    if len(known) < place.offset - start or (place.offset and _mark(known) != place.mark):
        raise _NotFurther
    end = data.rfind(b"\n") + 1
    if start + end <= place.offset:
        return [], place
    lines = data[len(known) : end - 1].split(b"\n")
    return lines, Place(start + end, _mark(data[max(end - MARK_BYTES, 0) : end]))


def _end_of(path: Path) -> Place:
    return _behind(path, Place())[1]


def _parsed(line: bytes) -> journal.Entry:
    try:
        return journal.parse_line(line.decode("utf-8", "replace"))
    except DataDamaged:
        raise _NotFurther from None  # who reads it anew says where


def _mark(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=8).hexdigest()
