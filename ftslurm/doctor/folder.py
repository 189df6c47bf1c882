"""What a folder can do: type of its file system, space, exclusive creation, atomic rename, the time of an fsync.

Every check runs on files of its own inside the folder and removes them. Storage may hang for minutes, so `examine` has
a deadline: what is not known by then stays unknown, and the thread that hangs is left behind.
"""

from __future__ import annotations

import os
import secrets
import shutil
import statistics
import threading
import time
from pathlib import Path

from ftslurm.paths import PRIVATE_FILE, PRIVATE_FOLDER
from ftslurm.runtime.scratch import file_system_of

DEADLINE_S = 15.0
FSYNCS = 5
MEMORY_FILE_SYSTEMS = frozenset({"tmpfs", "ramfs", "overlay"})

Found = dict[str, str | float | bool | None]


def nearest(path: Path) -> Path:
    """The folder itself, or the nearest one above it that exists."""
    return next((each for each in (path, *path.parents) if each.is_dir()), Path("/"))


def examine(path: Path, deadline_s: float = DEADLINE_S) -> Found:
    """What can be said about a folder within the deadline; `error` is there if something was refused."""
    found: Found = {"path": str(path)}

    def work() -> None:
        try:
            found["exists"] = path.is_dir()
            _place(nearest(path), found)
            _try_out(nearest(path), found)
        except OSError as error:
            found["error"] = f"{error.strerror or error}: {error.filename or path}"

    thread = threading.Thread(target=work, name="examine", daemon=True)
    thread.start()
    thread.join(deadline_s)
    if thread.is_alive():
        return {**found, "error": f"no answer within {deadline_s:g} s"}
    return found


def _place(path: Path, found: Found) -> None:
    found["file_system"] = file_system_of(path)
    space = os.statvfs(path)
    found["free_bytes"] = float(space.f_bavail * space.f_frsize)
    found["free_inodes"] = float(space.f_favail) if space.f_files else None


def _try_out(path: Path, found: Found) -> None:
    """Try each thing that ftslurm relies on, in a private folder that is removed."""
    own = path / f".ftslurm-doctor-{secrets.token_hex(4)}"
    try:
        own.mkdir(mode=PRIVATE_FOLDER)
    except OSError as error:
        found["writable"] = False
        found["error"] = f"{error.strerror}: {path}"
        return
    found["writable"] = True
    try:
        found["exclusive"] = _exclusive(own)
        found["rename"] = _rename(own)
        found["fsync_s"] = _fsync(own)
    finally:
        shutil.rmtree(own, ignore_errors=True)


def _write(path: Path, data: bytes, flags: int = 0, *, sync: bool = False) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | flags, PRIVATE_FILE)
    try:
        os.write(descriptor, data)
        if sync:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _exclusive(own: Path) -> bool:
    """Whether a name can be created by one process only: the lease of a run rests on it."""
    _write(own / "lease", b"1", os.O_EXCL)
    try:
        _write(own / "lease", b"2", os.O_EXCL)
    except FileExistsError:
        return True
    return False


def _rename(own: Path) -> bool:
    """Whether a file can replace another one: the commit of a checkpoint rests on it."""
    _write(own / "old", b"old")
    _write(own / "new", b"new", sync=True)
    (own / "new").rename(own / "old")
    return (own / "old").read_bytes() == b"new" and not (own / "new").exists()


def _fsync(own: Path) -> float:
    """The median time of writing and syncing one small file, in seconds."""
    times = []
    for number in range(FSYNCS):
        began = time.monotonic()
        _write(own / f"sync{number}", b"x" * 512, sync=True)
        times.append(time.monotonic() - began)
    return statistics.median(times)
