"""Copies what tells of the training's state to a second place: history, configuration, references, commits.

Small files only, no tensors: after the loss of shared storage one still knows what was trained, how far, and which
checkpoint held what. A path gets each file whole (written and renamed), a host by rsync. A thread of its own does it,
so nothing waits for it; a failure is said once, and so is its end.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ftslurm.checkpoint import disk, rsync
from ftslurm.checkpoint.layout import COMMIT, StorePaths
from ftslurm.core.manifest import is_generation
from ftslurm.errors import DataDamaged, FtslurmError
from ftslurm.paths import RunPaths
from ftslurm.runtime.spec import SyncSpec

log = logging.getLogger(__name__)

LIMIT_BYTES = 256 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """Files of one folder, and below which name they lie at the second place."""

    folder: Path
    names: tuple[str, ...]
    under: str


class StateSync:
    """One run's second place."""

    def __init__(self, spec: SyncSpec, paths: RunPaths, store: Path, say: Callable[[str], None]) -> None:
        self._spec, self._paths, self._store, self._say = spec, paths, store, say
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="state sync", daemon=True)
        self._trouble = ""

    def start(self) -> None:
        """Begin, where a second place is wanted."""
        if self._spec.to:
            self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """Bring the last of it over, for `timeout_s` at most, and end."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def _run(self) -> None:
        while not self._stop.wait(self._spec.every_s):
            self.once()
        self.once()

    def once(self) -> None:
        """Bring over what has changed; say what went wrong, once."""
        try:
            remote = rsync.Remote.parse(self._spec.to)
            for told in self._told():
                if remote is None:
                    _copy(told, Path(self._spec.to) / told.under)
                else:
                    to = f"{remote.address}:{remote.path}" + (f"/{told.under}" if told.under else "")
                    rsync.send(rsync.Sending(folder=told.folder, names=told.names, to=to, size_bytes=0))
        except (FtslurmError, OSError) as error:
            if not self._trouble:
                self._say(f"the training's state cannot be copied to {self._spec.to}: {error}")
            self._trouble = str(error)
            log.info("state sync: %s", error)
            return
        if self._trouble:
            self._say(f"the training's state is copied to {self._spec.to} again")
        self._trouble = ""

    def _told(self) -> tuple[Told, ...]:
        """Of the run's folder, and of the store, which may lie elsewhere; each below the run's name."""
        run, store = self._paths, StorePaths(self._store)
        history = [f"{run.run_id}/history/{name}" for name in disk.entries_of(run.history) if name.endswith(".jsonl")]
        configs = [f"{run.run_id}/{path.name}" for path in (run.config, run.resolved) if path.is_file()]
        refs = [
            f"{self._store.name}/refs/{path.relative_to(store.references)}"
            for path in sorted(store.references.rglob("*"))
            if path.is_file() and not path.is_symlink() and not path.name.endswith(".part")
        ]
        commits = [
            f"{self._store.name}/{store.generations.name}/{name}/{COMMIT}"
            for name in disk.entries_of(store.generations)
            if is_generation(name) and store.generation(name).commit.is_file()
        ]
        return (
            Told(folder=run.root.parent, names=(*configs, *history), under=""),
            Told(folder=self._store.parent, names=(*refs, *commits), under=run.run_id),
        )


def _copy(told: Told, place: Path) -> None:
    """Write what is not there yet, or is another. Raises OSError, DataDamaged."""
    for name in told.names:
        try:
            data = disk.read_small(told.folder, name, LIMIT_BYTES)
        except FileNotFoundError:
            continue  # pruned meanwhile
        target = place / name
        try:
            if disk.read_small(place, name, LIMIT_BYTES) == data:
                continue
        except (FileNotFoundError, DataDamaged):
            disk.make_folder(target.parent)
        disk.write_small(target, data)
