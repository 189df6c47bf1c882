"""Whether the indexes of all ranks make a whole checkpoint, and the tensors that they make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ftslurm.core.about import About
from ftslurm.core.rankindex import Entry, Kind, RankIndex
from ftslurm.core.strictjson import refuse
from ftslurm.core.tiling import flaw


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """One tensor of a generation, whatever the ranks that hold it. `pieces` are (rank, entry); one if replicated."""

    key: str
    kind: Kind
    dtype: str
    shape: tuple[int, ...]
    pieces: tuple[tuple[int, Entry], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Whole:
    """All of a generation: tensors that do not depend on the number of ranks, and in `own` what each rank has alone."""

    run_id: str
    generation: str
    about: About
    indexes: tuple[RankIndex, ...]
    tensors: Mapping[str, Tensor]
    own: tuple[Mapping[str, Entry], ...]

    @property
    def world_size(self) -> int:
        """How many ranks wrote it."""
        return len(self.indexes)

    def objects(self, rank: int = 0) -> Mapping[str, Any]:
        """The values of a rank that are no tensors; those that all ranks share are in the index of rank 0."""
        return self.indexes[rank].objects

    def references(self) -> frozenset[str]:
        """The generations that must stay for this one to be whole."""
        return frozenset().union(*(index.references() for index in self.indexes))


def merge(indexes: Sequence[RankIndex]) -> Whole:
    """Put the indexes of all ranks together.

    Raises:
        DataDamaged: they are not those of one save; a rank is missing or there twice; the pieces of a tensor differ in
            type, shape or kind, leave a gap or overlap.
    """
    ordered = sorted(indexes, key=lambda index: index.rank)
    _check_same_save(ordered)
    pieces: dict[str, list[tuple[int, Entry]]] = {}
    own: list[dict[str, Entry]] = []
    for index in ordered:
        own.append({entry.key: entry for entry in index.entries if entry.kind is Kind.RANK})
        for entry in index.entries:
            if entry.kind is not Kind.RANK:
                pieces.setdefault(entry.key, []).append((index.rank, entry))
    for key in sorted(set(pieces) & set().union(*own)):
        refuse(f"{key!r} is each rank's own and a common tensor at once")
    first = ordered[0]
    return Whole(
        run_id=first.run_id,
        generation=first.generation,
        about=first.about,
        indexes=tuple(ordered),
        tensors={key: _tensor(key, pieces[key]) for key in sorted(pieces)},
        own=tuple(own),
    )


def _check_same_save(ordered: Sequence[RankIndex]) -> None:
    if not ordered:
        refuse("there is no rank's index")
    first = ordered[0]
    for index in ordered:
        told = (index.run_id, index.generation, index.world_size)
        if told != (first.run_id, first.generation, first.world_size):
            refuse(f"rank {index.rank} wrote {told}, rank {first.rank} {(first.run_id, first.generation)}")
    ranks = [index.rank for index in ordered]
    if ranks != list(range(first.world_size)):
        refuse(f"{first.generation} was written by {first.world_size} ranks, here are those of {ranks[:20]}")


def _tensor(key: str, pieces: list[tuple[int, Entry]]) -> Tensor:
    first = pieces[0][1]
    for rank, entry in pieces:
        if (entry.kind, entry.dtype, entry.shape) != (first.kind, first.dtype, first.shape):
            told = f"{entry.kind} {entry.dtype} {list(entry.shape)}"
            refuse(
                f"{key!r} is {told} on rank {rank}, {first.kind} {first.dtype} {list(first.shape)} on {pieces[0][0]}"
            )
    if first.kind is Kind.REPLICATED and len(pieces) != 1:
        refuse(f"{key!r} is replicated, but was written by the ranks {[rank for rank, _ in pieces][:20]}")
    wrong = flaw([entry.box for _, entry in pieces], first.shape)
    if wrong:
        refuse(f"{key!r} {list(first.shape)} is not whole: {wrong}")
    return Tensor(key=key, kind=first.kind, dtype=first.dtype, shape=first.shape, pieces=tuple(pieces))


def _told(entry: Entry) -> str:
    return f"{entry.kind} {entry.dtype} {list(entry.shape)}"
