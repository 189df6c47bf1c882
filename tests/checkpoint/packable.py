"""Parts of the library's layout as an agent has captured them: nodes with scratch, one store, known bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ftslurm.checkpoint.commit import commit_durable, prepare_store
from ftslurm.checkpoint.deltadrain import Packing, PartOut, drain_packed
from ftslurm.checkpoint.digest import digest_bytes, digests_of
from ftslurm.checkpoint.drain import Target, drain_part
from ftslurm.checkpoint.layout import GenerationPaths, ScratchPaths, StorePaths
from ftslurm.checkpoint.reader import Generation, Want
from ftslurm.checkpoint.reduction import Base
from ftslurm.checkpoint.stage import Stage
from ftslurm.checkpoint.writer import Header, WriteOptions, write_rank
from ftslurm.core.deltas import Account, Sent
from ftslurm.core.events import Part
from ftslurm.core.manifest import Commit, FileEntry, NodeManifest, generation_name
from ftslurm.core.rankindex import DTYPES, Kind, RankIndex
from tests.checkpoint.world import RUN

SLOW = Account(sent=(Sent(sent_bytes=1, took_s=1e9),))
"""A link on which packing always pays, whatever is measured beside it."""
FAST = Account(sent=(Sent(sent_bytes=1 << 60, took_s=1.0),))


@dataclass(frozen=True)
class Piece:
    """A tensor of this rank alone, as raw bytes (`ftslurm.checkpoint.stage.Source`)."""

    key: str
    dtype: str
    data: bytes
    kind: Kind = Kind.RANK

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.data) // DTYPES[self.dtype],)

    @property
    def sizes(self) -> tuple[int, ...]:
        return self.shape

    @property
    def offsets(self) -> tuple[int, ...]:
        return (0,)

    @property
    def nbytes(self) -> int:
        return len(self.data)

    memory = None

    def copy_to(self, target: memoryview) -> None:
        target[:] = self.data


State = Sequence[Piece]


def tensor(key: str, count: int, dtype: str = "float32", seed: int = 0) -> Piece:
    """Numbers as weights have them: normally distributed, of small size."""
    rng = np.random.default_rng(seed)
    values = (rng.standard_normal(count) * 0.02).astype(np.float32)
    return Piece(key, dtype, _bits(values, dtype))


def stepped(piece: Piece, seed: int = 1, size: float = 1e-4) -> Piece:
    """The tensor after a step of an optimizer like AdamW: every element has changed a little."""
    rng = np.random.default_rng(seed)
    if piece.dtype in {"float32", "bfloat16"}:
        raw = np.frombuffer(piece.data, np.uint32 if piece.dtype == "float32" else np.uint16).astype(np.uint32)
        values = (raw << (0 if piece.dtype == "float32" else 16)).view(np.float32)
        values = values - np.float32(size) * rng.uniform(-1, 1, len(values)).astype(np.float32)
        return Piece(piece.key, piece.dtype, _bits(values, piece.dtype))
    values = np.frombuffer(piece.data, f"i{DTYPES[piece.dtype]}")
    return Piece(piece.key, piece.dtype, (values + rng.integers(0, 3, len(values)).astype(values.dtype)).tobytes())


def _bits(values: np.ndarray, dtype: str) -> bytes:
    if dtype == "float32":
        return values.tobytes()
    if dtype == "bfloat16":
        return (values.view(np.uint32) >> 16).astype(np.uint16).tobytes()
    return (values * 1e6).astype(f"i{DTYPES[dtype]}").tobytes()


@dataclass
class Node:
    """One node's scratch, and the store that it drains to."""

    root: Path
    name: str = "n1"
    world_size: int = 1
    written: dict[str, list[RankIndex]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        prepare_store(self.store, RUN, 0.0)
        self.scratch.prepare()

    @property
    def store(self) -> Path:
        return self.root / "shared" / "checkpoints"

    @property
    def scratch(self) -> ScratchPaths:
        return ScratchPaths(self.root / self.name / "scratch")

    def captured(self, generation: str) -> GenerationPaths:
        return self.scratch.generation(generation)

    def packed(self, generation: str) -> GenerationPaths:
        return StorePaths(self.scratch.packed / self.name).generation(generation)

    def durable(self, generation: str) -> GenerationPaths:
        return StorePaths(self.store).generation(generation)

    def save(self, step: int, states: Mapping[int, State] | State, *, base: str = "", compression: str = "none") -> str:
        """Let the ranks of this node save, and capture it; returns the generation's name."""
        generation = generation_name(step, 0)
        folder = self.captured(generation)
        ranks = states if isinstance(states, Mapping) else {0: states}
        indexes = [
            write_rank(
                folder.data,
                Stage().fill(state),
                Header(run_id=RUN, generation=generation, world_size=self.world_size, rank=rank, host=self.name),
                base=Base(self.written[base][at]) if base else None,
                options=WriteOptions(compression=compression),
            )
            for at, (rank, state) in enumerate(ranks.items())
        ]
        files = [entry for index in indexes for entry in (index.data_file, listed(folder.data, index))]
        manifest = NodeManifest(
            run_id=RUN, generation=generation, node=self.name, world_size=self.world_size, files=tuple(files)
        )
        folder.manifests.mkdir()
        (folder.manifests / f"{self.name}.json").write_bytes(manifest.to_bytes())
        self.written[generation] = indexes
        return generation

    def drain(self, generation: str, base: str = "", account: Account = SLOW) -> PartOut:
        packing = Packing(folder=self.scratch.packed, base=base, account=account)
        return drain_packed(self.captured(generation).root, self.name, self.target, packing)

    @property
    def target(self) -> Target:
        return Target(destination=str(self.store), patience_s=0.0)

    def commit(self, generation: str, *parts: Part) -> None:
        commit = Commit(run_id=RUN, generation=generation, world_size=self.world_size, epoch=1, parts=parts)
        commit_durable(self.store, commit, patience_s=0)

    def save_durably(self, step: int, states: Mapping[int, State] | State, **how: str) -> str:
        """Save and drain as it is."""
        generation = self.save(step, states, **how)
        report = drain_part(self.captured(generation).root, self.name, self.target)
        assert report.ok, report
        manifest = NodeManifest.from_bytes((self.captured(generation).manifests / f"{self.name}.json").read_bytes())
        self.commit(generation, manifest.part(report.manifest_digest))
        return generation

    def difference(self, generation: str, base: str) -> PartOut:
        """Drain packed, and commit."""
        out = self.drain(generation, base)
        assert out.report.ok, out
        assert out.part is not None
        self.commit(generation, out.part)
        return out


def listed(folder: Path, index: RankIndex) -> FileEntry:
    """An index as the manifest lists it."""
    data = (folder / index.index_name).read_bytes()
    chunks = "".join(digests_of(memoryview(data)))
    return FileEntry(name=index.index_name, size=len(data), chunks=chunks, rank=index.rank)


def manifest_digest(folder: GenerationPaths, node: str = "n1") -> str:
    """The digest of a node's manifest, as it lies there."""
    return digest_bytes((folder.manifests / f"{node}.json").read_bytes())


def loaded(folder: GenerationPaths, pieces: State, rank: int = 0) -> dict[str, bytes]:
    """What a reader finds of these pieces in a committed generation."""
    places = {piece.key: np.zeros(piece.shape, f"V{DTYPES[piece.dtype]}") for piece in pieces}
    with Generation.open(folder) as generation:
        generation.read(
            [Want(key=key, offsets=(0,), sizes=place.shape, into=place, rank=rank) for key, place in places.items()]
        )
    return {key: place.tobytes() for key, place in places.items()}


def bytes_of(pieces: State) -> dict[str, bytes]:
    """What a reader should find."""
    return {piece.key: piece.data for piece in pieces}
