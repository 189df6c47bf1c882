"""An agent's side of checkpoints that stay where the program writes them, on shared storage.

Every agent sees all files, and vouches for the processes of its own node. What all call complete is digested when the
supervisor names it: each agent its share, by sizes and nodes that all know. At a restart the nodes of the attempt read
every byte again, each its share. The program's folder is only read, unless `checkpoint: manage: true`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftslurm.core.actions import Whereabouts
from ftslurm.core.events import Event, Part, PartDrained, PartSaved, RestoreReady
from ftslurm.core.manifest import generation_name, parse_generation
from ftslurm.core.shares import shares
from ftslurm.errors import DataDamaged, FtslurmError, TryAgain
from ftslurm.runtime.keeper import Post
from ftslurm.runtime.saver import Saver

if TYPE_CHECKING:
    from ftslurm.checkpoint.groupwatch import GroupWatcher
    from ftslurm.checkpoint.inplace import Place
    from ftslurm.checkpoint.watch import StepFiles
    from ftslurm.core.manifest import Commit

log = logging.getLogger(__name__)

PATIENCE_S = 10.0
POLL_S = 0.5


class InPlace(Saver):
    """The checkpoints of one node whose program writes them to shared storage itself."""

    def __init__(self, post: Post) -> None:
        super().__init__(post)
        self._has_first_rank = False

    @property
    def folder(self) -> Path:
        """Where the program writes its checkpoints."""
        return Path(self._spec.checkpoint.folder)

    def _make_folder(self) -> None:
        """It is the program's own."""

    def _watcher_of(self, attempt: int, world_size: int) -> GroupWatcher:
        return self._group_watcher(attempt, world_size, in_place=True)

    def expect(self, attempt: int, ranks: frozenset[int]) -> None:
        """Say which ranks run here: that of the first one writes down what was seen."""
        super().expect(attempt, ranks)
        with self._lock:
            self._has_first_rank = 0 in ranks

    def end(self, attempt: int, *, clean: bool) -> None:
        """No process of the attempt is left here: after a fault nobody vouches any more.

        Nothing waits for the storage then: it may hang, and the next attempt waits for the word that they are gone.
        """
        if clean:
            super().end(attempt, clean=True)
            return
        threading.Thread(target=partial(super().end, attempt, clean=False), name="saver-end", daemon=True).start()

    # ---------------------------------------------------------------------------------------------- vouching

    def _capture(self, files: StepFiles) -> None:
        """Vouch for a checkpoint: as far as this node's processes go, it is complete."""
        from ftslurm.checkpoint.inplace import Place, write_place

        place = Place.seen(self.folder, files)
        first = self._has_first_rank
        try:
            if first:
                write_place(self._store.generation(generation_name(files.step, self._attempt)), place)
        except (FtslurmError, OSError) as error:
            log.warning("what was seen of step %d cannot be written down yet: %s", files.step, error)
            if self._watcher is not None:
                self._watcher.forget(files.step)
            return
        # What there is to digest is counted once, by the node of rank 0.
        count, size = (len(place.files), sum(place.sizes.values())) if first else (0, 0)
        part = Part(node=self._node, manifest_digest=place.digest, files=count, size_bytes=size)
        self._report(PartSaved(attempt=self._attempt, step=files.step, world_size=self._world, part=part))

    # ---------------------------------------------------------------------------------------------- digesting

    def digest(self, message: Mapping[str, Any]) -> PartDrained:
        """Digest the share of an owner, and write its manifest."""
        from ftslurm.checkpoint.capture import Author
        from ftslurm.checkpoint.inplace import Changed, digest_share
        from ftslurm.checkpoint.pacing import Pacer

        generation, owner = str(message["generation"]), str(message["owner"])
        began = time.monotonic()
        author = Author(
            run_id=self._spec.run_id,
            attempt=parse_generation(generation)[1],
            node=owner,
            world_size=int(message["world"]),
        )
        folder = self._store.generation(generation)
        try:
            place = self._place_of(generation, str(message["seen"]))
            mine = shares(place.sizes, message["among"])[owner]
            pace = Pacer(rate_limit=int(self._spec.checkpoint.rate_limit), stop=self._stop)
            manifest, digest = digest_share(place, mine, folder, author, pace)
        except Changed as error:
            return PartDrained(generation=generation, node=owner, error=str(error), damaged=True)
        except (FtslurmError, OSError) as error:
            return PartDrained(generation=generation, node=owner, error=str(error))
        took_s = time.monotonic() - began
        log.info("checkpoint %s: %d files of %d are digested", generation, len(mine), len(place.files))
        return PartDrained(generation=generation, node=owner, took_s=took_s, part=manifest.part(digest))

    def _place_of(self, generation: str, seen: str) -> Place:
        """What all nodes have agreed on; a network file system may show an older one, or none, for a while."""
        from ftslurm.checkpoint.inplace import read_place

        deadline = time.monotonic() + PATIENCE_S
        while True:
            place = read_place(self._store.generation(generation))
            if place is not None and place.digest == seen:
                return place
            if time.monotonic() >= deadline or self._stop.wait(POLL_S):
                raise TryAgain(f"what was seen of {generation} cannot be seen here yet")

    # ---------------------------------------------------------------------------------------------- handing over

    def restore(self, wanted: Sequence[Whereabouts], generation: str, attempt: int, among: Sequence[str] = ()) -> Event:
        """Read this node's share of a generation again; the other nodes of the attempt read theirs."""
        del wanted
        try:
            path, told = self._verified(generation, tuple(among) or (self._node,))
        except DataDamaged as error:
            return self._refused(generation, attempt, str(error), damaged=True)
        except (FtslurmError, OSError) as error:
            return self._refused(generation, attempt, str(error), damaged=False)
        self._restored[attempt] = str(path)
        log.info("checkpoint %s in %s: %s", generation, path, told)
        return RestoreReady(generation=generation, node=self._node, attempt=attempt, path=str(path), source=told)

    def _verified(self, generation: str, among: Sequence[str]) -> tuple[Path, str]:
        from ftslurm.checkpoint.groups import handed_over
        from ftslurm.checkpoint.inplace import check_all_named, check_share, read_place, source_of
        from ftslurm.checkpoint.store import read_files

        folder = self._store.generation(generation)
        commit = self._committed(generation)
        entries, place = read_files(folder.root, commit), read_place(folder)
        if place is not None:
            check_all_named(place, entries)
        mine = set(shares({entry.name: entry.size for entry in entries}, among).get(self._node, ()))
        size = check_share(folder, [entry for entry in entries if entry.name in mine])
        root, before = source_of(folder)
        step = parse_generation(generation)[0]
        path = handed_over(self._framework, root / before, step, frozenset(entry.name for entry in entries))
        if self._spec.checkpoint.manage and self._node == min(among) and place is not None:
            self._point_to(root, path.name, step)
        return path, f"in place={len(mine)} of {len(entries)} files read here, {size} bytes"

    def _committed(self, generation: str) -> Commit:
        """The commit of a generation, which another host may just have written."""
        from ftslurm.checkpoint.store import read_commit

        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                return read_commit(self._store.root, generation)[0]
            except FileNotFoundError:
                if time.monotonic() >= deadline or self._stop.wait(POLL_S):
                    raise

    def _point_to(self, root: Path, name: str, step: int) -> None:
        """Let a framework that reads the newest checkpoint from a file of its own find this one."""
        from ftslurm.checkpoint import tracker

        framework = self._framework
        if tracker.rewrite(root, framework, name, step, self._store.root / "replaced"):
            log.warning("%s names %s now; what it named is kept in %s", tracker.name_of(framework), name, "replaced/")
