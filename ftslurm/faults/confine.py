"""A cgroup for processes that run already, of version 1 or 2, and the way back. Needs root. See cgroups(7).

What a process has allocated before stays where it was charged: a limit counts what it asks for from then on.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ftslurm.errors import ServiceUnavailable
from ftslurm.faults.deeds import Confine

ROOT = Path("/sys/fs/cgroup")
PROC = Path("/proc")
PERIOD_US = 500_000
LEAST_US = 1000
LOOK_S = 2.0
REMOVE_S = 5.0
LEAST_BYTES = 4096
OF_SWAP = frozenset({"memory.swap.max", "memory.memsw.limit_in_bytes"})
"""A kernel that does not account swap has none of these, and needs none."""


@dataclass(frozen=True, slots=True)
class Group:
    """A cgroup that was made, and where its processes came from."""

    path: Path
    before: dict[int, Path]

    def undo(self) -> None:
        """Move the processes back and remove the cgroup."""
        for line in (self.path / "cgroup.procs").read_text().split():
            with suppress(OSError):  # it has just ended
                (self.before.get(int(line), self.path.parent) / "cgroup.procs").write_text(line)
        deadline = time.monotonic() + REMOVE_S
        while self.path.exists():
            try:
                self.path.rmdir()
            except OSError as error:
                if time.monotonic() > deadline:
                    raise ServiceUnavailable(f"cgroup {self.path} cannot be removed: {error.strerror}") from error
                time.sleep(0.05)


def confine(pids: Sequence[int], deed: Confine) -> Group:
    """Put processes into a new cgroup with the deed's limits.

    Raises:
        ServiceUnavailable: this kernel offers no such cgroup, or not to us.
    """
    controller = "memory" if deed.memory_bytes is not None else "cpu"
    try:
        hierarchy, files = _limits(controller, deed, pids)
        path = hierarchy / f"ftslurm-fault-{os.getpid()}"
        path.mkdir()
    except OSError as error:
        raise ServiceUnavailable(f"no {controller} cgroup can be made: {error.strerror}: {error.filename}") from error
    group = Group(path, {pid: hierarchy / _of(pid, controller).lstrip("/") for pid in pids})
    try:
        for name, value in files.items():
            if (path / name).exists():
                (path / name).write_text(value)
            elif name not in OF_SWAP:
                raise FileNotFoundError(errno.ENOENT, f"no {controller} limit ({name})")
        for pid in pids:
            with suppress(ProcessLookupError):
                (path / "cgroup.procs").write_text(str(pid))
    except OSError as error:
        group.undo()
        raise ServiceUnavailable(f"cgroup {path} refuses: {error.strerror}") from error
    return group


def _limits(controller: str, deed: Confine, pids: Sequence[int]) -> tuple[Path, dict[str, str]]:
    """Where the controller's groups are, and what to write into one."""
    quota = max(int(deed.cpu_share * _use(pids) * PERIOD_US), LEAST_US) if deed.cpu_share is not None else 0
    memory = str(max(deed.memory_bytes or 0, LEAST_BYTES))
    if (ROOT / "cgroup.controllers").exists():
        enabled = ROOT / "cgroup.subtree_control"
        if controller not in enabled.read_text().split():
            enabled.write_text(f"+{controller}")
        if controller == "memory":
            return ROOT, {"memory.swap.max": "0", "memory.max": memory}
        return ROOT, {"cpu.max": f"{quota} {PERIOD_US}"}
    if controller == "memory":
        return ROOT / "memory", {"memory.limit_in_bytes": memory, "memory.memsw.limit_in_bytes": memory}
    return ROOT / "cpu", {"cpu.cfs_period_us": str(PERIOD_US), "cpu.cfs_quota_us": str(quota)}


def _use(pids: Sequence[int]) -> float:
    """How much of a core the processes use, as seen for a while."""
    before = sum(map(_cpu_s, pids))
    time.sleep(LOOK_S)
    return max(sum(map(_cpu_s, pids)) - before, 0.0) / LOOK_S


def _cpu_s(pid: int) -> float:
    """The CPU seconds of a process so far; 0 when it has ended."""
    try:
        fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _of(pid: int, controller: str) -> str:
    """The cgroup that a process is in, relative to its hierarchy."""
    whole = "/"
    with suppress(OSError):
        for line in (PROC / str(pid) / "cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controller in controllers.split(","):
                return path
            if not controllers:
                whole = path
    return whole
