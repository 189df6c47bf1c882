"""One node's part of a generation of the library's layout, as it lies in a folder, committed or not."""

from __future__ import annotations

from pathlib import Path

from ftslurm.checkpoint.digest import digest_bytes
from ftslurm.checkpoint.drain import own_manifest
from ftslurm.checkpoint.layout import GenerationPaths
from ftslurm.checkpoint.shelf import Access, Counters, ManyCopies, index_of
from ftslurm.core.manifest import FileEntry
from ftslurm.core.rankindex import INDEX_LIMIT_BYTES, RankIndex, data_name, index_name
from ftslurm.errors import DataDamaged, UsageError


class NodePart:
    """The files that one node's manifest lists, for reading; every byte is verified."""

    def __init__(self, folder: Path, node: str) -> None:
        """Raises DataDamaged for a manifest that is missing or wrong, UsageError for files of another layout."""
        self.manifest, data = own_manifest(folder, node)
        self.digest = digest_bytes(data)
        self.counters = Counters()
        self._files = {entry.name: entry for entry in self.manifest.files}
        self._access = Access(places=(GenerationPaths(folder),), fetch=None, on_damage=_untold)
        self._indexes: dict[int, RankIndex] = {}
        names = {name for rank in self.manifest.ranks for name in (data_name(rank), index_name(rank))}
        if not names or names != set(self._files):
            raise UsageError(f"{folder.name} of {node} does not consist of data files and indexes of ranks")

    @property
    def ranks(self) -> tuple[int, ...]:
        """The ranks that have written it."""
        return self.manifest.ranks

    def data(self, rank: int) -> ManyCopies:
        """A rank's data file, to be closed by the caller."""
        return self._file(data_name(rank))

    def index(self, rank: int) -> RankIndex:
        """A rank's index. Raises DataDamaged unless it is what was written, and belongs to the data file."""
        if rank not in self._indexes:
            file = self._file(index_name(rank))
            if file.entry.size > INDEX_LIMIT_BYTES:
                raise DataDamaged(f"{file.entry.name} has more than {INDEX_LIMIT_BYTES} bytes")
            data = file.read_all(self.counters)
            file.close()
            told = (self.manifest.run_id, self.manifest.generation, self.manifest.world_size, rank)
            self._indexes[rank] = index_of(data, told, self._entry(data_name(rank)))
        return self._indexes[rank]

    def references(self) -> frozenset[str]:
        """The generations that must stay for this part to be whole."""
        return frozenset().union(*(self.index(rank).references() for rank in self.ranks))

    def _file(self, name: str) -> ManyCopies:
        return ManyCopies(self.manifest.generation, self._entry(name), self._access)

    def _entry(self, name: str) -> FileEntry:
        if name not in self._files:
            raise DataDamaged(f"{self.manifest.node} has no {name} of {self.manifest.generation}")
        return self._files[name]


def _untold(path: Path, reason: str) -> None:
    """The error says the same."""
    del path, reason
