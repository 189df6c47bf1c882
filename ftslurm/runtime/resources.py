"""What a node uses of itself: processors, memory, disks, network, from the kernel's own files.

Counters are read and their growth since the last reading is told, so the first reading has no rates. What the kernel
does not offer is left out. One reading costs a fraction of a millisecond; no file lies on shared storage.

Sources: proc(5) for /proc/stat, /proc/meminfo, /proc/loadavg and /proc/net/dev; the kernel's
Documentation/admin-guide/iostats.rst for /proc/diskstats; Documentation/infiniband/sysfs.rst for the fabric.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

SECTOR = 512
WORD = 4
"""The fabric's counters count words of four bytes."""
NO_DISKS = ("loop", "ram", "zram", "dm-", "md", "sr", "fd", "nbd")
"""Names that are no disk of their own: what they move is counted below them, or lies in memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """One thing that is sampled: its unit, what it is, and the least difference that means anything, the grain."""

    unit: str
    meaning: str
    grain: float


RESOURCES: Mapping[str, Resource] = {
    "cpu": Resource(unit="%", meaning="share of all cores that is busy", grain=2.0),
    "load": Resource(unit="", meaning="load average of the last minute, divided by the number of cores", grain=0.1),
    "memory": Resource(unit="%", meaning="share of the memory that is not available", grain=1.0),
    "disk_read": Resource(unit="B/s", meaning="read from the node's own disks", grain=1e6),
    "disk_write": Resource(unit="B/s", meaning="written to the node's own disks", grain=1e6),
    "scratch_used": Resource(unit="%", meaning="share of the scratch file system that is used", grain=1.0),
    "net_in": Resource(unit="B/s", meaning="received over the network", grain=1e6),
    "net_out": Resource(unit="B/s", meaning="sent over the network", grain=1e6),
    "fabric_in": Resource(unit="B/s", meaning="received over InfiniBand", grain=1e7),
    "fabric_out": Resource(unit="B/s", meaning="sent over InfiniBand", grain=1e7),
}
"""Everything that `Meter` may tell, by name."""


@dataclass(frozen=True, slots=True)
class Roots:
    """Where the kernel's files are."""

    proc: Path = Path("/proc")
    sys: Path = Path("/sys")


class Meter:
    """Reads the node's resources; one for each series of readings."""

    def __init__(self, scratch: Path | None = None, roots: Roots | None = None) -> None:
        self._scratch = scratch
        self._roots = roots or Roots()
        self._cores = os.cpu_count() or 1
        self._before: dict[str, float] = {}
        self._at = 0.0
        self._ticks: tuple[int, int] | None = None

    def read(self) -> dict[str, float]:
        """Return what is known now, by the names of RESOURCES."""
        found = {**self._processors(), **self._memory(), **self._space()}
        now = time.monotonic()
        counters = {**self._disks(), **self._network(), **self._fabric()}
        passed_s = now - self._at
        for name, count in counters.items():
            before = self._before.get(name)
            # A counter that fell was reset: an interface or a disk is gone.
            if before is not None and passed_s > 0 and count >= before:
                found[name] = round((count - before) / passed_s)
        self._before, self._at = counters, now
        return found

    def _text(self, path: Path) -> str:
        """Return a file of the kernel's; empty where there is none, or nobody may read it."""
        try:
            return path.read_text(encoding="ascii", errors="replace")
        except OSError:
            return ""

    def _processors(self) -> dict[str, float]:
        found = {}
        words = self._text(self._roots.proc / "loadavg").split()
        if words:
            found["load"] = round(float(words[0]) / self._cores, 3)
        # user nice system idle iowait irq softirq steal: guest time is in user time already.
        times = [int(word) for word in self._text(self._roots.proc / "stat").partition("\n")[0].split()[1:9]]
        if len(times) < 5:
            return found
        ticks = (sum(times) - times[3] - times[4], sum(times))
        before, self._ticks = self._ticks, ticks
        if before is not None and ticks[1] > before[1]:
            busy = 100 * (ticks[0] - before[0]) / (ticks[1] - before[1])
            found["cpu"] = round(min(max(busy, 0.0), 100.0), 1)
        return found

    def _memory(self) -> dict[str, float]:
        pairs = (line.partition(":") for line in self._text(self._roots.proc / "meminfo").splitlines())
        sizes = {name: int(rest.split()[0]) for name, _, rest in pairs if rest.split()}
        total, free = sizes.get("MemTotal", 0), sizes.get("MemAvailable")
        return {"memory": round(100 * (total - free) / total, 1)} if total and free is not None else {}

    def _space(self) -> dict[str, float]:
        if self._scratch is None:
            return {}
        try:
            found = os.statvfs(self._scratch)
        except OSError:
            return {}
        users = found.f_blocks - found.f_bfree + found.f_bavail
        return {"scratch_used": round(100 * (1 - found.f_bavail / users), 1)} if users else {}

    def _disks(self) -> dict[str, float]:
        """Sum up whole disks; their partitions are not in /sys/block."""
        whole = {name for name in _names(self._roots.sys / "block") if not name.startswith(NO_DISKS)}
        rows = [line.split() for line in self._text(self._roots.proc / "diskstats").splitlines()]
        mine = [row for row in rows if len(row) > 9 and row[2] in whole]
        if not mine:
            return {}
        read, written = (SECTOR * sum(int(row[column]) for row in mine) for column in (5, 9))
        return {"disk_read": read, "disk_write": written}

    def _network(self) -> dict[str, float]:
        """Sum up the interfaces that are devices; where none is (a container), all but the loop."""
        rows: dict[str, list[str]] = {}
        for line in self._text(self._roots.proc / "net/dev").splitlines()[2:]:
            name, _, rest = line.partition(":")
            rows[name.strip()] = rest.split()
        rows.pop("lo", None)
        devices = [name for name in rows if (self._roots.sys / "class/net" / name / "device").exists()]
        mine = [rows[name] for name in devices or rows if len(rows[name]) > 8]
        if not mine:
            return {}
        return {"net_in": sum(int(row[0]) for row in mine), "net_out": sum(int(row[8]) for row in mine)}

    def _fabric(self) -> dict[str, float]:
        totals: dict[str, float] = {}
        top = self._roots.sys / "class/infiniband"
        for device in _names(top):
            for port in _names(top / device / "ports"):
                for name, file in (("fabric_in", "port_rcv_data"), ("fabric_out", "port_xmit_data")):
                    text = self._text(top / device / "ports" / port / "counters" / file).strip()
                    if text.isdecimal():
                        totals[name] = totals.get(name, 0.0) + WORD * int(text)
        return totals


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []
