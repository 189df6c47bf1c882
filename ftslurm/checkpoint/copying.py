"""Copies one file of a generation, so that the copy has the manifest's content or does not exist.

Each chunk is read, compared with the manifest, and only then written to a temporary name, which is renamed when it is
whole. What a killed copy has left is used again as far as its chunks are right. What a *failed* write has left is not:
the kernel reports a lost page only once, so a second fsync may succeed without it (fsync(2); "Can Applications Recover
from fsync Failures?", USENIX ATC 2020).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ftslurm.checkpoint import direct, disk
from ftslurm.checkpoint.digest import (
    ChunkDamaged,
    Mismatch,
    Pace,
    blocks,
    check_whole,
    checked_blocks,
    compare,
    digest_bytes,
    quiet,
)
from ftslurm.core.manifest import CHUNK_BYTES, FileEntry
from ftslurm.errors import DataDamaged

if TYPE_CHECKING:
    from collections.abc import Iterator

_NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP})
"""A file system without locks: then only one agent a node is what keeps two copiers apart."""


class Remote(Protocol):
    """A part of a generation on another node. Nothing that it says is trusted."""

    def manifest(self) -> bytes:
        """The manifest of the part's owner. Raises OSError; FileNotFoundError where it has none."""

    def blocks(self, entry: FileEntry, start: int) -> Iterator[tuple[int, memoryview]]:
        """(offset, bytes) of a file from `start`, in whole chunks, the last one shorter. Raises OSError."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Copier:
    """Copies from the folder `source`, or from another node, to the folder `target`.

    `owner` keeps the temporary files of two copiers apart. `durable`: fsync the file and its name.
    """

    source: Path | Remote
    target: Path
    owner: str
    durable: bool
    pace: Pace = quiet

    def copy(self, entry: FileEntry) -> int:
        """Bring one file over; returns the bytes that had to be copied (0: it was there, with the right content).

        Raises:
            DataDamaged: the source is not what the manifest says.
            OSError: as the system says; FileNotFoundError where the source is missing.
        """
        if not self.is_there(entry):
            return self.bring(entry)
        if self.durable:
            disk.fsync_way(self.target, entry.name)
        return 0

    def bring(self, entry: FileEntry) -> int:
        """As `copy`, without looking whether it is there already."""
        with disk.folder_of(self.target, entry.name, create=True) as (folder, last):
            temporary = f"{digest_bytes(entry.name.encode())}.{self.owner}.part"
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(temporary, flags, disk.PRIVATE_FILE, dir_fd=folder)
            try:
                _claim(descriptor, folder, temporary)
                try:
                    copied = self._fill(descriptor, entry)
                except OSError:
                    with contextlib.suppress(OSError):
                        os.unlink(temporary, dir_fd=folder)
                    raise
                os.rename(temporary, last, src_dir_fd=folder, dst_dir_fd=folder)
            finally:
                os.close(descriptor)
        if self.durable:
            disk.fsync_way(self.target, entry.name)
        return copied

    def is_there(self, entry: FileEntry) -> bool:
        """Whether the target has the file, with every byte right. Reads all of it."""
        try:
            with disk.opened(self.target, entry.name) as descriptor:
                check_whole(descriptor, entry, where=str(self.target), pace=self.pace)
                if self.durable:
                    os.fsync(descriptor)
        except (FileNotFoundError, DataDamaged):
            return False
        return True

    def _fill(self, descriptor: int, entry: FileEntry) -> int:
        """Write the file; returns the bytes that were copied."""
        start = self._sound_start(descriptor, entry)
        os.ftruncate(descriptor, start)
        checked = self._checked(entry, start)
        if self.durable and entry.size - start > direct.WRITE_BYTES:
            with direct.Outflow(descriptor, start) as outflow:
                for _, block in checked:
                    outflow.add(block)
        else:
            for offset, block in checked:
                disk.pwrite_all(descriptor, block, offset)
        if self.durable:
            os.fsync(descriptor)
        os.close(os.dup(descriptor))  # NFS tells EDQUOT and EIO at each close; the claim stays until the last
        return entry.size - start

    def _checked(self, entry: FileEntry, start: int) -> Iterator[tuple[int, memoryview]]:
        """What the source has, from `start`; each block has been compared with the manifest."""
        if isinstance(self.source, Path):
            with disk.opened(self.source, entry.name) as original:
                yield from checked_blocks(original, entry, where=str(self.source), start=start, pace=self.pace)
            return
        end = start
        for offset, block in self.source.blocks(entry, start):
            for mismatch in compare(block, offset, entry):
                raise ChunkDamaged(mismatch, str(self.source))
            yield offset, block
            self.pace(len(block))
            end = offset + len(block)
        if end != entry.size:
            chunk = end // CHUNK_BYTES
            what = f"{end} of {entry.size} bytes came"
            short = Mismatch(name=entry.name, chunk=chunk, wanted=entry.chunk(chunk), found="", what=what)
            raise ChunkDamaged(short, str(self.source))

    def _sound_start(self, descriptor: int, entry: FileEntry) -> int:
        """How many bytes an earlier copy has left that are right, in whole chunks."""
        size = min(os.fstat(descriptor).st_size, entry.size) // CHUNK_BYTES * CHUNK_BYTES
        for offset, block in blocks(descriptor, size, pace=self.pace):
            wrong = next(compare(block, offset, entry), None)
            if wrong is not None:
                return wrong.chunk * CHUNK_BYTES
        return size


def _claim(descriptor: int, folder: int, temporary: str) -> None:
    """Keep a second process of this node (an agent that was taken for dead) from writing the same file.

    Raises:
        BlockingIOError: it is being written, or was finished just now.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        here, there = os.fstat(descriptor), os.stat(temporary, dir_fd=folder, follow_symlinks=False)
    except (BlockingIOError, FileNotFoundError) as error:
        raise BlockingIOError(errno.EAGAIN, "another process is copying it", temporary) from error
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return
    if not os.path.samestat(here, there):
        raise BlockingIOError(errno.EAGAIN, "another process has just copied it", temporary)
