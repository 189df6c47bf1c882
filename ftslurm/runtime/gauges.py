"""What an agent measures on its node with the kernel's own files: load, memory, cgroups, disks.

Each function may block for as long as a disk or a kernel likes; `runtime.nodeprobes` calls them in threads that nobody
waits for beyond a deadline. What the kernel does not offer is left out.
"""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

from ftslurm.core.health import Reading
from ftslurm.paths import PRIVATE_FILE

PRESSURE = Path("/proc/pressure/memory")
CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUP = Path("/proc/self/cgroup")
JOB = re.compile(r"(.*/job_[^/]+)(/.*)?$")
ILL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.ESTALE, errno.ENODEV, errno.EUCLEAN})
"""Errors of a write that speak about the file system; others (no permission, no folder) speak about us."""


def load() -> list[Reading]:
    """Return the load average of the last minute for every core."""
    return [Reading(metric="load_per_core", value=round(os.getloadavg()[0] / (os.cpu_count() or 1), 2))]


def pressure(path: Path = PRESSURE) -> list[Reading]:
    """Return the memory pressure (PSI, kernel 4.20 and later); nothing where it is switched off."""
    try:
        words = path.read_text(encoding="ascii").split()
    except OSError:
        return []
    found = next((word.partition("=")[2] for word in words if word.startswith("avg10=")), None)
    return [] if found is None else [Reading(metric="memory_pressure", value=float(found))]


# ------------------------------------------------------------------------------------------------------------- cgroups


def job_cgroup(own: str, root: Path = CGROUPS) -> Path | None:
    """Return the memory cgroup of the job that a process is in, by its /proc/PID/cgroup; None where there is none.

    Slurm makes job_N/step_M/... in version 1 (one hierarchy a controller) and in version 2 (one for all).
    """
    for line in own.splitlines():
        _, controllers, path = line.split(":", 2)
        match = JOB.match(path)
        if match and (not controllers or "memory" in controllers.split(",")):
            return Path(f"{root / 'memory' if controllers else root}{match[1]}")
    return None


def memory_kills(group: Path) -> int | None:
    """Return how many processes of a cgroup, or below it, the kernel killed for memory; None where it does not count.

    Version 2 counts what is below a group in the group itself (memory.events); version 1 does not.
    """
    total = _counter(group / "memory.events")
    if total is not None:
        return total
    counts = [count for path in _below(group) if (count := _counter(path)) is not None]
    return sum(counts) if counts else None


def _below(group: Path) -> Iterator[Path]:
    for folder, _, files in os.walk(group):
        if "memory.oom_control" in files:
            yield Path(folder, "memory.oom_control")


def _counter(path: Path) -> int | None:
    """Steps come and go: a file that is gone while it is read counts nothing."""
    try:
        words = path.read_text(encoding="ascii").split()
    except OSError:
        return None
    return int(words[words.index("oom_kill") + 1]) if "oom_kill" in words else None


# --------------------------------------------------------------------------------------------------------------- disks


def space(place: str, folder: Path) -> list[Reading]:
    """Return the free space and inodes of a file system, in percent, as df does: of what users may have."""
    found = os.statvfs(folder)
    readings = []
    users = found.f_blocks - found.f_bfree + found.f_bavail
    if users:
        free = round(100 * found.f_bavail / users, 2)
        readings.append(Reading(metric=f"{place}_free", value=free, detail=str(folder)))
    if found.f_files:
        free = round(100 * found.f_favail / found.f_files, 2)
        readings.append(Reading(metric=f"{place}_inodes_free", value=free, detail=str(folder)))
    return readings


def write(place: str, file: Path, size: int) -> list[Reading]:
    """Write and fsync a small file, then delete it; return how long it took, or that it failed.

    Raises:
        OSError: it failed for a reason that says nothing about the file system.
    """
    began = time.monotonic()
    try:
        _write(file, size)
    except OSError as error:
        if error.errno not in ILL:
            raise
        detail = f"{file.parent}: {error.strerror}"
        return [Reading(metric=f"{place}_write_failed", value=1.0, detail=detail)]
    took_s = round(time.monotonic() - began, 3)
    return [
        Reading(metric=f"{place}_write_failed", value=0.0, detail=str(file.parent)),
        Reading(metric=f"{place}_write", value=took_s, detail=str(file.parent)),
    ]


def _write(file: Path, size: int) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    handle = os.open(file, flags, PRIVATE_FILE)
    try:
        os.write(handle, b"\0" * size)
        os.fsync(handle)
    finally:
        os.close(handle)
        file.unlink(missing_ok=True)
