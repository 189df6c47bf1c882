"""Reads a committed generation back, on any number of ranks.

Every chunk that is touched is read whole and compared with the manifest before `read` returns; bytes that do not match
are never handed out. Where a tensor is contiguous on both sides the bytes land in their place at once, a chunk that
spans several tensors in all of them (preadv(2)), and are digested there while the processor's cache still has them.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from ftslurm.checkpoint.layout import GenerationPaths
from ftslurm.checkpoint.packing import check_declared, unpacked
from ftslurm.checkpoint.scatter import (
    GROUP_CHUNKS,
    Chunk,
    Run,
    Slab,
    by_chunk,
    in_groups,
    runs_of,
    slab_of,
    slab_of_run,
    without_overlaps,
)
from ftslurm.checkpoint.shelf import Access, Counters, Fetch, ManyCopies, OnDamage, Shelf
from ftslurm.checkpoint.window import StoredEntry, Window
from ftslurm.core.manifest import CHUNK_BYTES
from ftslurm.core.rankindex import DTYPES, Encoding, Entry
from ftslurm.core.tiling import Box
from ftslurm.core.wholeness import Whole, merge
from ftslurm.errors import DataDamaged, StorageError, UsageError

__all__ = ["Counters", "Fetch", "Generation", "OnDamage", "Want"]

_T = TypeVar("_T")
_Task: TypeAlias = Callable[[Counters], None]
_MOST_THREADS = 4
"""More do not read faster from the page cache: memory is what limits them."""
_OPEN_FILES = 64
"""Data files that are open at a time: a process may have 1024, and a world more ranks."""
_BATCH = 16
"""Chunks that one thread takes at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Want:
    """A box of a tensor, and where it has to go.

    `into` is writable, has the shape `sizes` and elements of the right size; its strides may be any. A key of the kind
    RANK is that of `rank`.
    """

    key: str
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    into: npt.NDArray[Any]
    rank: int | None = None


class Generation:
    """A committed generation, opened for reading. A context manager: files are closed at its end."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._shelf = Shelf(access)
        self._bases: dict[str, Shelf] = {}
        self._mine = _Mine()
        self.commit = self._shelf.commit
        self.digest = self._shelf.digest
        self.whole: Whole = merge([self._shelf.index(rank) for rank in range(self.commit.world_size)])

    @classmethod
    def open(
        cls,
        root: GenerationPaths,
        *,
        others: Sequence[GenerationPaths] = (),
        fetch: Fetch | None = None,
        on_damage: OnDamage | None = None,
    ) -> Self:
        """Check COMMIT.json, the manifests, the rank indexes, and that they make a whole.

        `others` are folders of the same generation, asked in order where the first has no right bytes (a partner's
        copy, shared storage); `fetch` is asked last. Base generations lie beside each folder, under their own names.
        `on_damage` is told (path, reason) of each file that is not what was written.

        Raises:
            DataDamaged: something is missing or not what was written, and no other copy is right.
            StorageError: something cannot be read.
        """
        return cls(Access(places=(root, *others), fetch=fetch, on_damage=on_damage or _untold))

    def objects(self, rank: int | None = None) -> Mapping[str, Any]:
        """The values that are no tensors: those of a rank, or the common ones (those of rank 0)."""
        return self.whole.objects(rank or 0)

    def read(self, wants: Sequence[Want]) -> Counters:
        """Bring the bytes. When this returns, every chunk that was read was verified; when it raises, forget them all.

        Raises:
            UsageError: a wanted key or box does not exist, or does not fit its place.
            DataDamaged: a chunk is wrong and no copy is right.
            StorageError: something cannot be read.
        """
        work = self._work(wants)
        counters = Counters()
        pool = ThreadPoolExecutor(min(len(os.sched_getaffinity(0)), _MOST_THREADS), "ftslurm-read")
        try:
            for group in _batches(work.items(), _OPEN_FILES):
                tasks = [task for file, parts in group for task in self._tasks(file, parts)]
                for counted in pool.map(_counted, tasks):
                    counters.merge(counted)
                for file, parts in group:
                    for each in (file, *parts.bases()):
                        each.close()
        finally:
            pool.shutdown(cancel_futures=True)
        return counters

    def close(self) -> None:
        """Close the files."""
        for shelf in (self._shelf, *self._bases.values()):
            shelf.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ------------------------------------------------------------------------------------------------- what to read

    def _work(self, wants: Sequence[Want]) -> dict[ManyCopies, _Work]:
        """What is wanted of each data file."""
        work: dict[ManyCopies, _Work] = {}
        for want in wants:
            for rank, entry in self._pieces(want):
                slab = slab_of(entry, Box(want.offsets, want.sizes), want.into)
                if slab is not None:
                    stored = self._stored(rank, entry)
                    work.setdefault(stored.file, _Work()).add(stored, slab)
        return work

    def _pieces(self, want: Want) -> Iterable[tuple[int, Entry]]:
        """The entries that the wanted box may be made of."""
        if want.rank is not None:
            own = self.whole.own[want.rank] if 0 <= want.rank < self.whole.world_size else {}
            pieces = tuple((want.rank, own[key]) for key in (want.key,) if key in own)
        else:
            tensor = self.whole.tensors.get(want.key)
            pieces = tensor.pieces if tensor else ()
        if not pieces:
            of = "" if want.rank is None else f" of rank {want.rank}"
            raise UsageError(f"{self.commit.generation} has no {want.key!r}{of}")
        _check_fit(want, pieces[0][1])
        return pieces

    def _stored(self, rank: int, entry: Entry) -> StoredEntry:
        """Where an entry's bytes lie, and the entry as the index there has it."""
        if not entry.base:
            return StoredEntry(self._shelf.data(rank), entry)
        if entry.base not in self._bases:
            self._bases[entry.base] = Shelf(self._access.beside(entry.base))
        base = self._bases[entry.base]
        told = (self.commit.run_id, self.commit.world_size)
        if (base.commit.run_id, base.commit.world_size) != told:
            raise DataDamaged(f"{entry.base} is not of the run and world of {self.commit.generation}, its diff")
        found = base.entry(rank, entry)
        if found is None or (entry.is_reference and found.digest != entry.digest):
            raise DataDamaged(f"{entry.base} does not hold the {entry.key!r} that {self.commit.generation} refers to")
        if found.base:
            raise DataDamaged(f"{entry.key!r} of {entry.base} is a difference itself, and no base for others")
        there = StoredEntry(base.data(rank), found)
        return there if entry.is_reference else StoredEntry(self._shelf.data(rank), entry, there)

    # --------------------------------------------------------------------------------------------------- reading it

    def _tasks(self, file: ManyCopies, work: _Work) -> Iterator[_Task]:
        runs, again = without_overlaps(work.runs)
        for batch in _batches(by_chunk(runs, file.entry.size), _BATCH):
            yield partial(self._read_chunks, file, batch)
        for slab in (*work.slabs, *map(slab_of_run, again)):
            yield partial(self._read_slab, file, slab)
        for stored, slabs in work.packed.values():
            yield partial(self._unpack, stored, slabs)

    def _read_chunks(self, file: ManyCopies, chunks: Sequence[Chunk], counters: Counters) -> None:
        """Read whole chunks; what nobody wants of them goes into the thread's own buffer, to be digested."""
        for group in in_groups(chunks):
            loaded: list[tuple[int, list[memoryview]]] = []
            at = 0
            for chunk, parts in group:
                views: list[memoryview] = []
                for part in parts:
                    size = part if isinstance(part, int) else len(part)
                    views.append(self._mine.scrap[at : at + size] if isinstance(part, int) else part)
                    at += size
                loaded.append((chunk, views))
            file.load(loaded, counters)

    def _read_slab(self, file: ManyCopies, slab: Slab, counters: Counters) -> None:
        for part in slab.cut():
            part.copy(self._mine.window.bring(file, part.start, part.end, counters))

    def _unpack(self, stored: StoredEntry, slabs: Sequence[Slab], counters: Counters) -> None:
        """Unpack a whole entry, and only then hand out what is wanted of it."""
        entry, base = stored.entry, stored.base
        check_declared(entry)
        raw = _room_for(entry)
        below = None if base is None else base.raw_blocks(self._mine.base_window, counters)
        at = 0
        for block in unpacked(entry, stored.packed(self._mine.window, counters), below):
            raw[at : at + len(block)] = block
            at += len(block)
        for slab in slabs:
            slab.copy(raw[slab.start : slab.end])


@dataclass(frozen=True, slots=True)
class _Work:
    """What is wanted of one file: runs and slabs with their places in the file, and compressed entries as a whole."""

    runs: list[Run] = field(default_factory=list)
    slabs: list[Slab] = field(default_factory=list)
    packed: dict[int, tuple[StoredEntry, list[Slab]]] = field(default_factory=dict)

    def bases(self) -> Iterator[ManyCopies]:
        """The files that are read for the differences in this one."""
        return (stored.base.file for stored, _ in self.packed.values() if stored.base)

    def add(self, stored: StoredEntry, slab: Slab) -> None:
        """Have a part of an entry read."""
        entry = stored.entry
        if entry.encoding is not Encoding.RAW:
            self.packed.setdefault(entry.offset, (stored, []))[1].append(slab)
            return
        placed = slab.moved(entry.offset)
        runs = runs_of(placed)
        if runs is None:
            self.slabs.append(placed)
        else:
            self.runs.extend(runs)


class _Mine(threading.local):
    """What each thread has of its own."""

    def __init__(self) -> None:
        self.scrap = np.empty(GROUP_CHUNKS * CHUNK_BYTES, np.uint8).data  # a bytearray is filled, which costs 5 ms
        self.window = Window()
        self.base_window = Window()


def _check_fit(want: Want, entry: Entry) -> None:
    """Raise UsageError where the wanted box cannot be had, or its place is of another form."""
    box = Box(want.offsets, want.sizes)
    if not box.within(entry.shape):
        raise UsageError(f"{want.key!r} has the shape {list(entry.shape)}; {box} does not lie in it")
    into = want.into
    if into.shape != want.sizes or into.itemsize != DTYPES[entry.dtype] or not into.flags.writeable:
        place = f"{into.dtype} {list(into.shape)}"
        raise UsageError(f"{want.key!r} {box} of {entry.dtype} does not fit its place: {place}")


def _room_for(entry: Entry) -> memoryview:
    """Memory for the raw bytes of an entry; how many they are, the index says."""
    try:
        return np.empty(entry.length, np.uint8).data
    except MemoryError as error:
        raise StorageError(f"{entry.key!r} {entry.box} needs {entry.length} bytes of memory at once") from error


def _batches(items: Iterable[_T], size: int) -> Iterator[list[_T]]:
    left = iter(items)
    while batch := list(itertools.islice(left, size)):
        yield batch


def _counted(task: _Task) -> Counters:
    counters = Counters()
    task(counters)
    return counters


def _untold(path: Path, reason: str) -> None:
    """Nobody asked: the error, if there is one, says the same."""
    del path, reason
