"""Nodes of the library layout in one process: scratch folders, keepers, and the ports where they get parts of each other.

What ranks write is written here by hand, from bytes that the test knows: the oracle is what plain open() reads.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from ftslurm.checkpoint.digest import digest_bytes, digests_of
from ftslurm.core.about import About
from ftslurm.core.actions import Pair, Whereabouts
from ftslurm.core.events import Event, Part, PartSaved
from ftslurm.core.manifest import generation_name
from ftslurm.core.rankindex import Entry, Kind, RankIndex, aligned
from ftslurm.runtime.control import Credentials, Server, serve
from ftslurm.runtime.keeper import Post
from ftslurm.runtime.libsaver import LibSaver
from ftslurm.runtime.spec import AgentSpec, CheckpointSpec
from ftslurm.runtime.transfer import StoreServer

RUN = "toy-20260101-abcdef"
WHO = Credentials(key=bytes(range(32)), run_id=RUN)


def some_bytes(size: int, seed: int) -> bytes:
    """Bytes that are the same for the same seed."""
    return random.Random(seed).randbytes(size)


def of_rank(size: int, step: int, rank: int) -> bytes:
    """What a rank holds at a step: nothing that another one has, of a length of its own."""
    return some_bytes(size + rank, step + rank)


def write_rank(folder: Path, generation: str, rank: int, data: bytes, world: int, about: About | None = None) -> None:
    """What `ftslurm.training` writes of one rank that holds one tensor of bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    file = data + bytes(aligned(len(data)) - len(data))
    entry = Entry(
        key="w", kind=Kind.SHARDED, dtype="uint8", shape=(len(data) * world,), offsets=(len(data) * rank,),
        sizes=(len(data),), offset=0, stored=len(data), length=len(data), digest=digest_bytes(data),
    )  # fmt: skip
    index = RankIndex(
        run_id=RUN, generation=generation, world_size=world, rank=rank, host="n1", size=len(file),
        chunks="".join(digests_of(memoryview(file))), entries=(entry,), about=about or About(),
    )  # fmt: skip
    (folder / index.data_name).write_bytes(file)
    (folder / index.index_name).write_bytes(index.to_bytes())


@dataclass
class Node:
    """One node: its keeper, and its server."""

    name: str
    keeper: LibSaver
    server: StoreServer
    control: Server
    said: list[Event] = field(default_factory=list)

    @property
    def scratch(self) -> Path:
        return self.keeper.folder.parent


class Cluster:
    """Nodes, each with one rank, and a store."""

    def __init__(self, root: Path, names: tuple[str, ...] = ("n1", "n2", "n3", "n4"), **how: str) -> None:
        self.root, self.how, self.content = root, how, of_rank
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()
        self.away: set[str] = set()
        self.nodes: dict[str, Node] = {}
        for name in names:
            self.nodes[name] = self._node(name)

    @property
    def store(self) -> Path:
        return self.root / "shared"

    def _node(self, name: str) -> Node:
        saved = CheckpointSpec(
            files=(), scratch=str(self._base(name)), shared=str(self.store), drain="auto", drain_to="", rate_limit=0.0,
            settle_s=1.0, done_marker="", save_on="none", layout="library",
        )  # fmt: skip
        saved = replace(saved, **self.how)
        spec = AgentSpec(
            run_id=RUN, run_dir=str(self.root), host="127.0.0.1", port=1, epoch=1, interface="", ports=(20000, 30000),
            interval_s=1.0, deadman_s=10.0, checkpoint=saved,
        )  # fmt: skip
        said: list[Event] = []
        post = Post(spec=spec, node=name, who=WHO, report=said.append, ranks=lambda attempt: (), peers=self._peers)
        keeper = LibSaver(post)
        server = StoreServer(WHO, lambda: 1, keeper.tree)
        server.start()

        async def on_channel(channel):
            while (await channel.recv())["t"] == "store?":
                channel.send({"t": "store", "port": server.port})

        begun = serve(("127.0.0.1", 0), WHO, epoch=1, on_channel=on_channel)
        control = asyncio.run_coroutine_threadsafe(begun, self.loop).result(10)
        return Node(name, keeper, server, control, said)

    def _base(self, name: str) -> Path:
        base = self.root / name
        base.mkdir(exist_ok=True)
        return base

    def _peers(self) -> Mapping[str, tuple[str, int]]:
        return {name: ("127.0.0.1", node.control.port) for name, node in self.nodes.items() if name not in self.away}

    def kill(self, name: str) -> None:
        """The node is gone: nobody reaches it any more."""
        self.away.add(name)
        self.nodes[name].server.stop()

    def close(self) -> None:
        for node in self.nodes.values():
            node.keeper.stop(5.0)
            node.server.stop()
            asyncio.run_coroutine_threadsafe(node.control.close(), self.loop).result(10)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)
        self.loop.close()

    # --------------------------------------------------------------------------------------------------- checkpoints

    def save(self, step: int, size: int = 3 << 20, about: About | None = None) -> Whereabouts:
        """Each node's rank saves; returns the whole, as the supervisor knows it."""
        generation = generation_name(step, 0)
        parts: list[Part] = []
        for rank, (name, node) in enumerate(self.nodes.items()):
            node.keeper.begin(0, len(self.nodes))
            node.keeper.expect(0, frozenset({rank}))
            folder = node.keeper.folder / generation
            write_rank(folder, generation, rank, self.content(size, step, rank), len(self.nodes), about)
            node.keeper._scan()
            saved = node.said[-1]
            assert isinstance(saved, PartSaved), f"{name} has kept nothing"
            parts.append(saved.part)
        holders = tuple((part.node,) for part in parts)
        return Whereabouts(
            generation=generation, world_size=len(self.nodes), parts=tuple(parts), holders=holders, about=about
        )

    def copy(self, where: Whereabouts) -> Whereabouts:
        """Every part is copied to the node half a ring away; returns who holds what now."""
        names = list(self.nodes)
        holders = []
        for number, part in enumerate(where.parts):
            partner = names[(number + len(names) // 2) % len(names)]
            pair = Pair(owner=part.node, holder=partner, digest=part.manifest_digest, sources=(part.node,))
            done = self.nodes[partner].keeper.replicate(where.generation, pair)
            assert not done.error, done
            holders.append((part.node, partner))
        return replace(where, holders=tuple(holders))

    def alive(self, where: Whereabouts) -> Whereabouts:
        """Who can still be asked."""
        left = tuple(tuple(node for node in holders if node not in self.away) for holders in where.holders)
        return replace(where, holders=left)
