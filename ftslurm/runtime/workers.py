"""The ranks that torchrun has started on this node: which process is which, and how each of them ended.

One task a node has registered, and stands for all of its ranks. Its program is torchrun (or accelerate, or a script
that calls one of them), and the ranks are processes below it, known by the variables that torchrun gives them. Within a
tenth of a second torchrun notices a rank that fails; it ends the others (SIGTERM, after 30 s SIGKILL), and then itself.

Two sources say which rank began it. Torchrun's own summary does, when it gets to it. The kernel does: it keeps the
status of a process that has ended until torchrun takes it (proc(5), exit_code), and a pidfd tells of the end in time.
What torchrun does not finish by itself soon, since a rank hangs in a collective and ignores SIGTERM, is finished here.
"""

from __future__ import annotations

import os
import re
import select
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ftslurm.core.events import RankExited
from ftslurm.runtime.rank import descendants, stat_of, workers

if TYPE_CHECKING:
    from ftslurm.runtime.ranks import LocalRank

LOOK_S, CALM_S, NEW_S, GRACE_S = 0.1, 1.0, 60.0, 1.0
"""Ranks that are not known yet are looked for often while the task is new."""
EXIT_CODE = 49
TERMINATED = 143
_ROOT = re.compile(
    r"Root Cause \(first observed failure\):.*?\brank\s*: (?P<rank>\d+) \(local_rank: \d+\)"
    r"\s+exitcode\s*: (?P<code>-?\d+)",
    re.DOTALL,
)
_SUMMARY = re.compile(r"^.*\bfailed \(exitcode: -?\d+\) local_rank: \d+ \(pid: \d+\)", re.MULTILINE)
"""Where torchrun begins to speak of what has happened: the traceback below is its own, not the program's."""


def watch(row: LocalRank, over: Callable[[], bool], finish: Callable[[], None]) -> None:
    """Watch the ranks of a task in a thread of its own until the task is `over`.

    `finish` is called, from that thread, when a rank has failed and the task has not ended a moment later.
    """
    threading.Thread(target=_Watch(row, over, finish).run, name="workers", daemon=True).start()


class _Watch:
    """The ranks of one task; each is held by a pidfd, so that a reused pid is never taken for it."""

    def __init__(self, row: LocalRank, over: Callable[[], bool], finish: Callable[[], None]) -> None:
        self._row, self._over, self._finish = row, over, finish
        self._poll = select.poll()
        self._ranks: dict[int, int] = {}  # pidfd -> rank
        self._failed_at: float | None = None
        self._begun = time.monotonic()

    def run(self) -> None:
        while not self._over():
            missing = len(self._row.workers) < self._row.count
            if missing:
                self._look()
            often = missing and time.monotonic() - self._begun < NEW_S
            for handle, _ in self._poll.poll(1000 * (LOOK_S if often or self._failed_at else CALM_S)):
                self._ended(handle)
            if self._failed_at is not None and time.monotonic() - self._failed_at > GRACE_S:
                self._finish()
                break
        for handle in self._ranks:
            os.close(handle)

    def _look(self) -> None:
        """Find the ranks that are not known yet."""
        row = self._row
        for rank, pid in workers(_below(row.pid)).items():
            if rank in row.workers or rank not in row.ranks:
                continue
            with suppress(OSError):  # it has ended meanwhile: torchrun will tell
                handle = os.pidfd_open(pid)
                self._poll.register(handle, select.POLLIN)
                self._ranks[handle] = rank
                row.workers[rank] = pid

    def _ended(self, handle: int) -> None:
        """A rank has ended; its status is there until torchrun has taken it."""
        self._poll.unregister(handle)
        rank = self._ranks.pop(handle)
        status = _status_of(self._row.workers[rank])
        os.close(handle)
        if status is None:
            return
        code, signum = (os.WEXITSTATUS(status), 0) if os.WIFEXITED(status) else (0, os.WTERMSIG(status))
        self._row.ends[rank] = (128 + signum if signum else code, signum)
        if status and signum != signal.SIGTERM and self._failed_at is None:  # that is torchrun's, at another's end
            self._failed_at = time.monotonic()


def _below(root: int) -> list[int]:
    """As `descendants`, which reads the whole process table; this one needs CONFIG_PROC_CHILDREN."""
    found = [root]
    for pid in found:
        with suppress(OSError):  # it has ended meanwhile
            for file in Path(f"/proc/{pid}/task").glob("*/children"):
                found += map(int, file.read_text().split())
    return found[1:] or descendants(root)


def _status_of(pid: int) -> int | None:
    """The wait status of a process that has ended and is still listed; None where it is not any more."""
    try:
        fields = stat_of(pid)
        return int(fields[EXIT_CODE]) if fields[0] == "Z" else None
    except (OSError, IndexError, ValueError):
        return None


def ends_of(row: LocalRank, end: RankExited) -> list[RankExited]:
    """Return the ends of all ranks of a task, whose program has ended so: that of the rank that began it first."""
    if not end.code and not end.signal:
        return [replace(end, rank=rank) for rank in row.ranks]
    first, (code, signum) = _first(row, end.tail) or (row.rank, (end.code, end.signal))
    tail, oom = _without_summary(end.tail), end.oom and signum == signal.SIGKILL
    found = [replace(end, rank=first, code=code, signal=signum, tail=tail, oom=oom)]
    why = f"ftslurm: torchrun has ended this rank, because rank {first} had failed"
    for rank in row.ranks:
        if row.ends.get(rank) == (0, 0):
            found.append(replace(end, rank=rank, code=0, signal=0, tail="", oom=False))
        elif rank != first:  # the signal that it got says nothing
            found.append(replace(end, rank=rank, code=TERMINATED, signal=0, tail=why, oom=False))
    return found


def _first(row: LocalRank, tail: str) -> tuple[int, tuple[int, int]] | None:
    """Which rank failed first, and how; None where nobody knows."""
    told = _ROOT.search(tail)
    if told is not None and int(told["rank"]) in row.ranks:
        code = int(told["code"])
        return int(told["rank"]), (code, 0) if code >= 0 else (128 - code, -code)
    bad = [(rank, how) for rank, how in row.ends.items() if how != (0, 0)]
    return next((each for each in bad if each[1][1] != signal.SIGTERM), bad[0] if bad else None)


def _without_summary(tail: str) -> str:
    """What the ranks have said themselves; all of it where torchrun has said nothing."""
    found = _SUMMARY.search(tail)
    return tail[: found.start()] if found else tail
