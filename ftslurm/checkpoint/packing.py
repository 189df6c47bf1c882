"""How the bytes of an entry are packed: blocks of 1 MiB, grouped by byte, each a zstd frame of its own.

The numbers of a tensor have like exponents and unlike mantissas. So each block is *grouped*: first the lowest byte of
every element, then the next one, and so on (bytes of a kind lie together, and compress). With a base, the base's bytes
are XORed in first: what has not changed becomes zero.

Packing and unpacking hold one block at a time, whatever the size of the entry, and stay in the processor's cache. What
is read is distrusted: no frame says how much memory is taken, and the digest of the raw bytes decides at the end.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import xxhash

from ftslurm.core.manifest import CHUNK_BYTES
from ftslurm.core.rankindex import DTYPES, Entry
from ftslurm.errors import DataDamaged, UsageError

BLOCK_BYTES = CHUNK_BYTES
"""A multiple of every element's size."""
_LEAST_FRAME = 32
"""A frame of BLOCK_BYTES has at least eight blocks of 4 bytes (RFC 8878)."""


class Source(Protocol):
    """Stored bytes, to be read from first to last."""

    def read(self, size: int, /) -> memoryview:
        """At most `size` bytes; none at the end."""


class Packer:
    """Packs blocks; serves one thread."""

    def __init__(self, level: int = 1) -> None:
        self._compressor = zstandard().ZstdCompressor(level=level)
        self._changed = np.empty(BLOCK_BYTES, np.uint8)
        self._grouped = np.empty(BLOCK_BYTES, np.uint8)

    def pack(self, raw: memoryview, itemsize: int, base: memoryview | None = None) -> bytes:
        """One block as a frame."""
        block = np.frombuffer(raw, np.uint8)
        if base is not None:
            block = np.bitwise_xor(block, np.frombuffer(base, np.uint8), out=self._changed[: len(raw)])
        grouped = self._grouped[: len(raw)]
        _group(block, itemsize, grouped)
        frame: bytes = self._compressor.compress(grouped.data)
        return frame

    def pack_all(self, raw: memoryview, itemsize: int) -> Iterator[bytes]:
        """All frames of an entry without a base."""
        for start in range(0, len(raw), BLOCK_BYTES):
            yield self.pack(raw[start : start + BLOCK_BYTES], itemsize)


def unpacked(entry: Entry, source: Source, base: Iterator[memoryview] | None = None) -> Iterator[memoryview]:
    """The raw bytes of a packed entry in blocks, each valid until the next; all are void unless this comes to its end.

    `base` are the raw bytes of the base's entry, which is as long, in the same blocks.

    Raises:
        DataDamaged: they are not what the index says.
        UsageError: zstandard is not installed.
    """
    check_declared(entry)
    itemsize = DTYPES[entry.dtype]
    hasher = xxhash.xxh3_128()
    grouped, raw = np.empty(BLOCK_BYTES, np.uint8), np.empty(BLOCK_BYTES, np.uint8)
    frames = _Frames(entry, source)
    for start in range(0, entry.length, BLOCK_BYTES):
        size = min(BLOCK_BYTES, entry.length - start)
        frames.fill(grouped[:size].data)
        block = raw[:size]
        _ungroup(grouped[:size], itemsize, block)
        if base is not None:
            np.bitwise_xor(block, np.frombuffer(next(base, b""), np.uint8), out=block)
        hasher.update(block.data)
        yield block.data
    frames.check_end()
    if base is not None:
        next(base, None)  # it has its own last word
    if hasher.hexdigest() != entry.digest:
        raise DataDamaged(f"{entry.key!r} {entry.box} is not what was packed, or not from this base")


def check_declared(entry: Entry) -> None:
    """Raise DataDamaged where so few stored bytes cannot stand for so many."""
    if entry.length // BLOCK_BYTES * _LEAST_FRAME > entry.stored:
        raise DataDamaged(f"{entry.key!r} {entry.box}: {entry.stored} bytes cannot hold {entry.length}")


class _Frames:
    """The content of the frames of an entry, as one stream."""

    def __init__(self, entry: Entry, source: Source) -> None:
        library = zstandard()
        decompressor = library.ZstdDecompressor(max_window_size=BLOCK_BYTES)
        self._reader = decompressor.stream_reader(source, read_size=CHUNK_BYTES, read_across_frames=True)
        self._error = library.ZstdError
        self._entry = entry

    def fill(self, target: memoryview) -> None:
        """Exactly so many bytes more."""
        done = 0
        while done < len(target):
            count = self._into(target[done:])
            if count == 0:
                self._refuse("ends too early")
            done += count

    def check_end(self) -> None:
        """Nothing may follow."""
        if self._into(memoryview(bytearray(1))):
            self._refuse("goes on")

    def _into(self, target: memoryview) -> int:
        try:
            return int(self._reader.readinto(target))
        except self._error as error:
            raise DataDamaged(f"{self._entry.key!r} {self._entry.box} cannot be unpacked: {error}") from error

    def _refuse(self, what: str) -> None:
        raise DataDamaged(f"{self._entry.key!r} {self._entry.box}: what was packed {what}")


def _group(block: npt.NDArray[Any], itemsize: int, into: npt.NDArray[Any]) -> None:
    """The first bytes of all elements, then the second ones, and so on. NumPy copies strides quickest."""
    count = len(block) // itemsize
    for at in range(itemsize):
        into[at * count : (at + 1) * count] = block[at::itemsize]


def _ungroup(block: npt.NDArray[Any], itemsize: int, into: npt.NDArray[Any]) -> None:
    count = len(block) // itemsize
    for at in range(itemsize):
        into[at::itemsize] = block[at * count : (at + 1) * count]


def zstandard() -> ModuleType:
    """The library. Raises UsageError where it is not installed."""
    try:
        import zstandard as library
    except ImportError as error:
        raise UsageError("packed checkpoints need zstandard", hint="pip install 'ftslurm[zstd]'") from error
    return library
