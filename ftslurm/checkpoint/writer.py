"""Writes what was staged: the data file of a rank, then its index.

All digests are taken of the staged memory, so that whatever happens between memory and disk is found by the reader;
one thread takes them while another writes. Writing begins while the state is still being copied into that memory, and
the digests when it is whole, because they would take the processor from the copy that training waits for. A data file
that fails to be written whole is removed, and so is its index: what exists, exists whole. The memory is written as it
stands, past the page cache (`ftslurm.checkpoint.direct`).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import xxhash

from ftslurm.checkpoint import direct, disk
from ftslurm.checkpoint.background import Background
from ftslurm.checkpoint.digest import digest_bytes
from ftslurm.checkpoint.reduction import Base, Compressor, Stored, as_staged, reduced
from ftslurm.checkpoint.stage import Arrival, Staged
from ftslurm.core.about import About
from ftslurm.core.manifest import CHUNK_BYTES
from ftslurm.core.rankindex import Entry, RankIndex, aligned, check_objects, data_name, index_name
from ftslurm.errors import DataDamaged, StorageError, UsageError

__all__ = ["Background", "Base", "Header", "WriteOptions", "write_rank"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What stands in the index besides the tensors; the fields are those of `RankIndex`."""

    run_id: str
    generation: str
    world_size: int
    rank: int
    host: str
    about: About = field(default_factory=About)
    objects: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteOptions:
    """`compression`: "none", or "zstd": an entry is compressed where that makes it smaller."""

    compression: str = "none"
    level: int = 1


def write_rank(
    folder: Path, staged: Staged, header: Header, *, base: Base | None = None, options: WriteOptions | None = None
) -> RankIndex:
    """Write `<rank>.bin` and then `<rank>.json` into `folder`, durably; the folder is made where it is missing.

    With compression the staged memory is used up: compressed bytes take the place of the raw ones.

    Raises:
        StorageError: full, read-only, failing. Neither file is there then.
        UsageError: the state cannot be written as it is, or was saved under this name before.
    """
    check_objects(header.objects)
    if base is not None:
        base.check(header.run_id, header.world_size, header.rank)
    with _translating(folder), _cleaning(folder, header.rank), ThreadPoolExecutor(1, "ftslurm-digest") as hasher:
        disk.make_folder(folder)
        compressor = _compressor(options or WriteOptions())
        data = folder / data_name(header.rank)
        if base is None and compressor is None:
            parts = as_staged(staged)
            digested = hasher.submit(_digest_all, staged)
            size = _write_data(data, [staged.memory], staged.arrival)
            raw, chunks = digested.result()
        else:
            staged.arrival.wait(len(staged.memory))
            raw = [digest_bytes(staged.bytes_of(piece)) for piece in staged.pieces]
            parts = reduced(staged, raw, base, compressor)
            memory = _runs(staged.memory, parts)
            chunked = hasher.submit(_chunks, memory)
            size = _write_data(data, memory, staged.arrival)
            chunks = chunked.result()
        entries = [part.entry(digest) for part, digest in zip(parts, raw, strict=True)]
        index = _index(header, entries, size, chunks)
        disk.write_small(folder / index.index_name, _readable(index))
    return index


def _index(header: Header, entries: Sequence[Entry], size: int, chunks: str) -> RankIndex:
    return RankIndex(
        run_id=header.run_id,
        generation=header.generation,
        world_size=header.world_size,
        rank=header.rank,
        host=header.host,
        size=size,
        chunks=chunks,
        entries=tuple(entries),
        about=header.about,
        objects=header.objects,
        versions=header.versions,
    )


def _readable(index: RankIndex) -> bytes:
    """The index' bytes, read once for a trial: what a restart would refuse has to be refused now."""
    data = index.to_bytes()
    try:
        RankIndex.from_bytes(data)
    except DataDamaged as error:
        raise UsageError(f"the state of rank {index.rank} cannot be saved: {error}") from error
    return data


def _compressor(options: WriteOptions) -> Compressor | None:
    if options.compression == "none":
        return None
    if options.compression != "zstd":
        raise UsageError(f"compression {options.compression!r} is neither none nor zstd")
    return Compressor(options.level)


# --------------------------------------------------------------------------------------------------------- digests


class _Chunks:
    """The chunk digests of a file, of which the bytes come piece by piece."""

    def __init__(self) -> None:
        self._digests: list[str] = []
        self._hasher, self.room = xxhash.xxh3_128(), CHUNK_BYTES

    def add(self, piece: memoryview) -> None:
        """The next bytes, `room` of them at most."""
        self._hasher.update(piece)
        self.room -= len(piece)
        if not self.room:
            self._digests.append(self._hasher.hexdigest())
            self._hasher, self.room = xxhash.xxh3_128(), CHUNK_BYTES

    def joined(self) -> str:
        """All digests, concatenated, when the last byte was added."""
        last = [self._hasher.hexdigest()] if self.room < CHUNK_BYTES else []
        return "".join(self._digests + last)


def _digest_all(staged: Staged) -> tuple[list[str], str]:
    """(the digest of each piece's raw bytes, the chunk digests of the memory as a file), with one look at each byte."""
    memory = staged.memory
    staged.arrival.wait(len(memory))
    chunks, digests = _Chunks(), list[str]()
    for piece in staged.pieces:
        hasher = xxhash.xxh3_128()
        at, stop = piece.offset, piece.offset + piece.length
        end = aligned(stop)
        while at < end:
            # Padding is the file's, and not the piece's.
            block = memory[at : min(at + chunks.room, stop if at < stop else end)]
            if at < stop:
                hasher.update(block)
            chunks.add(block)
            at += len(block)
        digests.append(hasher.hexdigest())
    return digests, chunks.joined()


def _chunks(memory: Sequence[memoryview]) -> str:
    """The chunk digests of a file that consists of these pieces, concatenated."""
    chunks = _Chunks()
    for run in memory:
        at = 0
        while at < len(run):
            piece = run[at : at + chunks.room]
            chunks.add(piece)
            at += len(piece)
    return chunks.joined()


def _runs(memory: memoryview, parts: Sequence[Stored]) -> list[memoryview]:
    """The data file's bytes: what is stored of each part, with its padding; neighbours in memory as one."""
    bounds: list[tuple[int, int]] = []
    for part in parts:
        if bounds and bounds[-1][1] == part.start:
            bounds[-1] = (bounds[-1][0], part.end)
        elif part.start < part.end:
            bounds.append((part.start, part.end))
    return [memory[start:end] for start, end in bounds]


# ---------------------------------------------------------------------------------------------------------- writing


@contextlib.contextmanager
def _cleaning(folder: Path, rank: int) -> Iterator[None]:
    """Begin without left-overs of a save that was killed; leave none of one that failed."""
    data, index = folder / data_name(rank), folder / index_name(rank)
    if index.exists():
        raise UsageError(f"{index} was saved before; a generation is never overwritten")
    try:
        data.unlink(missing_ok=True)  # its index was never written; the name may have a second link, so no truncation
        yield
    except BaseException:
        for path in (index, data):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def _translating(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"cannot save to {folder}: {error.strerror or error}") from error


def _write_data(path: Path, memory: Sequence[memoryview], arrival: Arrival) -> int:
    """Write these runs of memory, of which the first may still be arriving; returns the bytes of the file."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, disk.PRIVATE_FILE)
    try:
        past_cache = direct.set_direct(descriptor, wanted=True)
        offset = 0
        for run in memory:
            for at in range(0, len(run), direct.WRITE_BYTES):
                block = run[at : at + direct.WRITE_BYTES]
                arrival.wait(at + len(block))
                past_cache = direct.write_run(descriptor, block, offset, direct=past_cache)
                offset += len(block)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return offset
