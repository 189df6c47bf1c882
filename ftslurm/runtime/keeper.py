"""An agent's side of checkpoints, whatever wrote them: drains them, copies a partner's, brings them back, cleans up.

Everything here blocks on disks and on other nodes, so it runs in the agent's threads. `Saver` and `LibSaver` say when
something of this node's ranks is a checkpoint.
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftslurm.checkpoint.handover import CHECKPOINT
from ftslurm.checkpoint.layout import GenerationPaths, StorePaths
from ftslurm.core.actions import Pair, Whereabouts
from ftslurm.core.events import Event, PartDrained, PartReplicated, RestoreReady, RestoreRefused, ScratchShared
from ftslurm.errors import DataDamaged, FtslurmError
from ftslurm.paths import PRIVATE_FOLDER
from ftslurm.runtime.control import Credentials
from ftslurm.runtime.drains import Drains
from ftslurm.runtime.logs import event
from ftslurm.runtime.scratch import Marks, scratch_of, scratch_paths

if TYPE_CHECKING:
    from ftslurm.checkpoint.places import Gatherer, Place, Tally
    from ftslurm.checkpoint.restore import RestoreResult
    from ftslurm.core.manifest import Commit
    from ftslurm.runtime.spec import AgentSpec

log = logging.getLogger(__name__)

KEPT = 2
"""Generations of its own, and of each partner, that a node keeps: the newest whole one, and one being made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Post:
    """Where an agent stands: its orders, its node, how it reports, and whom it can ask.

    `ranks(attempt)` gives the process ids of the attempt's ranks on this node, `peers()` the addresses of the others.
    """

    spec: AgentSpec
    node: str
    who: Credentials
    report: Callable[[Event], None]
    ranks: Callable[[int], tuple[int, ...]]
    peers: Callable[[], Mapping[str, tuple[str, int]]]


class Keeper:
    """The checkpoints of one node."""

    def __init__(self, post: Post) -> None:
        spec = post.spec
        self._post, self._spec, self._node = post, spec, post.node
        self._report, self._ranks = post.report, post.ranks
        self._store = StorePaths(Path(spec.checkpoint.shared))
        base = scratch_of(spec.checkpoint.scratch, os.environ)
        self._scratch = scratch_paths(base, spec.run_id) if base is not None else None
        if self._scratch is not None:
            self._marks = Marks.of(self._scratch.root, self._node, f"{spec.job_id}.{spec.restart}", os.environ)
            self._marks.leave()
        self._restored: dict[int, str] = {}
        self._stop = threading.Event()
        self._drains = Drains(spec.checkpoint, self._scratch.packed if self._scratch else None, self._stop)
        self.settle()

    @property
    def folder(self) -> Path:
        """Where the program writes its checkpoints."""
        return self._scratch.write if self._scratch else self._store.write(self._node)

    @property
    def has_scratch(self) -> bool:
        """Whether this node keeps checkpoints of its own."""
        return self._scratch is not None

    @property
    def _generations(self) -> Path:
        return self._scratch.generations if self._scratch else self._store.generations

    def settle(self) -> None:
        """Give up a scratch in which another node is met: it is not this node's own.

        Called before any order is obeyed: by then the agents of all nodes have left their marks.
        """
        other = self._marks.met() if self._scratch is not None else ""
        if self._scratch is None or not other:
            return
        reason = f"{self._scratch.root} is the same folder on {other}"
        log.error("this node has no scratch: %s", reason)
        self._scratch = None
        self._drains = Drains(self._spec.checkpoint, None, self._stop)
        self.folder.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
        self._report(ScratchShared(node=self._node, reason=reason))

    def restored_path(self, attempt: int) -> str:
        """Return where the attempt's verified checkpoint lies on this node; empty without one."""
        return self._restored.get(attempt, "")

    def handed(self, path: str) -> dict[str, str]:
        """Return the environment of ranks that start from the checkpoint at `path`; empty: from the beginning."""
        return {CHECKPOINT: path} if path else {}

    def start(self) -> None:
        """Begin to watch."""

    def stop(self, timeout_s: float) -> None:
        """Stop watching and moving."""
        del timeout_s
        self._stop.set()

    def remove_scratch(self) -> None:
        """Delete the run's folder on this node's scratch; what it held is on shared storage."""
        if self._scratch is not None:
            shutil.rmtree(self._scratch.root, ignore_errors=True)

    # ---------------------------------------------------------------------------------------------- the attempt

    def begin(self, attempt: int, world_size: int) -> None:
        """Watch for an attempt's files; what lies there from before is not the attempt's."""
        raise NotImplementedError

    def expect(self, attempt: int, ranks: frozenset[int]) -> None:
        """Say which ranks run here."""
        raise NotImplementedError

    def end(self, attempt: int, *, clean: bool) -> None:
        """No process of the attempt is left here: take what is finished, drop what is not."""
        raise NotImplementedError

    # ------------------------------------------------------------------------------------------------- away from here

    def tree(self, generation: str, owner: str) -> GenerationPaths | None:
        """Where this node keeps the part of an owner; None: nowhere."""
        if self._scratch is None:
            return None
        return (self._scratch if owner == self._node else self._scratch.partner(owner)).generation(generation)

    def drain(self, generation: str, owner: str, base: str = "") -> PartDrained:
        """Copy this node's part, or that of an owner who is gone, to shared storage, verified.

        `base` is the durable generation that it builds upon; "" for none.
        """
        source = self.tree(generation, owner)
        if source is None:
            return PartDrained(generation=generation, node=owner)
        return self._drains.drain(source.root, owner, base)

    # ------------------------------------------------------------------------------------------------- from elsewhere

    def replicate(self, generation: str, pair: Pair) -> PartReplicated:
        """Take a copy of another node's part; repeat it as often as you like, what is right already stays."""
        from ftslurm.checkpoint.pacing import Pacer
        from ftslurm.checkpoint.replicate import replicate

        told = PartReplicated(generation=generation, owner=pair.owner, holder=self._node)
        target = self.tree(generation, pair.owner)
        began = time.monotonic()
        try:
            if target is None:
                raise DataDamaged("this node has no scratch")
            pace = Pacer(rate_limit=int(self._spec.checkpoint.rate_limit), stop=self._stop)
            size = replicate(self._peers_of(generation, pair.owner, pair.sources), pair, target, pace)
        except (FtslurmError, OSError) as error:
            return PartReplicated(generation=generation, owner=pair.owner, holder=self._node, error=str(error))
        took_s = time.monotonic() - began
        log.info("checkpoint %s: the part of %s is here, %d bytes came", generation, pair.owner, size)
        return PartReplicated(generation=told.generation, owner=pair.owner, holder=self._node, took_s=took_s)

    def _peers_of(self, generation: str, owner: str, nodes: Sequence[str]) -> list[Place]:
        from ftslurm.checkpoint.places import Kind, Place
        from ftslurm.runtime.transfer import PeerPart

        peers = self._post.peers()
        return [
            Place(
                Kind.PEER,
                PeerPart(node=node, control=peers[node], who=self._post.who, generation=generation, owner=owner),
            )
            for node in nodes
            if node in peers
        ]

    def _near(self, generation: str, owner: str) -> list[Place]:
        """This node's copy of a part."""
        from ftslurm.checkpoint.places import Kind, Place

        here = self.tree(generation, owner)
        return [] if here is None else [Place(Kind.OWN if owner == self._node else Kind.PARTNER, here)]

    def restore(self, wanted: Sequence[Whereabouts], generation: str, attempt: int) -> Event:
        """Bring a whole generation to this node, every byte verified that the program can see."""
        began = time.monotonic()
        try:
            path, source = self._restore(wanted, generation)
        except DataDamaged as error:
            return self._refused(generation, attempt, str(error), damaged=True)
        except (FtslurmError, OSError) as error:
            return self._refused(generation, attempt, str(error), damaged=False)
        self._restored[attempt] = str(path)
        about = event("restore", well=True, took_s=time.monotonic() - began, attempt=attempt)
        log.info("checkpoint %s is at hand in %s: %s", generation, path, source, extra=about)
        return RestoreReady(generation=generation, node=self._node, attempt=attempt, path=str(path), source=source)

    def _restore(self, wanted: Sequence[Whereabouts], generation: str) -> tuple[Path, str]:
        done = self._materialise(self.commit_of(wanted, generation), wanted)
        return done.path, done.source

    def _materialise(self, commit: Commit, wanted: Sequence[Whereabouts]) -> RestoreResult:
        from ftslurm.checkpoint.restore import Sources, materialise

        scratch, holders = self._scratch, holders_of(wanted)

        def others(name: str, owner: str) -> list[Place]:
            near = self._near(name, owner) if owner != self._node else []
            return near + self._peers_of(name, owner, holders.get((name, owner), ()))

        sources = Sources(shared=self._store.root, own=scratch.generations if scratch else None, others=others)
        return materialise(commit, sources, scratch.restores if scratch else None)

    def commit_of(self, wanted: Sequence[Whereabouts], generation: str) -> Commit:
        """What the generation consists of: as the supervisor says, or as COMMIT.json on shared storage does."""
        from ftslurm.checkpoint.store import read_commit
        from ftslurm.core.manifest import Commit

        for where in wanted:
            if where.generation == generation:
                return Commit(
                    run_id=self._spec.run_id,
                    generation=generation,
                    world_size=where.world_size,
                    epoch=self._spec.epoch,
                    parts=where.parts,
                    about=where.about,
                )
        return read_commit(self._store.root, generation)[0]

    def gatherer(
        self, wanted: Sequence[Whereabouts], committed: Commit | None = None, tally: Tally | None = None
    ) -> Gatherer:
        """What brings single files together: from this node, from the nodes that hold them, from shared storage.

        `committed`: what is wanted as shared storage has it; nodes may have it otherwise.
        """
        from ftslurm.checkpoint.places import Gatherer, Kind, Place, Tally

        holders = holders_of(wanted)
        digests = {part.node: part.manifest_digest for part in committed.parts} if committed else {}

        def places(generation: str, owner: str) -> list[Place]:
            near = self._near(generation, owner)
            if committed is not None:
                near = [place for place in near if place.holds(owner, digests[owner])]
            peers = self._peers_of(generation, owner, holders.get((generation, owner), ()))
            return [*near, *peers, Place(Kind.SHARED, self._store.generation(generation))]

        quarantine = self._scratch.quarantine if self._scratch else self._store.quarantine
        return Gatherer(places=places, quarantine=quarantine, tally=tally or Tally())

    def _refused(self, generation: str, attempt: int, reason: str, *, damaged: bool) -> RestoreRefused:
        return RestoreRefused(generation=generation, node=self._node, attempt=attempt, reason=reason, damaged=damaged)

    # ------------------------------------------------------------------------------------------------- cleaning up

    def clean(self, watermark: str, keep: Sequence[str]) -> None:
        """Let generations up to the watermark leave scratch; the newest ones stay, for a quick restore."""
        from ftslurm.checkpoint.deltadrain import clean_packed
        from ftslurm.checkpoint.retention import clean_partners, clean_scratch

        if self._scratch is not None:
            # Shared storage is read again after a commit, and may need the newest part once more.
            clean_packed(self._scratch.packed, watermark, (watermark, *keep))
            clean_scratch(self._scratch, watermark, KEPT, keep)
            clean_partners(self._scratch, watermark, KEPT, keep)

    def record_local(self, message: Mapping[str, Any]) -> None:
        """Keep the record of a generation that is whole on the nodes: programs may build upon it."""
        from ftslurm.checkpoint import disk
        from ftslurm.checkpoint.store import unseal

        commit, _ = unseal(str(message["record"]).encode(), str(message["generation"]))
        log.info("checkpoint %s is local on %s", commit.generation, [part.node for part in commit.parts])
        if self._scratch is not None:
            path = self._scratch.local_records / f"{commit.generation}.json"
            disk.write_small(path, str(message["record"]).encode())


def holders_of(wanted: Sequence[Whereabouts]) -> dict[tuple[str, str], tuple[str, ...]]:
    """(generation, owner) -> the nodes that can be asked for that part."""
    return {
        (where.generation, part.node): holders
        for where in wanted
        for part, holders in zip(where.parts, where.holders, strict=True)
    }
