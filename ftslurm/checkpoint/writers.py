"""The processes that may be writing a checkpoint: which of them live, which are stopped, and who has a file open.

A file that no longer grows is not finished when its writer was killed or stopped in the middle (measured: 20 of 40 MB
that "settle"). The kernel knows better: a read lease is refused while anybody has the file open, or mapped, for writing
(fcntl(2), F_SETLEASE). Where leases do not mean that (network file systems: NFSv4 refuses them without a delegation;
files of other owners), the open files and mappings of the attempt's own processes are looked through in /proc.
"""

from __future__ import annotations

import fcntl
import functools
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_PROC = Path("/proc")
_CGROUPS = Path("/sys/fs/cgroup")
_DEAD = frozenset("ZXx")
_STOPPED = frozenset("Tt")
_LEASES_HOLD = frozenset({"ext2", "ext3", "ext4", "xfs", "f2fs", "tmpfs", "zfs"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Writers:
    """The attempt's processes on this node at one moment.

    `alive`: every living process of the attempt, ranks and what they started. `stopped`: those of them that do not run
    (state T or t, or a frozen cgroup). `ranks_lost`: how many of the ranks that were started here no longer live.
    """

    alive: frozenset[int]
    stopped: frozenset[int] = frozenset()
    ranks_lost: int = 0

    @property
    def fault(self) -> str:
        """Why nothing can settle just now; "" where all is well."""
        if self.ranks_lost:
            return f"{self.ranks_lost} of the attempt's ranks ended here"
        if self.stopped:
            return f"process {min(self.stopped)} is stopped"
        return "" if self.alive else "no process of the attempt lives here"


def look(ranks: Iterable[int], others: Iterable[int] = ()) -> Writers:
    """Ask /proc about the ranks' processes (as started) and the others that belong to the attempt now."""
    started = frozenset(ranks)
    states = {pid: state_of(pid) for pid in started | frozenset(others)}
    alive = frozenset(pid for pid, state in states.items() if state and state not in _DEAD)
    return Writers(
        alive=alive,
        stopped=frozenset(pid for pid in alive if states[pid] in _STOPPED or is_frozen(pid)),
        ranks_lost=len(started - alive),
    )


def state_of(pid: int) -> str:
    """The one-letter state of a process (proc(5)); "" where there is none."""
    try:
        text = (_PROC / str(pid) / "stat").read_bytes()
    except OSError:
        return ""
    return text.rpartition(b")")[2].split()[0].decode("ascii")


def is_frozen(pid: int) -> bool:
    """Whether the process's cgroup is frozen (cgroups(7)): a frozen process is not in state T."""
    try:
        lines = (_PROC / str(pid) / "cgroup").read_text().splitlines()
    except OSError:
        return False
    for line in lines:
        _, controllers, place = line.split(":", 2)
        base = _CGROUPS / place.lstrip("/")
        if not controllers and "frozen 1" in _text(base / "cgroup.events"):
            return True
        if "freezer" in controllers.split(","):
            state = _text(_CGROUPS / "freezer" / place.lstrip("/") / "freezer.state")
            if state.startswith(("FROZEN", "FREEZING")):
                return True
    return False


def _text(path: Path) -> str:
    """The content of a small file of the kernel's; "" where there is none."""
    try:
        return path.read_text()
    except OSError:
        return ""


def is_open_for_writing(descriptor: int, alive: frozenset[int]) -> bool:
    """Whether anybody has this file, opened here read-only, open or mapped for writing."""
    if not _leases_hold(os.fstat(descriptor).st_dev):
        return bool(open_by(descriptor, alive))
    try:
        # A break of the lease would send SIGIO, which kills; SIGURG is ignored by default.
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except BlockingIOError:
        return True
    except OSError:
        return bool(open_by(descriptor, alive))
    fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return False


@functools.lru_cache(maxsize=64)
def _leases_hold(device: int) -> bool:
    """Whether the file system is a local one, by its entry in /proc/self/mountinfo (proc(5))."""
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in _text(_PROC / "self" / "mountinfo").splitlines():
        fields = line.split()
        if fields[2] == wanted:
            return fields[fields.index("-") + 1] in _LEASES_HOLD
    return False


def open_by(descriptor: int, alive: frozenset[int]) -> frozenset[int]:
    """Those of the processes that have this file open for writing, as far as they let themselves be looked at."""
    wanted = os.fstat(descriptor)
    file = (wanted.st_dev, wanted.st_ino)
    return frozenset(pid for pid in alive if _holds(pid, file) or _maps(pid, file))


def _holds(pid: int, file: tuple[int, int]) -> bool:
    try:
        names = os.listdir(_PROC / str(pid) / "fd")
    except OSError:
        return False
    return any(_is_writable(pid, name) for name in names if _is_same(pid, name, file))


def _is_same(pid: int, name: str, file: tuple[int, int]) -> bool:
    try:
        found = os.stat(f"/proc/{pid}/fd/{name}")  # noqa: PTH116 - as above
    except OSError:
        return False
    return (found.st_dev, found.st_ino) == file


def _is_writable(pid: int, name: str) -> bool:
    try:
        text = (_PROC / str(pid) / "fdinfo" / name).read_text()
    except OSError:
        return False
    flags = next((line.split()[1] for line in text.splitlines() if line.startswith("flags:")), "0")
    return int(flags, 8) & os.O_ACCMODE != os.O_RDONLY


def _maps(pid: int, file: tuple[int, int]) -> bool:
    """Whether a process has the file mapped, shared and writable (its descriptor may be closed)."""
    device = f"{os.major(file[0]):02x}:{os.minor(file[0]):02x}"
    for line in _text(_PROC / str(pid) / "maps").splitlines():
        fields = line.split(maxsplit=5)
        if fields[1][1] == "w" and fields[1][3] == "s" and (fields[3], fields[4]) == (device, str(file[1])):
            return True
    return False
