"""What the kernel tells about the program's checkpoint folder: which files came by a rename, and when to look again.

inotify(7) reports renames, which a listing cannot show, and costs nothing while nothing happens. It is a hint, never a
proof: its queue can overflow, watches can be refused (per-user limits), a folder can be filled before it is watched,
and network file systems report only this host's doings. In all these cases the caller is told to list the folder, and
files must pass the settle rule instead.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from inotify_simple import INotify

    from ftslurm.checkpoint.patterns import Patterns


class Change(StrEnum):
    """What happened to a name."""

    RENAMED_IN = "renamed in"
    FOLDER_RENAMED_IN = "folder renamed in"
    WRITTEN = "written"


@dataclass(frozen=True, slots=True, kw_only=True)
class News:
    """What was reported since the last time, in order; `look` asks for a listing of the folder."""

    look: bool
    changes: tuple[tuple[Change, str], ...] = ()


_NOTHING = News(look=False)


class Arrivals:
    """The watches on a folder and on those of its sub-folders that can hold files of the patterns."""

    def __init__(self, folder: Path, patterns: Patterns) -> None:
        self._folder = folder
        self._patterns = patterns
        self._places: dict[int, str] = {}
        self._inotify = _start()

    @property
    def is_blind(self) -> bool:
        """Whether nothing will be reported, so that only listings help."""
        return self._inotify is None or "" not in self._places.values()

    def close(self) -> None:
        """Give the kernel's resources back."""
        if self._inotify is not None:
            self._inotify.close()
        self._inotify = None

    def watch(self, place: str) -> None:
        """Watch a folder, relative to the top ("" is the top). Repeating it costs one system call."""
        if self._inotify is None:
            return
        from inotify_simple import flags

        mask = flags.CREATE | flags.MOVED_FROM | flags.MOVED_TO | flags.CLOSE_WRITE | flags.DELETE
        try:
            number = self._inotify.add_watch(self._folder / place, mask | flags.ONLYDIR | flags.DONT_FOLLOW)
        except OSError:
            return  # gone again, or the limit of watches: `is_blind` or the settle rule cover it
        self._places[number] = place

    def read(self) -> News:
        """What happened since the last call; does not wait."""
        if self._inotify is None:
            return _NOTHING
        events = self._inotify.read(timeout=0)
        if not events:
            return _NOTHING
        from inotify_simple import flags

        sources = {event.cookie: self._name(event) for event in events if event.mask & flags.MOVED_FROM}
        look = False
        changes: list[tuple[Change, str]] = []
        for event in events:
            if event.mask & flags.IGNORED:
                self._places.pop(event.wd, None)
            name = self._name(event)
            matters = not name or self._matters(name, is_folder=bool(event.mask & flags.ISDIR))
            look = look or matters
            if matters and name:
                changes += self._change(event.mask, name, sources.get(event.cookie, ""))
        return News(look=look, changes=tuple(changes))

    def _change(self, mask: int, name: str, source: str) -> Iterator[tuple[Change, str]]:
        from inotify_simple import flags

        if mask & flags.ISDIR and mask & flags.MOVED_FROM:
            self._forget(name)
        elif mask & flags.ISDIR and mask & flags.MOVED_TO and not (source and self._patterns.may_hold(source)):
            yield Change.FOLDER_RENAMED_IN, name
        elif mask & flags.MOVED_TO and not mask & flags.ISDIR and not (source and self._patterns.match(source)):
            yield Change.RENAMED_IN, name
        elif mask & flags.CLOSE_WRITE:
            yield Change.WRITTEN, name

    def _name(self, event: tuple[int, int, int, str]) -> str:
        """The name of an event relative to the top; "" for the queue's and the folders' own."""
        number, _, _, last = event
        place = self._places.get(number)
        if place is None or not last:
            return ""
        return f"{place}/{last}" if place else last

    def _matters(self, name: str, *, is_folder: bool) -> bool:
        return self._patterns.may_hold(name) if is_folder else self._patterns.match(name) is not None

    def _forget(self, place: str) -> None:
        """Stop watching a folder that has another name now."""
        gone = [number for number, known in self._places.items() if f"{known}/".startswith(f"{place}/")]
        for number in gone:
            self._places.pop(number)
            if self._inotify is not None:
                _remove(self._inotify, number)


def _start() -> INotify | None:
    from inotify_simple import INotify

    try:
        return INotify()
    except OSError:
        return None  # the user's limit of instances is reached


def _remove(inotify: INotify, number: int) -> None:
    try:
        inotify.rm_watch(number)
    except OSError as error:
        if error.errno != errno.EINVAL:  # the kernel has dropped it already
            raise
