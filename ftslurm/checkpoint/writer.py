"""Writes what was staged: the data file of a rank, then its index.

All digests are taken of the staged memory, so that whatever happens between memory and disk is found by the reader;
one thread takes them while another writes. A data file that fails to be written whole is removed, and so is its index:
what exists, exists whole. The memory is written as it stands, past the page cache where the file system allows it
(O_DIRECT, open(2)): the copy into the cache costs more than the disk does, and throws out what training had there.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import xxhash

from ftslurm.checkpoint import disk
from ftslurm.checkpoint.background import Background
from ftslurm.checkpoint.digest import digest_bytes
from ftslurm.checkpoint.reduction import Base, Compressor, Stored, as_staged, reduced
from ftslurm.checkpoint.stage import Staged
from ftslurm.core.about import About
from ftslurm.core.manifest import CHUNK_BYTES
from ftslurm.core.rankindex import Entry, RankIndex, check_objects, data_name, index_name
from ftslurm.errors import DataDamaged, StorageError, UsageError

__all__ = ["Background", "Base", "Header", "WriteOptions", "write_rank"]

_WRITE_BYTES = 16 << 20
_BUFFERED_BYTES = 1 << 20
"""Larger writes into the page cache cost three times the processor time (`ftslurm.checkpoint.digest`)."""


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
        if base is None and compressor is None:
            parts = as_staged(staged)
            digests = hasher.submit(_digests, staged)
        else:
            raw = _digests(staged)
            digests = hasher.submit(lambda: raw)
            parts = reduced(staged, raw, base, compressor)
        memory = _runs(staged.memory, parts)
        chunks = hasher.submit(_chunks, memory)
        _write_data(folder / data_name(header.rank), memory)
        entries = [part.entry(digest) for part, digest in zip(parts, digests.result(), strict=True)]
        index = _index(header, entries, sum(map(len, memory)), chunks.result())
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


def _digests(staged: Staged) -> list[str]:
    """The digest of each piece's raw bytes."""
    return [digest_bytes(staged.bytes_of(piece)) for piece in staged.pieces]


def _chunks(memory: Sequence[memoryview]) -> str:
    """The chunk digests of a file that consists of these pieces, concatenated."""
    digests: list[str] = []
    hasher, room = xxhash.xxh3_128(), CHUNK_BYTES
    for run in memory:
        at = 0
        while at < len(run):
            piece = run[at : at + room]
            hasher.update(piece)
            at, room = at + len(piece), room - len(piece)
            if not room:
                digests.append(hasher.hexdigest())
                hasher, room = xxhash.xxh3_128(), CHUNK_BYTES
    if room < CHUNK_BYTES:
        digests.append(hasher.hexdigest())
    return "".join(digests)


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


def _write_data(path: Path, memory: Sequence[memoryview]) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, disk.PRIVATE_FILE)
    try:
        direct = _set_direct(descriptor, wanted=True)
        offset = 0
        for run in memory:
            direct = _write_run(descriptor, run, offset, direct=direct)
            offset += len(run)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_run(descriptor: int, run: memoryview, offset: int, *, direct: bool) -> bool:
    """Write every byte; returns whether it went past the page cache to the end."""
    done = 0
    while done < len(run):
        size = _WRITE_BYTES if direct else _BUFFERED_BYTES
        try:
            done += os.pwrite(descriptor, run[done : done + size], offset + done)
        except OSError as error:
            # Some file systems take the flag and refuse the writes; and what a full disk has cut short is not aligned.
            if not direct or error.errno != errno.EINVAL:
                raise
            direct = _set_direct(descriptor, wanted=False)
    return direct


def _set_direct(descriptor: int, *, wanted: bool) -> bool:
    """Switch O_DIRECT on or off; returns whether it is on. Not every file system has it."""
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | os.O_DIRECT if wanted else flags & ~os.O_DIRECT)
    except OSError as error:
        if not wanted or error.errno not in {errno.EINVAL, errno.ENOTSUP}:
            raise
        return False
    return wanted
