"""A kept buffer through which one file of a generation is read, in rising order, every chunk verified."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ftslurm.checkpoint.packing import BLOCK_BYTES, unpacked
from ftslurm.checkpoint.scatter import GROUP_CHUNKS
from ftslurm.checkpoint.shelf import Counters, ManyCopies
from ftslurm.core.manifest import CHUNK_BYTES
from ftslurm.core.rankindex import Encoding, Entry


class Window:
    """Chunks on the border of two parts are read once."""

    def __init__(self) -> None:
        self._buffer = memoryview(bytearray())
        self._file: ManyCopies | None = None
        self._first = self._last = 0

    def bring(self, file: ManyCopies, start: int, end: int, counters: Counters) -> memoryview:
        """The bytes of a file from `start` to `end`, verified; they stay until the next call."""
        first, last = start // CHUNK_BYTES, -(-end // CHUNK_BYTES)
        self._make_room(last - first)
        kept = range(max(first, self._first), min(last, self._last)) if file is self._file else range(0)
        if kept and kept.start == first:
            size = len(kept) * CHUNK_BYTES
            there = (first - self._first) * CHUNK_BYTES
            if there:
                self._buffer[:size] = self._buffer[there : there + size]
        else:
            kept = range(first, first)
        self._file = None  # a failure must not leave chunks behind that were not verified
        missing: list[tuple[int, list[memoryview]]] = []
        for chunk in range(first + len(kept), last):
            low, high = file.chunk_bounds(chunk)
            at = (chunk - first) * CHUNK_BYTES
            missing.append((chunk, [self._buffer[at : at + high - low]]))
        for at in range(0, len(missing), GROUP_CHUNKS):
            file.load(missing[at : at + GROUP_CHUNKS], counters)
        self._file, self._first, self._last = file, first, last
        return self._buffer[start - first * CHUNK_BYTES : end - first * CHUNK_BYTES]

    def _make_room(self, chunks: int) -> None:
        size = chunks * CHUNK_BYTES
        if size > len(self._buffer):
            larger = bytearray(size)
            larger[: len(self._buffer)] = self._buffer
            self._buffer = memoryview(larger)


class StoredBytes:
    """The stored bytes of an entry as a stream (`ftslurm.checkpoint.packing.Source`)."""

    def __init__(self, stored: StoredEntry, window: Window, counters: Counters) -> None:
        self._file = stored.file
        self._window = window
        self._counters = counters
        self._at = stored.entry.offset
        self._end = stored.entry.offset + stored.entry.stored

    def read(self, size: int, /) -> memoryview:
        """At most `size` bytes, none at the end, and none beyond the next chunk; they stay until the next call."""
        border = (self._at // CHUNK_BYTES + 1) * CHUNK_BYTES
        end = min(self._at + size, border, self._end)
        if end == self._at:
            return memoryview(b"")
        found = self._window.bring(self._file, self._at, end, self._counters)
        self._at = end
        return found


@dataclass(frozen=True, slots=True)
class StoredEntry:
    """An entry and the file in which its bytes lie; `base` is where those lie that they were XORed with."""

    file: ManyCopies
    entry: Entry
    base: StoredEntry | None = None

    def packed(self, window: Window, counters: Counters) -> StoredBytes:
        """The stored bytes."""
        return StoredBytes(self, window, counters)

    def raw_blocks(self, window: Window, counters: Counters) -> Iterator[memoryview]:
        """The raw bytes of an entry without a base in blocks, each valid until the next. Raises DataDamaged."""
        if self.entry.encoding is not Encoding.RAW:
            yield from unpacked(self.entry, self.packed(window, counters))
            return
        start, end = self.entry.offset, self.entry.offset + self.entry.length
        for at in range(start, end, BLOCK_BYTES):
            yield window.bring(self.file, at, min(at + BLOCK_BYTES, end), counters)
