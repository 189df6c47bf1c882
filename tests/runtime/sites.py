"""A program that saves in place, its run's store, and the agents of three nodes, with a clock that the test turns."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field, replace
from pathlib import Path

from ftslurm.checkpoint.commit import prepare_store
from ftslurm.checkpoint.writers import Writers
from ftslurm.core.actions import CommitDurable
from ftslurm.core.events import Event, GenerationDurable, PartDrained, PartSaved
from ftslurm.core.manifest import generation_name
from ftslurm.core.retention import Rules
from ftslurm.runtime.inplace import InPlace
from ftslurm.runtime.keeper import Post
from ftslurm.runtime.spec import AgentSpec, CheckpointSpec
from ftslurm.runtime.stores import Stores
from tests.runtime.vaults import RUN, WHO, some_bytes

NODES = ("n1", "n2", "n3")
SETTLE_S = 2.0
WELL = Writers(alive=frozenset({os.getpid()}))


def digests(folder: Path) -> dict[str, tuple[str, int]]:
    """Content and time of everything below a folder."""
    return {
        str(path.relative_to(folder)): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@dataclass
class Site:
    """A program's folder, its run's store, and the agents of three nodes."""

    root: Path
    how: dict[str, object] = field(default_factory=dict)
    told: list[Event] = field(default_factory=list)
    now: float = 100.0

    def __post_init__(self) -> None:
        saved = CheckpointSpec(
            files=("step_{step}/*",), scratch="none", shared=str(self.store), drain="auto", drain_to="", rate_limit=0.0,
            settle_s=SETTLE_S, done_marker="", save_on="none", folder=str(self.folder),
        )  # fmt: skip
        self.spec = replace(saved, **self.how)  # type: ignore[arg-type]
        self.folder.mkdir(parents=True)
        prepare_store(self.store, RUN, 1.0)
        self.agents = {node: self._agent(node) for node in NODES}
        self.begin(0)

    @property
    def folder(self) -> Path:
        return self.root / "lustre/out"

    @property
    def store(self) -> Path:
        return self.root / "runs/checkpoints"

    def _agent(self, node: str) -> InPlace:
        spec = AgentSpec(
            run_id=RUN, run_dir=str(self.root), host="127.0.0.1", port=1, epoch=1, interface="", ports=(20000, 30000),
            interval_s=1.0, deadman_s=10.0, checkpoint=self.spec,
        )  # fmt: skip
        return InPlace(
            Post(spec=spec, node=node, who=WHO, report=self.told.append, ranks=lambda attempt: (), peers=dict)
        )

    def begin(self, attempt: int) -> None:
        for rank, node in enumerate(NODES):
            self.agents[node].begin(attempt, len(NODES))
            self.agents[node].expect(attempt, frozenset({rank}))

    def write(self, step: int, count: int = 4, seed: int = 0) -> dict[str, bytes]:
        folder = self.folder / f"step_{step}"
        folder.mkdir(exist_ok=True)
        written = {
            f"{number}.bin": some_bytes(1000 + number * 700_000, seed + step + number) for number in range(count)
        }
        for name, data in written.items():
            (folder / name).write_bytes(data)
        return written

    def settle(self) -> list[PartSaved]:
        """Let time pass; returns what the agents vouch for."""
        before = len(self.told)
        for _ in range(12):
            self.now += 0.5
            for agent in self.agents.values():
                assert agent._watcher is not None
                agent._take(agent._watcher.scan(self.now, WELL))
        return [event for event in self.told[before:] if isinstance(event, PartSaved)]

    def digest(self, step: int, attempt: int = 0, parts: list[PartSaved] | None = None) -> list[PartDrained]:
        parts = [event for event in self.settle() if event.step == step] if parts is None else parts
        message = {"generation": generation_name(step, attempt), "among": list(NODES), "world": 3}
        message["seen"] = parts[0].part.manifest_digest
        return [self.agents[node].digest({**message, "owner": node}) for node in NODES]

    def commit(self, step: int, attempt: int = 0, keep: int = 5) -> GenerationDurable:
        done = self.digest(step, attempt)
        return self.commit_of(step, done, attempt, keep)

    def commit_of(self, step: int, done: list[PartDrained], attempt: int = 0, keep: int = 5) -> GenerationDurable:
        side = Stores(RUN, replace(self.spec, keep=Rules(last=keep)), 1, self.told.append, lambda: True)
        parts = tuple(each.part for each in done if each.part is not None)
        assert len(parts) == len(NODES), done
        generation = generation_name(step, attempt)
        before = len(self.told)
        side.commit(CommitDurable(generation=generation, step=step, world_size=3, parts=parts))
        (durable,) = [event for event in self.told[before:] if isinstance(event, GenerationDurable)]
        return durable

    def restore(self, step: int, attempt: int = 0, among: tuple[str, ...] = NODES) -> list[Event]:
        name = generation_name(step, attempt)
        return [self.agents[node].restore((), name, attempt + 1, among) for node in among]
