"""One committed generation in all the places where it lies, for reading: what is wrong in one is taken from the next.

Every file is opened by the name that a verified manifest gives it, inside the generation's folder and through no link.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import xxhash

from ftslurm.checkpoint import disk
from ftslurm.checkpoint.digest import ChunkDamaged, Mismatch, digest_bytes, wrong_size
from ftslurm.checkpoint.layout import COMMIT, GenerationPaths, data_path, manifest_name
from ftslurm.checkpoint.store import read_manifest, unseal
from ftslurm.core.events import Part
from ftslurm.core.manifest import CHUNK_BYTES, COMMIT_LIMIT_BYTES, FileEntry, NodeManifest, check_against, generation_of
from ftslurm.core.rankindex import INDEX_LIMIT_BYTES, Entry, RankIndex, data_name, index_name
from ftslurm.core.tiling import Box
from ftslurm.errors import DataDamaged, FtslurmError, StorageError

Fetch = Callable[[str, str], Path]
"""(generation, name) -> where a file lies that no folder has. Raises StorageError or DataDamaged."""
OnDamage = Callable[[Path, str], None]
"""(path, reason) of a file that is not what was written, or cannot be read."""

OWN, COPY, FETCHED = "own", "copy", "fetched"
_T = TypeVar("_T")


@dataclass(slots=True)
class Counters:
    """What reading has cost: bytes by source (OWN, COPY, FETCHED) and chunks that were verified."""

    bytes_read: dict[str, int] = field(default_factory=dict)
    chunks: int = 0

    def add(self, source: str, size: int) -> None:
        """One chunk more."""
        self.bytes_read[source] = self.bytes_read.get(source, 0) + size
        self.chunks += 1

    def merge(self, other: Counters) -> None:
        """Add what another has counted."""
        for source, size in other.bytes_read.items():
            self.bytes_read[source] = self.bytes_read.get(source, 0) + size
        self.chunks += other.chunks


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """How a generation's bytes are come by: folders of the same generation in order, then `fetch`."""

    places: tuple[GenerationPaths, ...]
    fetch: Fetch | None
    on_damage: OnDamage

    def beside(self, generation: str) -> Access:
        """Access to another generation, which lies beside this one in every place."""
        places = tuple(GenerationPaths(place.root.parent / generation) for place in self.places)
        return Access(places=places, fetch=self.fetch, on_damage=self.on_damage)


class ManyCopies:
    """One file of a generation, in all the places where it may lie."""

    def __init__(self, generation: str, entry: FileEntry, access: Access) -> None:
        self.entry = entry
        self._generation = generation
        self._access = access
        self._lock = threading.Lock()
        self._files = contextlib.ExitStack()
        self._opened: list[tuple[str, Path, int]] = []
        self._coming = self._ways()
        self._unusable: list[FtslurmError] = []
        self._told: set[Path] = set()

    def close(self) -> None:
        """Close every copy; the next `load` opens them again."""
        with self._lock:
            self._files.close()
            self._opened.clear()
            self._unusable.clear()
            self._coming = self._ways()

    def chunk_bounds(self, chunk: int) -> tuple[int, int]:
        """Where a chunk begins and ends."""
        start = chunk * CHUNK_BYTES
        return start, min(start + CHUNK_BYTES, self.entry.size)

    def load(self, chunks: Sequence[tuple[int, Sequence[memoryview]]], counters: Counters) -> None:
        """Read whole chunks, which follow each other, into these pieces of memory.

        All at once from the first copy; those that are wrong there one by one, from where they are right.

        Raises:
            DataDamaged: one is wrong in all copies, or there is none.
            StorageError: it cannot be read.
        """
        first = self._copy(0)
        source = ""
        if first is not None:
            source, _, descriptor = first
            with contextlib.suppress(OSError):  # met again, one by one
                _fill(descriptor, [view for _, views in chunks for view in views], chunks[0][0] * CHUNK_BYTES)
        for chunk, views in chunks:
            if source and _digest(views) == self.entry.chunk(chunk):
                counters.add(source, sum(map(len, views)))
            else:
                self._load_one(chunk, views, counters)

    def _load_one(self, chunk: int, views: Sequence[memoryview], counters: Counters) -> None:
        """Read a chunk from the first copy in which it is right."""
        problems: list[FtslurmError] = []
        wanted = self.entry.chunk(chunk)
        while (copy := self._copy(len(problems))) is not None:
            source, path, descriptor = copy
            try:
                _fill(descriptor, views, chunk * CHUNK_BYTES)
            except OSError as error:
                problems.append(StorageError(f"cannot read {path}: {error.strerror}"))
            else:
                found = _digest(views)
                if found == wanted:
                    counters.add(source, sum(map(len, views)))
                    return
                mismatch = Mismatch(name=path.name, chunk=chunk, wanted=wanted, found=found, what="wrong bytes")
                problems.append(ChunkDamaged(mismatch, str(path.parent)))
            self._tell(path, problems[-1])
        problems += self._unusable
        missing = DataDamaged(f"{self._generation}: {self.entry.name} is missing")
        raise next((each for each in problems if isinstance(each, DataDamaged)), (problems or [missing])[0])

    def read_all(self, counters: Counters) -> bytes:
        """The whole of a small file."""
        data = bytearray(self.entry.size)
        for chunk in range(self.entry.chunk_count):
            start, end = self.chunk_bounds(chunk)
            self._load_one(chunk, [memoryview(data)[start:end]], counters)
        return bytes(data)

    def _copy(self, at: int) -> tuple[str, Path, int] | None:
        """The copy number `at` of those that exist and have the right size."""
        with self._lock:
            while len(self._opened) <= at:
                copy = next(self._coming, None)
                if copy is None:
                    return None
                self._opened.append(copy)
            return self._opened[at]

    def _ways(self) -> Iterator[tuple[str, Path, int]]:
        name = self.entry.name
        for number, place in enumerate(self._access.places):
            descriptor = self._open(place.root, data_path(name))
            if descriptor is not None:
                yield OWN if number == 0 else COPY, place.data / name, descriptor
        if self._access.fetch is not None:
            try:
                path = self._access.fetch(self._generation, name)
            except (DataDamaged, StorageError) as error:
                self._unusable.append(error)
                return
            descriptor = self._open(path.parent, path.name)
            if descriptor is not None:
                yield FETCHED, path, descriptor

    def _open(self, folder: Path, name: str) -> int | None:
        """The open file if it is there and has the right size."""
        path = folder / name
        try:
            descriptor = self._files.enter_context(disk.opened(folder, name))
            size = os.fstat(descriptor).st_size
        except FileNotFoundError:
            return None
        except DataDamaged as error:
            self._refuse(path, error)
            return None
        except OSError as error:
            self._refuse(path, StorageError(f"cannot read {path}: {error.strerror}"))
            return None
        if size != self.entry.size:
            self._refuse(path, ChunkDamaged(wrong_size(self.entry, size), str(path.parent)))
            return None
        return descriptor

    def _refuse(self, path: Path, problem: FtslurmError) -> None:
        """A copy that cannot be used at all."""
        self._unusable.append(problem)
        self._tell(path, problem)

    def _tell(self, path: Path, problem: FtslurmError) -> None:
        """Tell of each file once."""
        if path not in self._told:
            self._told.add(path)
            self._access.on_damage(path, str(problem))


def _fill(descriptor: int, views: Sequence[memoryview], offset: int) -> None:
    """Fill the views from a place of the file on; where it has shrunk, the digests will tell."""
    left = list(views)
    while left:
        count = os.preadv(descriptor, left, offset)
        if count == 0:
            return
        offset += count
        while left and count >= len(left[0]):
            count -= len(left.pop(0))
        if left:
            left[0] = left[0][count:]


def _digest(views: Sequence[memoryview]) -> str:
    """The digest of what the views hold, as one."""
    if len(views) == 1:
        return digest_bytes(views[0])
    hasher = xxhash.xxh3_128()
    for view in views:
        hasher.update(view)
    return str(hasher.hexdigest())


class Shelf:
    """A committed generation: its commit, the files that its manifests list, the ranks' indexes and data files."""

    def __init__(self, access: Access) -> None:
        self.generation = generation_of(access.places[0].root.name)
        self._access = access
        self.counters = Counters()
        self._opened: dict[str, ManyCopies] = {}
        self._indexes: dict[int, RankIndex] = {}
        self._entries: dict[int, dict[tuple[str, Box], Entry]] = {}
        self._lock = threading.Lock()
        self.commit, self.digest = self._first(
            COMMIT, lambda folder: unseal(disk.read_small(folder, COMMIT, COMMIT_LIMIT_BYTES), self.generation)
        )
        manifests = {part.node: self._manifest(part) for part in self.commit.parts}
        self._files = {entry.name: entry for entry in check_against(self.commit, manifests)}

    def close(self) -> None:
        """Close all files."""
        for copies in self._opened.values():
            copies.close()
        self._opened.clear()

    def data(self, rank: int) -> ManyCopies:
        """A rank's data file."""
        return self._file(data_name(rank))

    def index(self, rank: int) -> RankIndex:
        """A rank's index. Raises DataDamaged unless it is what was written, and belongs to the data file."""
        if rank not in self._indexes:
            self._indexes[rank] = self._read_index(rank)
        return self._indexes[rank]

    def entry(self, rank: int, like: Entry) -> Entry | None:
        """A rank's entry of the same piece of the same tensor."""
        if rank not in self._entries:
            self._entries[rank] = {(entry.key, entry.box): entry for entry in self.index(rank).entries}
        found = self._entries[rank].get((like.key, like.box))
        return found if found and (found.dtype, found.shape) == (like.dtype, like.shape) else None

    def _read_index(self, rank: int) -> RankIndex:
        name = index_name(rank)
        copies = self._file(name)
        if copies.entry.size > INDEX_LIMIT_BYTES:
            raise DataDamaged(f"{self.generation}: {name} has more than {INDEX_LIMIT_BYTES} bytes")
        data = copies.read_all(self.counters)
        copies.close()
        told = (self.commit.run_id, self.generation, self.commit.world_size, rank)
        return index_of(data, told, self._file(data_name(rank)).entry)

    def _manifest(self, part: Part) -> NodeManifest:
        name = manifest_name(part.node)
        return self._first(name, lambda folder: read_manifest(folder, part.node, part.manifest_digest))

    def _file(self, name: str) -> ManyCopies:
        with self._lock:
            if name not in self._opened:
                if name not in self._files:
                    raise DataDamaged(f"{self.generation} was committed without {name}")
                self._opened[name] = ManyCopies(self.generation, self._files[name], self._access)
            return self._opened[name]

    def _first(self, name: str, read: Callable[[Path], _T]) -> _T:
        """What the first folder says in which a small file is right."""
        problem: FtslurmError = DataDamaged(f"{self._access.places[0].root / name} is missing")
        for place in self._access.places:
            path = place.root / name
            try:
                return read(place.root)
            except FileNotFoundError:
                continue
            except DataDamaged as error:
                problem = error
            except OSError as error:
                problem = StorageError(f"cannot read {path}: {error.strerror}")
            self._access.on_damage(path, str(problem))
        raise problem


def index_of(data: bytes, told: tuple[str, str, int, int], file: FileEntry) -> RankIndex:
    """The index in these bytes, whose digests were checked.

    Raises:
        DataDamaged: it is not that of this run, generation, world and rank (`told`), or not that of this data file.
    """
    index = RankIndex.from_bytes(data)
    found = (index.run_id, index.generation, index.world_size, index.rank)
    if found != told:
        raise DataDamaged(f"{told[1]}: {index_name(told[3])} is that of {found}")
    if (index.size, index.chunks) != (file.size, file.chunks):
        raise DataDamaged(f"{told[1]}: {index.index_name} is not the index of the {file.name} beside it")
    return index
