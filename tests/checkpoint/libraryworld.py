"""Checkpoints that the library wrote, of two ranks with known arrays, and a restart that reads the newest good one.

The oracle is NumPy's own arithmetic: the arrays of a step are made again from its number and compared bit by bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ftslurm.checkpoint import disk
from ftslurm.checkpoint.arrays import Own, Shard, State, sources
from ftslurm.checkpoint.background import Background
from ftslurm.checkpoint.commit import commit_durable, prepare_store
from ftslurm.checkpoint.digest import digest_bytes, digests_of
from ftslurm.checkpoint.layout import GenerationPaths, StorePaths, manifest_name
from ftslurm.checkpoint.reader import Generation, Want
from ftslurm.checkpoint.reduction import Base
from ftslurm.checkpoint.stage import Stage
from ftslurm.checkpoint.store import scan
from ftslurm.checkpoint.writer import Header, WriteOptions, write_rank
from ftslurm.core.about import About, SaveKind
from ftslurm.core.manifest import CHUNK_BYTES, Commit, FileEntry, NodeManifest, generation_name, parse_generation
from ftslurm.core.rankindex import RankIndex
from ftslurm.errors import DataDamaged

RUN = "toy-20260101-abcdef"
AT = 1_770_000_000.0
RANKS = (0, 1)
PATIENCE_S = 30.0
Arrays = dict[str, np.ndarray]


def arrays(step: int, rows: int, seed: int = 0) -> Arrays:
    """The whole state of a step. `frozen` depends on the seed alone; it and `spread` are cut unevenly over the ranks."""
    make, always = np.random.default_rng(step), np.random.default_rng(seed)
    whole = {
        "bias": make.standard_normal(33),
        "frozen": always.integers(0, 1 << 40, (rows, 64)),
        "scale": np.array(float(step), np.float32),
        "spread": make.standard_normal((2 * rows + 1, 96), np.float32),
    }
    return whole | {f"rng/{rank}": make.integers(0, 256, 2500, np.uint8) for rank in RANKS}


def objects(step: int, rank: int) -> dict[str, Any]:
    """What is no tensor."""
    return {"step": step, "rate": 1.0 / (step + 1), "betas": [0.9, 0.999], "rank": rank, "name": "é\n"}


def part_of(whole: Arrays, rank: int) -> State:
    """What one rank has."""
    cut = {}
    for key in ("frozen", "spread"):
        array = whole[key]
        border = len(array) * 2 // 3
        mine = slice(0, border) if rank == 0 else slice(border, None)
        cut[key] = Shard(array[mine], mine.start, array.shape)
    return {"bias": whole["bias"], "scale": whole["scale"], "rng": Own(whole[f"rng/{rank}"]), **cut}


def manifest(index: RankIndex, node: str) -> NodeManifest:
    """The manifest of a rank's two files."""
    data = index.to_bytes()
    entry = FileEntry(
        name=index.index_name, size=len(data), chunks="".join(digests_of(memoryview(data))), rank=index.rank
    )
    return NodeManifest(
        run_id=RUN,
        generation=index.generation,
        node=node,
        world_size=index.world_size,
        files=(index.data_file, entry),
    )


def nodes() -> list[str]:
    """Each rank its own node."""
    return [f"rank-{rank:05d}" for rank in RANKS]


@dataclass
class Library:
    """A store below `root`. `rows` sets the size: 16 makes 20 KB, 2600 makes 3.3 MB."""

    root: Path
    rows: int = 16
    seed: int = 0
    options: WriteOptions = field(default_factory=WriteOptions)

    @property
    def store(self) -> Path:
        return self.root / "checkpoints"

    def arrays(self, step: int) -> Arrays:
        """What was saved."""
        return arrays(step, self.rows, self.seed)

    def prepare(self) -> Library:
        prepare_store(self.store, RUN, AT)
        return self

    def paths(self, generation: str) -> GenerationPaths:
        return StorePaths(self.store).generation(generation)

    def write(self, paths: GenerationPaths, step: int, rank: int, base: str = "") -> RankIndex:
        """What a rank does in the background, in a thread of its own."""
        staged = Stage().fill(sources(part_of(self.arrays(step), rank), rank, len(RANKS)))
        header = Header(
            run_id=RUN,
            generation=paths.root.name,
            world_size=len(RANKS),
            rank=rank,
            host="n1",
            about=About(reason="steps", epoch=0.5, kind=SaveKind.DIFF if base else SaveKind.FULL, base=base),
            objects=objects(step, rank),
        )
        known = Base(self.index(base, rank)) if base else None
        got: list[RankIndex] = []
        background = Background(lambda result, _: got.extend([result] if result else []))
        background.submit(lambda: write_rank(paths.data, staged, header, base=known, options=self.options))
        assert background.wait(PATIENCE_S)
        if background.last_error is not None:
            raise background.last_error
        disk.make_folder(paths.manifests)
        node = nodes()[rank]
        disk.write_small(paths.root / manifest_name(node), manifest(got[0], node).to_bytes())
        return got[0]

    def index(self, generation: str, rank: int) -> RankIndex:
        return RankIndex.from_bytes((self.paths(generation).data / f"{rank:05d}.json").read_bytes())

    def commit_of(self, paths: GenerationPaths) -> Commit:
        """The commit of what lies in a folder."""
        data = [(paths.root / manifest_name(node)).read_bytes() for node in nodes()]
        return Commit(
            run_id=RUN,
            generation=paths.root.name,
            world_size=len(RANKS),
            epoch=1,
            parts=tuple(NodeManifest.from_bytes(each).part(digest_bytes(each)) for each in data),
            at=AT,
            about=RankIndex.from_bytes((paths.data / "00000.json").read_bytes()).about,
        )

    def save(self, step: int, *, base: str = "", attempt: int = 0) -> str:
        """A durable generation, written as a program without ftslurm does; returns its name."""
        paths = self.paths(generation_name(step, attempt))
        for rank in RANKS:
            self.write(paths, step, rank, base)
        commit_durable(self.store, self.commit_of(paths), patience_s=0)
        return paths.root.name

    def check(self, paths: GenerationPaths) -> None:
        """Read a generation as one new rank does. Raises DataDamaged; every other deviation is a failed assertion."""
        step = parse_generation(paths.root.name)[0]
        loaded, values = load(paths, self.arrays(step))
        assert_equal(loaded, self.arrays(step), paths.root.name)
        assert values == [objects(step, rank) for rank in RANKS]

    def newest(self, store: Path | None = None) -> tuple[str, list[str]]:
        """What a restart does: the newest that is right in every bit, and why not those that are newer."""
        store = store or self.store
        found = scan(store)
        reasons = {each.generation: each.reason for each in found.refused}
        for name in sorted({*reasons, *(each.generation for each in found.generations)}, key=parse_generation)[::-1]:
            if name not in reasons:
                try:
                    self.check(StorePaths(store).generation(name))
                except DataDamaged as error:
                    reasons[name] = str(error)
                else:
                    return name, [reason for each, reason in reasons.items() if each > name]
        return "", list(reasons.values())


def load(paths: GenerationPaths, like: Arrays) -> tuple[Arrays, list[Mapping[str, Any]]]:
    """All arrays of a generation, into fresh memory, and the objects of each rank."""
    into = {key: np.full_like(array, 77) for key, array in like.items()}
    asked = []
    for key, array in into.items():
        name, _, rank = key.partition("/")
        own = int(rank) if rank else None
        asked.append(Want(key=name, offsets=(0,) * array.ndim, sizes=array.shape, into=array, rank=own))
    with Generation.open(paths) as saved:
        saved.read(asked)
        return into, [saved.objects(rank) for rank in RANKS]


def assert_equal(found: Arrays, wanted: Arrays, why: str) -> None:
    """Bit by bit, NaN and -0.0 included."""
    for key, array in wanted.items():
        assert found[key].tobytes() == array.tobytes(), f"{why}: {key} is not what was saved"


def places(index: RankIndex) -> dict[str, set[int]]:
    """Offsets in the data file, by class."""
    entries = [entry for entry in index.entries if entry.stored]
    ends = [entry.offset + entry.stored for entry in entries]
    nexts = [*(entry.offset for entry in entries[1:]), index.size]
    padded = [(end, start) for end, start in zip(ends, nexts, strict=True) if end < start]
    borders = range(CHUNK_BYTES, index.size, CHUNK_BYTES)
    spanning = [at for at in borders for entry in entries if entry.offset < at < entry.offset + entry.stored]
    return {
        "first byte of an entry": {entry.offset for entry in entries},
        "last byte of an entry": {end - 1 for end in ends},
        "first byte of padding": {end for end, _ in padded},
        "last byte of padding": {start - 1 for _, start in padded},
        "first byte of a chunk": {0, *borders},
        "last byte of a chunk": {*(at - 1 for at in borders), index.size - 1},
        "entry that spans chunks": {*spanning, *(at - 1 for at in spanning)},
        "middle of an entry": {entry.offset + entry.stored // 2 for entry in entries},
    }
