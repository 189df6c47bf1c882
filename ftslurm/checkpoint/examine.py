"""Whether a generation of the library makes a whole, its bytes apart: what a program would refuse is said before."""

from __future__ import annotations

from pathlib import Path

from ftslurm.checkpoint.layout import StorePaths
from ftslurm.checkpoint.shelf import Access, Shelf
from ftslurm.checkpoint.store import read_stored
from ftslurm.core.rankindex import Entry, index_name
from ftslurm.core.wholeness import merge
from ftslurm.errors import DataDamaged


def has_indexes(root: Path, generation: str) -> bool:
    """Whether a durable generation is the library's: its manifests list rank indexes; raises as `read_stored`."""
    files = read_stored(root, generation).files
    return any(entry.rank is not None and entry.name == index_name(entry.rank) for entry in files)


def check_whole(root: Path, generation: str) -> None:
    """Open the indexes of all ranks of a durable generation, and what they refer to in others.

    Raises:
        DataDamaged: something is missing, not what was written, or does not fit together.
        StorageError: something cannot be read.
    """
    access = Access(places=(StorePaths(root).generation(generation),), fetch=None, on_damage=lambda *_: None)
    shelf = Shelf(access)
    whole = merge([shelf.index(rank) for rank in range(shelf.commit.world_size)])
    bases = {name: Shelf(access.beside(name)) for name in sorted(whole.references())}
    for index in whole.indexes:
        for entry in index.entries:
            if entry.base:
                _check_base(bases[entry.base], index.rank, entry)


def _check_base(base: Shelf, rank: int, entry: Entry) -> None:
    found = base.entry(rank, entry)
    if found is None or found.base or (entry.is_reference and found.digest != entry.digest):
        raise DataDamaged(f"{base.generation} does not hold the {entry.key!r} that is referred to")
