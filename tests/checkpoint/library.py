"""Checkpoints as the library writes them, without processes: each rank's save is one call."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ftslurm.checkpoint import arrays
from ftslurm.checkpoint.commit import commit_durable, prepare_store
from ftslurm.checkpoint.digest import digest_bytes, digests_of
from ftslurm.checkpoint.layout import GenerationPaths, StorePaths
from ftslurm.checkpoint.stage import Stage
from ftslurm.checkpoint.writer import Base, Header, WriteOptions, write_rank
from ftslurm.core.manifest import Commit, FileEntry, NodeManifest, generation_name
from ftslurm.core.rankindex import RankIndex

RUN = "toy-20260101-abcdef"


def header(rank: int = 0, world_size: int = 1, generation: str = "000000001-0000", **changes: Any) -> Header:
    """What a rank says of itself."""
    fields = {"run_id": RUN, "generation": generation, "world_size": world_size, "rank": rank, "host": "n1"}
    return Header(**fields | changes)


def spread(array: np.ndarray, world_size: int, axis: int = 0) -> list[arrays.Shard]:
    """The array cut into parts of uneven sizes along an axis; with more ranks than rows some have none."""
    extent = array.shape[axis]
    borders = [extent * rank // world_size for rank in range(world_size + 1)]
    shards = []
    for start, end in itertools.pairwise(borders):
        part = (slice(None),) * axis + (slice(start, end),)
        place = tuple(start if at == axis else 0 for at in range(array.ndim))
        shards.append(arrays.Shard(array[part], place, array.shape))
    return shards


def listed(path: Path, rank: int) -> FileEntry:
    """A file as a manifest lists it."""
    data = path.read_bytes()
    return FileEntry(name=path.name, size=len(data), chunks="".join(digests_of(memoryview(data))), rank=rank)


def commit_ranks(root: Path, indexes: Sequence[RankIndex]) -> Path:
    """Write the manifests, one a rank, and the commit; returns the generation's folder."""
    first = indexes[0]
    folder = StorePaths(root).generation(first.generation)
    folder.manifests.mkdir(exist_ok=True)
    parts = []
    for index in indexes:
        manifest = NodeManifest(
            run_id=first.run_id,
            generation=first.generation,
            node=f"rank-{index.rank:05d}",
            world_size=first.world_size,
            files=(index.data_file, listed(folder.data / index.index_name, index.rank)),
        )
        data = manifest.to_bytes()
        (folder.manifests / f"{manifest.node}.json").write_bytes(data)
        parts.append(manifest.part(digest_bytes(data)))
    commit = Commit(
        run_id=first.run_id, generation=first.generation, world_size=first.world_size, epoch=0, parts=tuple(parts)
    )
    commit_durable(root, commit, patience_s=0)
    return folder.root


@dataclass
class Library:
    """A store, and the ranks of a program that saves into it."""

    root: Path
    stages: dict[int, Stage] = field(default_factory=dict)
    newest: list[RankIndex] = field(default_factory=list)

    def __post_init__(self) -> None:
        prepare_store(self.root, RUN, 0.0)

    def save(
        self, step: int, states: Sequence[arrays.State], *, on_base: bool = False, compression: str = "none"
    ) -> GenerationPaths:
        """Save the state of each rank, with the save before as the base; returns the generation's folder."""
        generation = generation_name(step, 0)
        folder = StorePaths(self.root).generation(generation)
        indexes = []
        for rank, state in enumerate(states):
            stage = self.stages.setdefault(rank, Stage())
            staged = stage.fill(arrays.sources(state, rank, len(states)))
            base = Base(self.newest[rank]) if on_base else None
            head = header(rank, len(states), generation, objects={"rank": rank})
            options = WriteOptions(compression=compression)
            indexes.append(write_rank(folder.data, staged, head, base=base, options=options))
        commit_ranks(self.root, indexes)
        self.newest = indexes
        return folder
