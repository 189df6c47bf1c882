"""An agent's watch over what programs and frameworks write: it counts when it is finished, and digested.

A checkpoint counts on this node when `checkpoint.watch` (or, for frameworks, `checkpoint.groupwatch`) says that its
files are finished and `checkpoint.capture` has digested them under a name that nothing overwrites. What happens to it
then is in `runtime.keeper`.
"""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ftslurm.checkpoint.handover import CHECKPOINT, CHECKPOINT_TAG
from ftslurm.core.events import PartPending, PartSaved
from ftslurm.core.manifest import parse_generation
from ftslurm.errors import FtslurmError
from ftslurm.runtime import fence
from ftslurm.runtime.keeper import Keeper, Post

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ftslurm.checkpoint.frameworks.framework import Framework
    from ftslurm.checkpoint.groupwatch import GroupWatcher
    from ftslurm.checkpoint.watch import ScanResult, StepFiles, Watcher
    from ftslurm.checkpoint.writers import Writers
    from ftslurm.core.actions import Whereabouts

log = logging.getLogger(__name__)

SCAN_S = 0.25
FILES = "files"


class Saver(Keeper):
    """The checkpoints of one node, of programs that write files as they like."""

    def __init__(self, post: Post) -> None:
        super().__init__(post)
        self._watcher: Watcher | GroupWatcher | None = None
        self._attempt = -1
        self._world = 0
        self._pending: set[int] = set()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._watch, name="saver", daemon=True)

    def start(self) -> None:
        """Begin to watch, where there is anything to watch for."""
        super().start()
        if self._spec.checkpoint.is_watched:
            self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """Stop watching and moving."""
        super().stop(timeout_s)
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    # ---------------------------------------------------------------------------------------------- watching

    def begin(self, attempt: int, world_size: int) -> None:
        """Watch for an attempt's files; what lies there from before is not the attempt's."""
        self._make_folder()
        if not self._spec.checkpoint.is_watched:
            return
        with self._lock:
            if attempt <= self._attempt:
                return
            if self._watcher is not None:
                self._watcher.close()
            self._watcher = self._watcher_of(attempt, world_size)
            self._attempt, self._world, self._pending = attempt, world_size, set()

    def _make_folder(self) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def _watcher_of(self, attempt: int, world_size: int) -> Watcher | GroupWatcher:
        from ftslurm.checkpoint.patterns import Marker, Patterns
        from ftslurm.checkpoint.watch import Rules, Watcher

        saved = self._spec.checkpoint
        if saved.layout != FILES:
            return self._group_watcher(attempt, world_size, in_place=False)
        rules = Rules(
            patterns=Patterns.parse(saved.files),
            settle_s=saved.settle_s,
            done_marker=Marker(saved.done_marker.replace("{name}", "{file}")) if saved.done_marker else None,
        )
        return Watcher(self.folder, rules, self._baseline(attempt))

    def _group_watcher(self, attempt: int, world_size: int, *, in_place: bool) -> GroupWatcher:
        from ftslurm.checkpoint.groupwatch import GroupRules, GroupWatcher

        saved = self._spec.checkpoint
        rules = GroupRules(
            framework=self._framework,
            settle_s=saved.settle_s,
            world=world_size,
            also=saved.also,
            once=not in_place,
            shared=in_place,
        )
        return GroupWatcher(self.folder, rules, self._baseline(attempt))

    @property
    def _framework(self) -> Framework:
        from ftslurm.checkpoint.groups import framework_of

        saved = self._spec.checkpoint
        return framework_of(saved.layout, saved.files, saved.done_marker)

    def expect(self, attempt: int, ranks: frozenset[int]) -> None:
        """Say which ranks run here, for patterns that name the rank."""
        with self._lock:
            if self._watcher is not None and attempt == self._attempt:
                self._watcher.expect(ranks)

    def _baseline(self, attempt: int) -> Path:
        if self._scratch:
            return self._scratch.baseline(attempt)
        return self._store.write(self._node).with_name(f".{self._node}-baseline-{attempt}.json")

    def end(self, attempt: int, *, clean: bool) -> None:
        """No process of the attempt is left here: take what is finished, drop what is not."""
        with self._lock:
            if self._watcher is None or attempt != self._attempt:
                return
            self._take(self._watcher.attempt_ended(time.monotonic(), clean=clean))
            self._watcher.close()
            self._watcher = None

    def _watch(self) -> None:
        while not self._stop.wait(SCAN_S):
            with self._lock:
                if self._watcher is not None:
                    self._scan(self._watcher)

    def _scan(self, watcher: Watcher | GroupWatcher) -> None:
        try:
            self._take(watcher.scan(time.monotonic(), self._writers))
        except OSError as error:
            log.warning("the checkpoint folder %s cannot be read: %s", self.folder, error)

    def _writers(self) -> Writers:
        from ftslurm.checkpoint.writers import look

        attempt = self._attempt
        return look(self._ranks(attempt), fence.writers(self._spec.run_id, attempt).alive)

    def _take(self, found: ScanResult) -> None:
        for name, reason in found.refused:
            log.warning("%s does not count as a checkpoint: %s", name, reason)
        complete = {each.step for each in found.complete}
        for step in sorted(set(found.pending) - self._pending):
            self._report(PartPending(attempt=self._attempt, step=step, node=self._node))
        for files in found.complete:
            self._capture(files)
        for step in sorted(self._pending - set(found.pending) - complete):
            self._report(PartPending(attempt=self._attempt, step=step, node=self._node, gone=True))
        self._pending = set(found.pending)

    def _capture(self, files: StepFiles) -> None:
        from ftslurm.checkpoint.capture import Author, capture

        author = Author(run_id=self._spec.run_id, attempt=self._attempt, node=self._node, world_size=self._world)
        try:
            captured = capture(files, self.folder, self._generations, author)
        except FtslurmError as error:
            log.warning("step %d cannot be kept: %s", files.step, error)
            if self._watcher is not None:
                self._watcher.forget(files.step)
            self._report(PartPending(attempt=self._attempt, step=files.step, node=self._node, gone=True))
            return
        self._report(
            PartSaved(
                attempt=self._attempt,
                step=files.step,
                world_size=self._world,
                part=captured.manifest.part(captured.digest),
            )
        )

    # ---------------------------------------------------------------------------------------------- handing over

    def _restore(self, wanted: Sequence[Whereabouts], generation: str) -> tuple[Path, str]:
        path, source = super()._restore(wanted, generation)
        if self._spec.checkpoint.layout == FILES:
            return path, source
        from ftslurm.checkpoint.tracker import together

        root = self._scratch.restore(generation) if self._scratch else self._store.generation(generation).data
        world = self.commit_of(wanted, generation).world_size
        return together(self._framework, root, parse_generation(generation)[0], world), source

    def handed(self, path: str) -> dict[str, str]:
        """Return the environment of ranks that start from the checkpoint at `path`: its path, or folder and tag."""
        if self._spec.checkpoint.layout == FILES or not path:
            return super().handed(path)
        if self._framework.restore_by == "path":
            return super().handed(path)
        found = Path(path)
        return {CHECKPOINT: str(found.parent), CHECKPOINT_TAG: found.name}
