"""Takes what `ftslurm.training` has written out of its hands: links and this node's manifest; nothing is read again.

Each rank has written a data file and, last, its index, which holds the digests of the data's chunks, made from memory
before the data was written. So a node's part is whole when the index of each of its ranks is there. It is checked
that the index is the rank's of this generation, and that the file has its size; the bytes are compared by whoever
reads them next: the partner's copy, the drain, the restore.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from ftslurm.checkpoint import disk
from ftslurm.checkpoint.copying import Copier
from ftslurm.checkpoint.digest import digest_bytes, digests_of
from ftslurm.checkpoint.layout import GenerationPaths, manifest_name
from ftslurm.core.about import About
from ftslurm.core.manifest import FileEntry, NodeManifest
from ftslurm.core.rankindex import INDEX_LIMIT_BYTES, RankIndex, index_name
from ftslurm.errors import DataDamaged, StorageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Writer:
    """Whose ranks have written: the run, the node, its ranks, and the size of their world."""

    run_id: str
    node: str
    ranks: frozenset[int]
    world_size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Adopted:
    """A node's part; `about` is what rank 0 tells, where it runs here."""

    manifest: NodeManifest
    digest: str
    about: About | None


def finished(folder: Path, ranks: Collection[int]) -> bool:
    """Tell whether each of the ranks has written its index."""
    return bool(ranks) and all(disk.is_there(folder, index_name(rank)) for rank in ranks)


def adopt(folder: Path, target: GenerationPaths, writer: Writer) -> Adopted:
    """Link what the ranks have written in `folder` into `target`, and write the manifest. May be repeated.

    Raises:
        DataDamaged: an index, or the size of a data file, is not what the library can have written.
        StorageError: this node's disk is full or broken.
    """
    try:
        for place in (target.data, target.manifests):
            disk.make_folder(place)
        indexes = [
            (disk.read_small(folder, index_name(rank), INDEX_LIMIT_BYTES), rank) for rank in sorted(writer.ranks)
        ]
        read = [(_index(data, rank, target.root.name, writer), data) for data, rank in indexes]
        files = sorted((entry for index, data in read for entry in _entries(index, data)), key=lambda entry: entry.name)
        for entry in files:
            _take(folder, entry, target.data)
        manifest = NodeManifest(
            run_id=writer.run_id,
            generation=target.root.name,
            node=writer.node,
            world_size=writer.world_size,
            files=tuple(files),
        )
        data = manifest.to_bytes()
        disk.write_small(target.root / manifest_name(writer.node), data)
    except FileNotFoundError as error:
        raise DataDamaged(f"{target.root.name}: {error.filename} is gone") from error
    except OSError as error:
        raise StorageError(f"cannot keep {target.root.name}: {error.strerror}: {error.filename}") from error
    about = next((index.about for index, _ in read if index.rank == 0), None)
    return Adopted(manifest=manifest, digest=digest_bytes(data), about=about)


def _index(data: bytes, rank: int, generation: str, writer: Writer) -> RankIndex:
    index = RankIndex.from_bytes(data)
    told = (index.run_id, index.generation, index.rank, index.world_size)
    if told != (writer.run_id, generation, rank, writer.world_size):
        raise DataDamaged(f"the index of rank {rank} in {generation} is that of {'/'.join(map(str, told))}")
    return index


def _entries(index: RankIndex, data: bytes) -> tuple[FileEntry, FileEntry]:
    chunks = "".join(digests_of(memoryview(data)))
    return index.data_file, FileEntry(name=index.index_name, size=len(data), chunks=chunks, rank=index.rank)


def _take(folder: Path, entry: FileEntry, data: Path) -> None:
    size = disk.plain_size(folder, entry.name)
    if size != entry.size:
        raise DataDamaged(f"{folder / entry.name} has {size} bytes, its index says {entry.size}")
    if disk.link_over(folder, data, entry.name):
        disk.fsync_way(data, entry.name)
        return
    Copier(source=folder, target=data, owner="adopt", durable=True).bring(entry)
