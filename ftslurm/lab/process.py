"""Processes named by id *and* start time, so that a lab only ever ends what it started.

A process id alone may have been given to somebody else since; with the start time of /proc/PID/stat (field 22, clock
ticks since boot) and the boot id of state.json the name is exact. See proc(5).
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

POLL_S = 0.01


@dataclass(frozen=True, slots=True)
class ProcessRef:
    """One process for ever: its id and when it started (clock ticks since boot)."""

    pid: int
    started: int

    @classmethod
    def parse(cls, text: str) -> ProcessRef | None:
        """Read `PID STARTED`; None when the text is torn."""
        parts = text.split()
        if len(parts) != 2 or not all(part.isdecimal() for part in parts):
            return None
        return cls(int(parts[0]), int(parts[1]))

    def is_alive(self) -> bool:
        """True while exactly this process runs; a zombie does not."""
        stat = read_stat(self.pid)
        return stat is not None and stat[0] == self.started and stat[1] not in "ZX"

    def send(self, number: signal.Signals) -> bool:
        """Signal it if it still is what was recorded; False when it is gone."""
        if not self.is_alive():
            return False
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            return False
        return True


def read_stat(pid: int) -> tuple[int, str] | None:
    """(start time in ticks, state letter) of a process; None when there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text[text.rindex(")") + 2 :].split()  # the name may hold spaces and parentheses
    return int(fields[19]), fields[0]


def boot_id() -> str:
    """Changes with every boot of the machine; ids of an earlier boot name nothing."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def end(ref: ProcessRef, patience_s: float) -> bool:
    """SIGKILL a process and wait until it is gone; False if it still is there after `patience_s` seconds."""
    ref.send(signal.SIGKILL)
    deadline = time.monotonic() + patience_s
    while ref.is_alive():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


def members(init_pid: int) -> list[int]:
    """Every process in the PID namespace that `init_pid` lives in, by its id out here."""
    try:
        wanted = os.readlink(f"/proc/{init_pid}/ns/pid")
    except OSError:
        return []
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdecimal():
            with contextlib.suppress(OSError):  # it ended meanwhile
                if os.readlink(f"/proc/{entry}/ns/pid") == wanted:
                    found.append(int(entry))
    return found


def running(init_pid: int, argv_part: Sequence[str]) -> list[int]:
    """Processes in that namespace whose arguments hold these ones in a row."""
    wanted = b"\0".join(os.fsencode(word) for word in argv_part) + b"\0"
    found = []
    for pid in members(init_pid):
        with contextlib.suppress(OSError):  # it ended meanwhile
            if wanted in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return found
