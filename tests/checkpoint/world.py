"""A small cluster of folders: nodes with scratch, one store, and checkpoints with known bytes in it.

The oracle is the bytes that the test wrote itself, compared with what plain open() reads: no digest of ftslurm's.
"""

from __future__ import annotations

import os
import random
from dataclasses import dataclass, field
from pathlib import Path

from ftslurm.checkpoint.capture import Author, Captured, capture
from ftslurm.checkpoint.commit import commit_durable, prepare_store
from ftslurm.checkpoint.drain import Target, drain_part
from ftslurm.checkpoint.folderscan import identity_of
from ftslurm.checkpoint.layout import ScratchPaths, StorePaths
from ftslurm.checkpoint.restore import RestoreResult, Sources, materialise
from ftslurm.checkpoint.store import read_commit, scan
from ftslurm.checkpoint.watch import FoundFile, StepFiles
from ftslurm.core.manifest import Commit, generation_name
from ftslurm.errors import DataDamaged

RUN = "toy-20260101-abcdef"
AT = 1_770_000_000.0


def some_bytes(size: int, seed: int) -> bytes:
    """Bytes that are the same for the same seed."""
    return random.Random(seed).randbytes(size)


def step_files(folder: Path, step: int, names: dict[str, int | None]) -> StepFiles:
    """What the watcher would say about files (name: rank) that are finished."""
    files = []
    for name, rank in sorted(names.items()):
        identity = identity_of(folder, name)
        assert identity is not None
        files.append(FoundFile(name=name, rank=rank, identity=identity))
    return StepFiles(step=step, files=tuple(files))


@dataclass
class World:
    """Scratch folders and a store below `root`."""

    root: Path
    contents: dict[str, dict[str, bytes]] = field(default_factory=dict)

    @property
    def store(self) -> Path:
        return self.root / "shared" / "checkpoints"

    @property
    def paths(self) -> StorePaths:
        return StorePaths(self.store)

    def scratch(self, node: str) -> ScratchPaths:
        paths = ScratchPaths.of(self.root / node / "scratch", RUN)
        paths.prepare()
        return paths

    def capture(self, node: str, step: int, files: dict[str, bytes], attempt: int = 0) -> Captured:
        """Let the program on `node` write `files`, and capture them."""
        scratch = self.scratch(node)
        for name, content in files.items():
            path = scratch.write / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        found = step_files(scratch.write, step, dict.fromkeys(files))
        author = Author(run_id=RUN, attempt=attempt, node=node, world_size=2)
        self.contents.setdefault(generation_name(step, attempt), {}).update(files)
        return capture(found, scratch.write, scratch.generations, author)

    def save(self, step: int, files: dict[str, dict[str, bytes]], attempt: int = 0) -> str:
        """Make a durable generation of files by node and name; returns its name."""
        prepare_store(self.store, RUN, AT)
        captured = {node: self.capture(node, step, content, attempt) for node, content in files.items()}
        for node, part in captured.items():
            report = drain_part(part.folder, node, Target(destination=str(self.store)))
            assert report.ok, report
        commit = self.commit(step, captured, attempt)
        commit_durable(self.store, commit, patience_s=0)
        return commit.generation

    def commit(self, step: int, captured: dict[str, Captured], attempt: int = 0) -> Commit:
        return Commit(
            run_id=RUN,
            generation=generation_name(step, attempt),
            world_size=2,
            epoch=1,
            parts=tuple(part.manifest.part(part.digest) for part in captured.values()),
            at=AT,
        )

    def restore_newest(self, node: str, *, use_scratch: bool = True) -> tuple[str, RestoreResult, list[str]]:
        """What a restart does: newest first, the next older when one is refused; also returns the refusals."""
        found = scan(self.store)
        refusals = [refusal.reason for refusal in found.refused]
        scratch = self.scratch(node)
        sources = Sources(shared=self.store, own=scratch.generations if use_scratch else None, patience_s=0)
        for stored in reversed(found.generations):
            try:
                commit, _ = read_commit(self.store, stored.generation)
                return stored.generation, materialise(commit, sources, scratch.restores), refusals
            except DataDamaged as error:
                refusals.append(str(error))
        raise AssertionError(f"nothing can be restored: {refusals}")

    def assert_restored(self, generation: str, node: str) -> None:
        """The restored folder holds exactly the bytes that the test wrote."""
        folder = self.scratch(node).restore(generation)
        found = {
            os.path.relpath(Path(place) / name, folder): (Path(place) / name).read_bytes()
            for place, _, names in os.walk(folder)
            for name in names
        }
        assert found == self.contents[generation]
