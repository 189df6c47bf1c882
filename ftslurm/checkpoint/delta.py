"""Packs one node's part of a generation before it leaves the node: as differences from a base where there is one.

The result is a part of the same generation and node in a folder of its own: data files with packed entries, indexes
that say so, and a node manifest with its own digest. It is drained and committed in place of the captured one, which
stays on the node as it is: restoring from the nodes needs no unpacking.

An entry is packed only where that saves room; memory stays at a few MiB whatever the size of the part; and every byte
that is read, of the part and of the base, was compared with its chunk's digest before it is used.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import xxhash

from ftslurm.checkpoint import disk
from ftslurm.checkpoint.digest import Pace, digest_bytes, quiet
from ftslurm.checkpoint.layout import GenerationPaths, manifest_name
from ftslurm.checkpoint.nodepart import NodePart
from ftslurm.checkpoint.packing import Packer
from ftslurm.checkpoint.shelf import Counters, ManyCopies, Shelf
from ftslurm.checkpoint.window import StoredEntry, Window
from ftslurm.core.about import About, SaveKind
from ftslurm.core.deltas import Packed
from ftslurm.core.manifest import CHUNK_BYTES, FileEntry, NodeManifest
from ftslurm.core.rankindex import ALIGN_BYTES, DTYPES, Encoding, Entry, RankIndex, aligned
from ftslurm.core.tiling import Box
from ftslurm.errors import DataDamaged, StorageError, UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedPart:
    """A part that was packed; `digest` is that of the manifest's bytes."""

    manifest: NodeManifest
    digest: str
    packed: Packed


class Base:
    """The same node's part of an earlier generation, whose bytes are XORed in.

    Only entries that the store holds with the same digest serve: that is what a reader will find there. It must be full
    there, because differences are never chained.
    """

    def __init__(self, part: NodePart, durable: Shelf) -> None:
        """Raises UsageError where they are not of one run, generation and world."""
        self._part = part
        self._durable = durable
        self._entries: dict[int, dict[tuple[str, Box], Entry]] = {}
        commit, own = durable.commit, part.manifest
        self.told = (own.run_id, own.world_size)
        if (commit.run_id, commit.generation, commit.world_size) != (own.run_id, own.generation, own.world_size):
            raise UsageError(f"{own.generation} is no base: it is not the {commit.generation} that was committed")

    @property
    def generation(self) -> str:
        """Its name."""
        return self._part.manifest.generation

    def open(self, rank: int) -> ManyCopies | None:
        """The rank's data file, to be closed by the caller; None where this node has none."""
        if rank not in self._part.ranks:
            return None
        index = self._part.index(rank)
        if index.references() or self._durable.index(rank).references():
            raise UsageError(f"{self.generation} is no base: it is a difference itself")
        self._entries[rank] = {(entry.key, entry.box): entry for entry in index.entries}
        return self._part.data(rank)

    def find(self, rank: int, wanted: Entry) -> Entry | None:
        """The entry of the same piece, if the store has the same."""
        own = self._entries[rank].get((wanted.key, wanted.box))
        there = self._durable.entry(rank, wanted)
        if own is None or there is None or (own.dtype, own.shape) != (wanted.dtype, wanted.shape):
            return None
        return own if own.digest == there.digest else None


def pack_part(
    generation: GenerationPaths, node: str, into: GenerationPaths, *, base: Base | None = None, pace: Pace = quiet
) -> PackedPart:
    """Pack what `node` has captured in the folder `generation` into the folder `into`, which is made anew.

    `pace` is told of the raw bytes that were dealt with; what it raises ends the work.

    Raises:
        DataDamaged: a byte of the part or of the base is not what was written.
        UsageError: the part is not of the library's layout, or the base does not serve for it.
        StorageError: reading or writing failed. Whatever is raised, nothing is left in `into`.
    """
    began = time.monotonic()
    part = NodePart(generation.root, node)
    _check_base(part, base)
    with _cleaning(into.root):
        work = _Work(part, base, pace)
        files = [file for rank in part.ranks for file in work.pack_rank(rank, into.data)]
        manifest = replace(part.manifest, files=tuple(sorted(files, key=lambda file: file.name)))
        data = manifest.to_bytes()
        disk.write_small(into.root / manifest_name(node), data)
        disk.fsync_folder(into.root)
    packed = Packed(
        raw_bytes=part.manifest.size_bytes, stored_bytes=manifest.size_bytes, took_s=time.monotonic() - began
    )
    return PackedPart(manifest=manifest, digest=digest_bytes(data), packed=packed)


def _check_base(part: NodePart, base: Base | None) -> None:
    if base is None:
        return
    if base.told != (part.manifest.run_id, part.manifest.world_size):
        raise UsageError(f"{base.generation} is no base for {part.manifest.generation}: another run or world")
    known = {part.index(rank).about.base for rank in part.ranks} | part.references()
    if others := known - {base.generation, ""}:
        raise UsageError(f"{base.generation} is no base for what refers to {', '.join(sorted(others))} already")


@contextlib.contextmanager
def _cleaning(folder: Path) -> Iterator[None]:
    """Begin with an empty folder; leave none after a failure."""
    try:
        if folder.exists():
            shutil.rmtree(folder)
        for place in (GenerationPaths(folder).data, GenerationPaths(folder).manifests):
            disk.make_folder(place)
        yield
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError):
            raise StorageError(f"cannot pack into {folder}: {error.strerror or error}") from error
        raise


class _Work:
    """Packs the ranks of a part, one after the other."""

    def __init__(self, part: NodePart, base: Base | None, pace: Pace) -> None:
        self._part = part
        self._base = base
        self._pace = pace
        self._packer = Packer()
        self._window, self._base_window = Window(), Window()
        self._counters = Counters()

    def pack_rank(self, rank: int, folder: Path) -> tuple[FileEntry, FileEntry]:
        """Write a rank's data file and then its index; returns them as the manifest lists them."""
        index = self._part.index(rank)
        with contextlib.ExitStack() as stack:
            source = stack.enter_context(contextlib.closing(self._part.data(rank)))
            base = self._base.open(rank) if self._base else None
            if base is not None:
                stack.enter_context(contextlib.closing(base))
            output = stack.enter_context(contextlib.closing(_Output(folder / index.data_name)))
            entries = tuple(self._entry(rank, entry, source, base, output) for entry in index.entries)
            size, chunks = output.finish()
        index = replace(index, size=size, chunks=chunks, entries=entries)
        index = replace(index, about=_about(index))
        data = _readable(index)
        disk.write_small(folder / index.index_name, data)
        digests = "".join(digest_bytes(data[at : at + CHUNK_BYTES]) for at in range(0, len(data), CHUNK_BYTES))
        return index.data_file, FileEntry(name=index.index_name, size=len(data), chunks=digests, rank=rank)

    def _entry(self, rank: int, entry: Entry, source: ManyCopies, base: ManyCopies | None, output: _Output) -> Entry:
        """Write one entry, packed if that takes less room; returns it as it stands in the new index."""
        if entry.is_reference:
            return entry
        below = self._base.find(rank, entry) if self._base and base else None
        stored = StoredEntry(source, entry, StoredEntry(base, below) if base and below else None)
        packed = self._pack(stored, output) or self._copy(stored, output)
        output.pad()
        return packed

    def _pack(self, stored: StoredEntry, output: _Output) -> Entry | None:
        """The entry as it was packed; None where that does not take less room, and then nothing was written."""
        entry, base = stored.entry, stored.base
        if entry.stored <= ALIGN_BYTES or (entry.encoding is not Encoding.RAW and base is None):
            return None
        place = output.mark()
        itemsize = DTYPES[entry.dtype]
        hasher = xxhash.xxh3_128()
        for raw, below in self._blocks(stored):
            hasher.update(raw)
            frame = self._packer.pack(raw, itemsize, below)
            output.write(frame)
            self._pace(len(raw))
            if aligned(output.size - place.size) >= aligned(entry.stored):
                output.rewind(place)
                return None
        if hasher.hexdigest() != entry.digest:
            raise DataDamaged(f"{entry.key!r} {entry.box} is not what its index says")
        encoding = Encoding.XOR_ZSTD if base else Encoding.ZSTD
        generation = self._base.generation if self._base and base else ""
        return replace(entry, offset=place.size, stored=output.size - place.size, encoding=encoding, base=generation)

    def _blocks(self, stored: StoredEntry) -> Iterator[tuple[memoryview, memoryview | None]]:
        """The raw bytes in blocks, with those of the base."""
        blocks = stored.raw_blocks(self._window, self._counters)
        if stored.base is None:
            yield from ((raw, None) for raw in blocks)
        else:
            yield from zip(blocks, stored.base.raw_blocks(self._base_window, self._counters), strict=True)

    def _copy(self, stored: StoredEntry, output: _Output) -> Entry:
        """The entry as it was."""
        place = output.mark()
        source = stored.packed(self._window, self._counters)
        while piece := source.read(CHUNK_BYTES):
            output.write(piece)
            self._pace(len(piece))
        return replace(stored.entry, offset=place.size)


@dataclass(frozen=True, slots=True)
class _Mark:
    """A place in the output to which it can be taken back."""

    size: int
    digests: int
    hasher: xxhash.xxh3_128


class _Output:
    """A data file that is being written; its chunks are digested before they are handed to the system."""

    def __init__(self, path: Path) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self._descriptor = os.open(path, flags, disk.PRIVATE_FILE)
        self._digests: list[str] = []
        self._hasher = xxhash.xxh3_128()
        self.size = 0

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def write(self, data: bytes | memoryview) -> None:
        """Append."""
        view = memoryview(data)
        disk.pwrite_all(self._descriptor, view, self.size)
        while view:
            piece = view[: CHUNK_BYTES - self.size % CHUNK_BYTES]
            self._hasher.update(piece)
            self.size += len(piece)
            view = view[len(piece) :]
            if self.size % CHUNK_BYTES == 0:
                self._end_chunk()

    def pad(self) -> None:
        """Append zeros up to the border where the next entry begins."""
        self.write(bytes(aligned(self.size) - self.size))

    def mark(self) -> _Mark:
        """The present place."""
        return _Mark(self.size, len(self._digests), self._hasher.copy())

    def rewind(self, mark: _Mark) -> None:
        """Forget what was written since."""
        self.size = mark.size
        del self._digests[mark.digests :]
        self._hasher = mark.hasher.copy()

    def finish(self) -> tuple[int, str]:
        """Make the file durable; returns its size and its chunks' digests."""
        if self.size % CHUNK_BYTES:
            self._end_chunk()
        os.ftruncate(self._descriptor, self.size)
        os.fsync(self._descriptor)
        return self.size, "".join(self._digests)

    def _end_chunk(self) -> None:
        self._digests.append(self._hasher.hexdigest())
        self._hasher = xxhash.xxh3_128()


def _about(index: RankIndex) -> About:
    """What is said of the save, with the base that it refers to now."""
    bases = index.references()
    return replace(index.about, kind=SaveKind.DIFF, base=min(bases)) if bases else index.about


def _readable(index: RankIndex) -> bytes:
    """The index' bytes, read once for a trial: what a reader would refuse is never drained."""
    data = index.to_bytes()
    RankIndex.from_bytes(data)
    return data
