"""The file STOP in a run's folder, or in its `requests` folder: the run is to end, after a save or as it is.

`ftslurm stop` writes it, and so may anybody who can create a file there: a colleague of the group needs no account of
the user's. Nothing of it is believed but two words, and who owns it is said. It is taken away when it has been seen.
"""

from __future__ import annotations

import logging
import os
import pwd
import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from ftslurm.core.ending import USER
from ftslurm.core.events import StopRequested
from ftslurm.paths import PRIVATE_FILE, PRIVATE_FOLDER

log = logging.getLogger(__name__)

AFTER_SAVE, NOW = "after-save", "now"
MOST_BYTES = 64


class StopFiles:
    """Looks for the files; one that cannot be taken away is seen once."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self._seen: set[tuple[int, int, int]] = set()

    def look(self) -> StopRequested | None:
        """Return what is asked for, if anything is."""
        for path in self._paths:
            try:
                handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            except OSError as error:
                if not isinstance(error, FileNotFoundError):
                    log.debug("%s cannot be read: %s", path, error)
                continue
            try:
                asked = self._read(path, handle)
            finally:
                os.close(handle)
            if asked is not None:
                return asked
        return None

    def _read(self, path: Path, handle: int) -> StopRequested | None:
        """What an open file asks for. An empty one is perhaps still being written."""
        about = os.fstat(handle)
        mark = (about.st_ino, about.st_mtime_ns, about.st_size)
        if mark in self._seen:
            return None
        data = os.read(handle, MOST_BYTES) if stat.S_ISREG(about.st_mode) else b"?"
        if not data:
            return None
        self._seen.add(mark)
        words = data.decode("ascii", "replace").strip()
        if words not in (AFTER_SAVE, NOW):
            log.warning("%s of uid %d is not obeyed: it says neither %s nor %s", path, about.st_uid, AFTER_SAVE, NOW)
            return None
        with suppress(OSError):  # in a folder that is not the user's: it counts once all the same
            path.unlink(missing_ok=True)
        return StopRequested(why=USER, save=words == AFTER_SAVE, by=_who(about.st_uid))


def _who(uid: int) -> str:
    try:
        return f"{pwd.getpwuid(uid).pw_name} (uid {uid})"
    except KeyError:
        return f"uid {uid}"


def request_stop(paths: Sequence[Path], *, after_save: bool) -> Path:
    """Ask a run to stop; returns the file that disappears when its supervisor has seen it. Raises OSError."""
    path = paths[0]
    path.parent.mkdir(mode=PRIVATE_FOLDER, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.unlink(missing_ok=True)
    handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, PRIVATE_FILE)
    try:
        os.write(handle, f"{AFTER_SAVE if after_save else NOW}\n".encode())
    finally:
        os.close(handle)
    part.replace(path)
    return path


def withdraw(paths: Sequence[Path]) -> tuple[str, ...]:
    """Take away what nobody has seen, and return who had asked: a run that is resumed must not stop at once for it."""
    found = []
    for path in paths:
        with suppress(FileNotFoundError):
            found.append(_who(path.lstat().st_uid))
            path.unlink()
    return tuple(found)
