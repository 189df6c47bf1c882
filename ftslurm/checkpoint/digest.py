"""Digests of bytes on disk: computing them, checking them, and copying with the check in between.

A chunk is CHUNK_BYTES (the last of a file is shorter); each is read into one kept buffer, so memory stays at 1 MiB
whatever the size of the file. Larger pieces are slower: they fall out of the processor's cache, and writes of more than
1 MiB cost three times the processor time (measured on Linux 6.18, ext4). xxhash releases the GIL while it works.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import xxhash

from ftslurm.core.manifest import CHUNK_BYTES
from ftslurm.errors import DataDamaged, TryAgain

if TYPE_CHECKING:
    from collections.abc import Iterator
    from threading import Event

    from ftslurm.core.manifest import FileEntry

BUFFER_BYTES = CHUNK_BYTES


class Pace(Protocol):
    """Told about the bytes that were dealt with; may wait (rate limit) and may raise TryAgain (stop)."""

    def __call__(self, size_bytes: int, /) -> None:
        """`size_bytes` more are done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mismatch:
    """A chunk that is not what the manifest says; `found` is empty where the file ends too early or goes on."""

    name: str
    chunk: int
    wanted: str
    found: str
    what: str

    def __str__(self) -> str:
        digests = f" (digest {self.found}, should be {self.wanted})" if self.found else ""
        return f"{self.name}: chunk {self.chunk}: {self.what}{digests}"


class ChunkDamaged(DataDamaged):
    """Bytes that were read are not those of the manifest."""

    def __init__(self, mismatch: Mismatch, where: str) -> None:
        super().__init__(f"{where}/{mismatch}")
        self.mismatch = mismatch


def digest_bytes(data: bytes | memoryview) -> str:
    """xxh3-128 in lower-case hex."""
    return str(xxhash.xxh3_128_hexdigest(data))


def quiet(size_bytes: int, /) -> None:
    """Nobody watches."""
    del size_bytes


def stopper(stop: Event | None) -> Pace:
    """A watcher that raises TryAgain once `stop` is set."""

    def pace(size_bytes: int, /) -> None:
        del size_bytes
        if stop is not None and stop.is_set():
            raise TryAgain("stopped on request")

    return pace


def chunks_of(descriptor: int, size: int, pace: Pace = quiet) -> str:
    """The digests of the first `size` bytes of an open file, concatenated.

    Raises:
        DataDamaged: the file is shorter.
    """
    return "".join(digest for _, block in blocks(descriptor, size, pace=pace) for digest in digests_of(block))


def blocks(descriptor: int, size: int, start: int = 0, *, pace: Pace = quiet) -> Iterator[tuple[int, memoryview]]:
    """(offset, bytes) of an open file from `start` to `size`, in whole chunks. The bytes are valid until the next one.

    Raises:
        DataDamaged: the file ends before `size`.
    """
    buffer = memoryview(bytearray(min(BUFFER_BYTES, max(size - start, 1))))
    offset = start
    while offset < size:
        wanted = buffer[: min(len(buffer), size - offset)]
        filled = 0
        while filled < len(wanted):
            count = os.preadv(descriptor, [wanted[filled:]], offset + filled)
            if count == 0:
                raise DataDamaged(f"the file ends at {offset + filled} of {size} bytes")
            filled += count
        yield offset, wanted
        pace(len(wanted))
        offset += len(wanted)


def digests_of(block: memoryview) -> Iterator[str]:
    """The digest of each chunk of a block that starts at a chunk's border."""
    for start in range(0, len(block), CHUNK_BYTES):
        yield digest_bytes(block[start : start + CHUNK_BYTES])


def compare(block: memoryview, offset: int, entry: FileEntry) -> Iterator[Mismatch]:
    """The chunks of a block, which starts at `offset` of its file, that are not those of the manifest."""
    for index, found in enumerate(digests_of(block), start=offset // CHUNK_BYTES):
        wanted = entry.chunk(index)
        if found != wanted:
            yield Mismatch(name=entry.name, chunk=index, wanted=wanted, found=found, what="wrong bytes")


def mismatches(descriptor: int, entry: FileEntry, pace: Pace = quiet) -> Iterator[Mismatch]:
    """Every chunk of an open file that is not what the manifest says, and a wrong size as the last."""
    size = os.fstat(descriptor).st_size
    for offset, block in blocks(descriptor, min(size, entry.size), pace=pace):
        whole = len(block) if offset + len(block) == entry.size else len(block) // CHUNK_BYTES * CHUNK_BYTES
        yield from compare(block[:whole], offset, entry)
    if size != entry.size:
        yield wrong_size(entry, size)


def wrong_size(entry: FileEntry, size: int) -> Mismatch:
    """The file has `size` bytes, not those of the manifest."""
    chunk = min(size, entry.size) // CHUNK_BYTES
    what = f"the file has {size} bytes, should have {entry.size}"
    return Mismatch(name=entry.name, chunk=chunk, wanted=entry.chunk(chunk), found="", what=what)


def checked_blocks(
    descriptor: int, entry: FileEntry, *, where: str, start: int = 0, pace: Pace = quiet
) -> Iterator[tuple[int, memoryview]]:
    """As `blocks`, but every chunk has been compared with the manifest before it is handed out.

    `where` is the folder that the message names; `start` is a chunk's border.

    Raises:
        ChunkDamaged: a chunk differs, or the file has another size.
    """
    size = os.fstat(descriptor).st_size
    if size != entry.size:
        raise ChunkDamaged(wrong_size(entry, size), where)
    for offset, block in blocks(descriptor, entry.size, start, pace=pace):
        for mismatch in compare(block, offset, entry):
            raise ChunkDamaged(mismatch, where)
        yield offset, block


def check_whole(descriptor: int, entry: FileEntry, *, where: str, pace: Pace = quiet) -> None:
    """Read every byte; raises ChunkDamaged at the first that is wrong."""
    for _ in checked_blocks(descriptor, entry, where=where, pace=pace):
        pass
