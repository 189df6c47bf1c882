"""The supervisor's side of checkpoints: what is committed, the commit itself, and what is set aside or removed."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ftslurm.core.actions import CommitDurable, CommitLocal, Quarantine
from ftslurm.core.events import Event, GenerationDurable, StoreDiffers, StoreScanned
from ftslurm.errors import DataDamaged, FtslurmError

if TYPE_CHECKING:
    from ftslurm.core.manifest import Commit
    from ftslurm.runtime.history import History
    from ftslurm.runtime.spec import CheckpointSpec

log = logging.getLogger(__name__)

PATIENCE_S = 70.0
MANY = 3
"""From so many differences on, a base is read again as a whole: one wrong bit in it would take all of them."""


class Stores:
    """The store of one run on shared storage. All methods block on it; they run in the supervisor's pool."""

    def __init__(
        self, run_id: str, spec: CheckpointSpec, epoch: int, emit: Callable[[Event], None], may_act: Callable[[], bool]
    ) -> None:
        """`may_act` tells whether the supervisor of this epoch has authority now."""
        self._may_act = may_act
        self._run_id = run_id
        self._spec = spec
        self._root = Path(spec.shared)
        self._epoch = epoch
        self._emit = emit
        self._built_upon: Counter[str] = Counter()
        self.history: History | None = None
        """Where every checkpoint is written down, where that is wanted."""

    def scan(self, known: tuple[str, ...]) -> None:
        """Report which generations are committed; tried again until shared storage answers.

        `known` are those that the journal knows: a listing of a network file system may be a minute old.
        """
        from ftslurm.checkpoint.commit import prepare_store
        from ftslurm.checkpoint.store import scan

        while True:
            try:
                prepare_store(self._root, self._run_id, time.time())
                found = scan(self._root, known)
            except (FtslurmError, OSError) as error:
                log.warning("the checkpoints in %s cannot be read yet: %s", self._root, error)
                time.sleep(1.0)
                continue
            break
        committed = tuple((each.generation, each.commit.step, each.commit.world_size) for each in found.generations)
        refused = tuple((each.generation, each.reason) for each in found.refused if each.damaged)
        for each in found.refused:
            log.info("%s does not count: %s", each.generation, each.reason)
        self._emit(StoreScanned(generations=committed, refused=refused, abandoned=found.abandoned))

    def commit(self, action: CommitDurable) -> None:
        """Write COMMIT.json, move the references, then remove what no rule keeps."""
        from ftslurm.checkpoint import managing, retention, versions
        from ftslurm.checkpoint.commit import commit_durable
        from ftslurm.checkpoint.inplace import Changed
        from ftslurm.checkpoint.layout import StorePaths

        commit = self._commit_of(action)
        try:
            may_write = partial(self._may_commit, commit)
            digest = commit_durable(self._root, commit, patience_s=PATIENCE_S, may_write=may_write)
        except (FtslurmError, OSError) as error:
            gone = isinstance(error, Changed)
            self._emit(GenerationDurable(generation=action.generation, digest="", error=str(error), gone=gone))
            return
        try:
            metric, mode = self._spec.best_by
            versions.refresh(self._root, metric, mode)
            dropped = managing.overtaken(self._root, action.generation)
            for name in dropped:
                retention.delete(StorePaths(self._root), name)
            guarded, keep = (action.generation, *action.protected), self._spec.keep
            dropped += retention.apply(self._root, keep, guarded, now=time.time(), manage=self._spec.manage)
        except (FtslurmError, OSError) as error:
            log.warning("old checkpoints cannot be removed: %s", error)
            dropped = ()
        self._emit(GenerationDurable(generation=action.generation, digest=digest, dropped=dropped))
        if self.history is not None:
            self.history.whole(commit, "durable")
        self._read_back(commit)

    def _may_commit(self, commit: Commit) -> bool:
        """Ask, last of all, whether this supervisor may act; raises Changed where a framework calls it incomplete."""
        from ftslurm.checkpoint.frameworks.table import FRAMEWORKS
        from ftslurm.checkpoint.inplace import Changed
        from ftslurm.checkpoint.layout import StorePaths
        from ftslurm.checkpoint.tracker import together

        framework = FRAMEWORKS.get(self._spec.layout)
        if framework is not None and not self._spec.in_place:
            try:
                data = StorePaths(self._root).generation(commit.generation).data
                together(framework, data, commit.step, commit.world_size)
            except DataDamaged as error:
                raise Changed(str(error)) from error
        return self._may_act()

    def _read_back(self, commit: Commit) -> None:
        """Look again at what was committed: at some of it, and at all of a base that many build upon."""
        from ftslurm.checkpoint import readback
        from ftslurm.checkpoint.pacing import Pacer

        base = commit.about.base if commit.about else ""
        try:
            self._tell_of(commit.generation, readback.sample(self._root, commit))
            if base:
                self._built_upon[base] += 1
                if self._built_upon[base] == MANY:
                    pace = Pacer(rate_limit=int(self._spec.rate_limit))
                    self._tell_of(base, readback.scrub(self._root, base, pace))
        except (FtslurmError, OSError) as error:
            log.warning("checkpoint %s cannot be read again now: %s", commit.generation, error)

    def _tell_of(self, generation: str, wrong: str) -> None:
        if wrong:
            log.error("checkpoint %s, read again, is not what was written: %s", generation, wrong)
            self._emit(StoreDiffers(generation=generation, reason=wrong))

    def local_message(self, action: CommitLocal) -> dict[str, str]:
        """What agents are told of a generation that is whole on the nodes: its sealed record."""
        from ftslurm.checkpoint.store import seal

        record = seal(self._commit_of(action))[0].decode()
        return {"t": "local", "generation": action.generation, "record": record}

    def note_local(self, action: CommitLocal) -> None:
        """Let `ftslurm checkpoint ls` see that a generation is whole on the nodes."""
        from ftslurm.checkpoint.commit import write_local_record

        commit = self._commit_of(action)
        if self.history is not None:
            self.history.whole(commit, "local")
        try:
            write_local_record(self._root, commit)
        except FtslurmError as error:
            log.info("the record of %s cannot be written: %s", action.generation, error)

    def _commit_of(self, action: CommitDurable | CommitLocal) -> Commit:
        from ftslurm.core.manifest import Commit

        return Commit(
            run_id=self._run_id,
            generation=action.generation,
            world_size=action.world_size,
            epoch=self._epoch,
            parts=action.parts,
            at=time.time(),
            about=action.about,
        )

    def set_aside(self, action: Quarantine) -> None:
        """Move a damaged generation out of the way; nothing is deleted."""
        from ftslurm.checkpoint import managing
        from ftslurm.checkpoint.commit import quarantine

        if self.history is not None:
            self.history.changed(action.generation, "damaged", action.reason)
        if self._spec.manage:
            managing.set_aside(self._root, action.generation)
        quarantine(self._root, action.generation, action.reason, time.time())
