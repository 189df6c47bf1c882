"""How a program says how far it is, so that a hang is noticed and understood. `ftslurm.training` offers it to programs.

Outside of ftslurm both calls do nothing. They never raise, never block and need nothing but the standard library.

A process writes into a small file of its own, which lies on its node and is mapped into memory; the node's agent reads
it. The file is a header, with the number of entries so far, and a ring of the newest ones: one for each interval
between two calls. A reader takes the entries whose own number fits; the writer never waits for it.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import NamedTuple

FOLDER = "FTSLURM_PROGRESS"
"""The environment variable with the folder of these files; ftslurm sets it for every attempt."""
MAGIC = b"FTSPROG1"
STEP, INIT = "step", "init"
BEAT, HAS_BUSY, HAS_LOSS = 1, 2, 4
RING, RING_AT, PHASE_BYTES = 128, 16, 12
_HEADER = struct.Struct("<8sQ")
_ENTRY = struct.Struct("<QqdddI12s12s")
SIZE = RING_AT + RING * _ENTRY.size


class Interval(NamedTuple):
    """What lies between two calls; `number` counts from 1.

    `spent` is the phase that it was spent in, `now` the one that began with its end. `flags` has BEAT where a
    beat ended it, and tells whether `busy_s` and `loss` were given.
    """

    number: int
    step: int
    length_s: float
    busy_s: float
    loss: float
    flags: int
    spent: str
    now: str


def beat(step: int, phase: str = STEP, loss: float | None = None, busy_s: float | None = None) -> None:
    """Say that a training step is done.

    Args:
        step: its number.
        phase: what comes next; the context `phase()` is the easier way to say it.
        loss: its loss, where it is at hand: NaN, infinity and spikes are reported.
        busy_s: the seconds of it that this rank worked itself and did not wait for others; finds the slow rank.
    """
    reporter = _reporter(os.getpid())
    if reporter is not None:
        with suppress(TypeError, ValueError, struct.error):  # a wrong argument must not end a training
            reporter.write(int(step), str(phase), loss, busy_s)


@contextmanager
def phase(name: str) -> Iterator[None]:
    """Say that the program does something else for a while: save, load, evaluation, or a name of your own."""
    reporter = _reporter(os.getpid())
    if reporter is None:
        yield
        return
    before = reporter.phase
    reporter.enter(str(name))
    try:
        yield
    finally:
        reporter.enter(before)


class Reporter:
    """The file of this process."""

    def __init__(self, path: str) -> None:
        """Create and map it.

        Raises:
            OSError: it cannot be created, or the disk is full.
        """
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(fd, 0, SIZE)  # on a disk that is full, a write to a hole would be a SIGBUS later
            self._map = mmap.mmap(fd, SIZE)
        finally:
            os.close(fd)
        self.phase = INIT
        self._step, self._count, self._last = -1, 0, time.monotonic()
        _HEADER.pack_into(self._map, 0, MAGIC, 0)

    def enter(self, phase: str) -> None:
        """End the interval, which was no whole step, and begin another phase."""
        self._put(self._step, phase, (0.0, 0.0, 0))

    def write(self, step: int, phase: str, loss: float | None, busy_s: float | None) -> None:
        """End the interval with a step that is done."""
        flags = BEAT | (HAS_BUSY if busy_s is not None else 0) | (HAS_LOSS if loss is not None else 0)
        self._put(step, phase, (float(busy_s or 0.0), float(loss or 0.0), flags))

    def _put(self, step: int, phase: str, told: tuple[float, float, int]) -> None:
        now, number = time.monotonic(), self._count + 1
        spent, begun = self.phase.encode()[:PHASE_BYTES], phase.encode()[:PHASE_BYTES]
        at = RING_AT + number % RING * _ENTRY.size
        _ENTRY.pack_into(self._map, at, number, step, now - self._last, *told, spent, begun)
        _HEADER.pack_into(self._map, 0, MAGIC, number)
        self.phase, self._step, self._count, self._last = phase, step, number, now


@lru_cache(maxsize=2)
def _reporter(pid: int) -> Reporter | None:
    """Return this process's reporter, None outside of ftslurm; a forked child has none of its parent's."""
    folder, rank = os.environ.get(FOLDER), os.environ.get("RANK", "")
    if not folder or not rank.isdecimal():
        return None
    try:
        return Reporter(os.path.join(folder, f"{int(rank)}-{pid}"))  # noqa: PTH118 - pathlib takes longer to import
    except OSError:
        return None  # the disk is full or the folder is not ours: the training goes on without


def intervals(data: bytes, after: int) -> tuple[int, list[Interval]]:
    """Return how many intervals a file of this form tells of, and those after number `after` that it still holds."""
    if len(data) < SIZE:
        return 0, []
    magic, count = _HEADER.unpack_from(data, 0)
    if magic != MAGIC:
        return 0, []
    found = []
    for number in range(max(after, count - RING + 1) + 1, count + 1):
        each = Interval(*_ENTRY.unpack_from(data, RING_AT + number % RING * _ENTRY.size))
        if each.number == number:
            found.append(each._replace(spent=_word(each.spent), now=_word(each.now)))
    return count, found


def _word(data: str | bytes) -> str:
    return data if isinstance(data, str) else data.rstrip(b"\0").decode("utf-8", "replace")
