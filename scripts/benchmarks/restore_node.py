"""One node of `scripts/bench restore`: a process with the checkpoint side of an agent, which does what it is told.

It has two scratches: in the first lies what this node has saved and copied, in the second nothing, so that everything
comes from shared storage. Bytes from there are paced; see restore.py.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from ftslurm.checkpoint.arrays import Shard, sources
from ftslurm.checkpoint.pacing import Pacer
from ftslurm.checkpoint.places import Gatherer, Tally
from ftslurm.checkpoint.stage import Stage
from ftslurm.checkpoint.writer import Header, write_rank
from ftslurm.core.actions import Pair, Whereabouts
from ftslurm.core.events import Event, Part, PartSaved, RestoreReady
from ftslurm.core.manifest import Commit
from ftslurm.core.rankindex import data_name
from ftslurm.runtime.control import Channel, Credentials, Server, serve
from ftslurm.runtime.keeper import Post
from ftslurm.runtime.libsaver import LibSaver
from ftslurm.runtime.spec import AgentSpec, CheckpointSpec
from ftslurm.runtime.transfer import StoreServer

RUN = "bench-20260101-abcdef"
SAVED_S = 60.0


class NotRight(RuntimeError):
    """What was measured did not do what it should."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Which node this is, of how many, and where; `shared_rate`: bytes per second that it gets from shared storage."""

    root: Path
    rank: int
    world: int
    size_bytes: int
    shared_rate: int
    key: bytes

    @property
    def name(self) -> str:
        """The node's name."""
        return f"n{self.rank + 1}"


class Slow(LibSaver):
    """A keeper whose bytes come at a limited rate."""

    def __init__(self, post: Post, rate: int) -> None:
        super().__init__(post)
        self._pacer = Pacer(rate_limit=rate)

    def gatherer(
        self, wanted: Sequence[Whereabouts], committed: Commit | None = None, tally: Tally | None = None
    ) -> Gatherer:
        """As of any node, paced."""
        return replace(super().gatherer(wanted, committed, tally), pace=self._pacer)


class Node:
    """The node's keepers, its port, and what they have reported."""

    def __init__(self, place: Place) -> None:
        self.place, self.said = place, list[Event]()
        self.peers: Mapping[str, tuple[str, int]] = {}
        self.near = LibSaver(self._post("near"))
        self.bare = Slow(self._post("bare"), place.shared_rate)
        who = Credentials(key=place.key, run_id=RUN)
        self.store = StoreServer(who, lambda: 1, self.near.tree)
        self.store.start()
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        self.control: Server = asyncio.run_coroutine_threadsafe(
            serve(("127.0.0.1", 0), who, epoch=1, on_channel=self._on_channel), self.loop
        ).result(10)

    async def _on_channel(self, channel: Channel) -> None:
        while (await channel.recv())["t"] == "store?":
            channel.send({"t": "store", "port": self.store.port})

    def _post(self, scratch: str) -> Post:
        root = self.place.root
        (root / self.place.name / scratch).mkdir(parents=True)
        saved = CheckpointSpec(
            files=(),
            scratch=str(root / self.place.name / scratch),
            shared=str(root / "shared"),
            drain="copy",
            drain_to="",
            rate_limit=0.0,
            settle_s=1.0,
            done_marker="",
            save_on="none",
            layout="library",
        )
        spec = AgentSpec(
            run_id=RUN,
            run_dir=str(root),
            host="127.0.0.1",
            port=1,
            epoch=1,
            interface="",
            ports=(20000, 30000),
            interval_s=1.0,
            deadman_s=10.0,
            checkpoint=saved,
        )
        return Post(
            spec=spec,
            node=self.place.name,
            who=Credentials(key=self.place.key, run_id=RUN),
            report=self.said.append,
            ranks=lambda _: (),
            peers=lambda: self.peers,
        )

    # --- what it is told; each returns what is sent back

    def port(self) -> int:
        """Where the other nodes reach it."""
        return self.control.port

    def meet(self, peers: Mapping[str, tuple[str, int]]) -> None:
        """The nodes that can be asked from now on."""
        self.peers = peers

    def save(self, generation: str) -> Part:
        """Write this rank's part as a program of the library does, and let the agent find it."""
        place = self.place
        rows = place.size_bytes // place.world // 4096
        array = np.random.default_rng(place.rank).integers(0, 1 << 63, (rows, 512), np.int64)
        shard = Shard(array, place.rank * rows, (place.world * rows, 512))
        header = Header(run_id=RUN, generation=generation, world_size=place.world, rank=place.rank, host=place.name)
        self.near.begin(0, place.world)
        self.near.expect(0, frozenset({place.rank}))
        write_rank(self.near.folder / generation, Stage().fill(sources({"w": shard}, place.rank, place.world)), header)
        self.near.start()
        deadline = time.monotonic() + SAVED_S
        while not self.said and time.monotonic() < deadline:
            time.sleep(0.01)
        saved = self.said[-1] if self.said else None
        if not isinstance(saved, PartSaved):
            raise NotRight(f"{place.name} has saved nothing: {saved}")
        return saved.part

    def copy(self, generation: str, pair: Pair) -> None:
        """Take the copy of a partner's part, and drain this node's own to shared storage."""
        done = self.near.replicate(generation, pair)
        drained = self.near.drain(generation, self.place.name)
        if done.error or drained.error:
            raise NotRight(done.error or drained.error)

    def restore(self, where: Whereabouts, attempt: int, scratch: str) -> Counter[str]:
        """Bring all of it here; returns the bytes by where they came from."""
        keeper = self.near if scratch == "near" else self.bare
        told = keeper.restore((where,), where.generation, attempt)
        if not isinstance(told, RestoreReady):
            raise NotRight(str(told))
        found = Counter({name: int(size) for name, _, size in (word.partition("=") for word in told.source.split())})
        for rank in range(self.place.world):
            name = data_name(rank)
            if not (Path(told.path) / "d" / name).exists():
                path, source = keeper.fetch(where.generation, name)
                found[source] += path.stat().st_size
        return found


def serve_orders(place: Place, orders: Connection) -> None:
    """Do what comes through the pipe until it is closed; what fails is sent back as it is."""
    node = Node(place)
    while True:
        try:
            name, arguments = orders.recv()
        except EOFError:
            return
        try:
            orders.send(getattr(node, name)(*arguments))
        except Exception as error:  # noqa: BLE001 - the other end raises it
            orders.send(error)
