"""Writes past the page cache, where the file system allows it (O_DIRECT, open(2)).

The copy into the cache costs more than the disk does, and throws out what training had there. Some file systems do not
have the flag, some take it and refuse the writes, and the end of a file is not aligned: then it goes through the cache.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Self

from ftslurm.checkpoint.stage import anonymous_memory

WRITE_BYTES = 8 << 20
_BUFFERED_BYTES = 1 << 20
"""Larger writes into the page cache cost three times the processor time (`ftslurm.checkpoint.digest`)."""


def set_direct(descriptor: int, *, wanted: bool) -> bool:
    """Switch O_DIRECT on or off; returns whether it is on. Not every file system has it."""
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | os.O_DIRECT if wanted else flags & ~os.O_DIRECT)
    except OSError as error:
        if not wanted or error.errno not in {errno.EINVAL, errno.ENOTSUP}:
            raise
        return False
    return wanted


def write_run(descriptor: int, run: memoryview, offset: int, *, direct: bool) -> bool:
    """Write every byte; returns whether it went past the page cache to the end."""
    done = 0
    while done < len(run):
        size = WRITE_BYTES if direct else _BUFFERED_BYTES
        try:
            done += os.pwrite(descriptor, run[done : done + size], offset + done)
        except OSError as error:
            # Some file systems take the flag and refuse the writes; and what a full disk has cut short is not aligned.
            if not direct or error.errno != errno.EINVAL:
                raise
            direct = set_direct(descriptor, wanted=False)
    return direct


class Outflow:
    """Writes a file from a page's border on, while the next bytes are being got ready: reading waits for no disk.

    As a context manager; what has been added is written when it was left without an error, but not yet fsynced.
    """

    def __init__(self, descriptor: int, start: int) -> None:
        self._descriptor = descriptor
        self._direct = set_direct(descriptor, wanted=True)
        self._memory = anonymous_memory(2 * WRITE_BYTES)
        self._half = self._filled = 0
        self._offset = start
        self._writer = ThreadPoolExecutor(1, "ftslurm-write")
        self._written: Future[None] | None = None

    def add(self, block: memoryview) -> None:
        """Take over the next bytes of the file. Raises OSError: what was added before cannot be written."""
        while block:
            room = self._memory[self._half + self._filled : self._half + WRITE_BYTES][: len(block)]
            room[:] = block[: len(room)]
            self._filled += len(room)
            block = block[len(room) :]
            if self._filled == WRITE_BYTES:
                self._flush()

    def _flush(self) -> None:
        self._wait()
        run = self._memory[self._half : self._half + self._filled]
        self._written = self._writer.submit(self._write, run, self._offset)
        self._offset += self._filled
        self._half, self._filled = WRITE_BYTES - self._half, 0

    def _wait(self) -> None:
        if self._written is not None:
            self._written.result()

    def _write(self, run: memoryview, offset: int) -> None:
        whole = len(run) - len(run) % mmap.PAGESIZE
        self._direct = write_run(self._descriptor, run[:whole], offset, direct=self._direct)
        if whole < len(run):
            if self._direct:
                self._direct = set_direct(self._descriptor, wanted=False)
            write_run(self._descriptor, run[whole:], offset + whole, direct=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                self._flush()
                self._wait()
        finally:
            self._writer.shutdown()
