"""An agent's side of checkpoints: watches what the program writes, keeps it on scratch, drains it, brings it back.

Everything here blocks on disks, so it runs in the agent's threads. A checkpoint counts on this node when
`checkpoint.watch` says that its files are finished and `checkpoint.capture` has digested them under a name that
nothing overwrites.
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftslurm.checkpoint.layout import ScratchPaths, StorePaths
from ftslurm.core.events import Event, PartDrained, PartPending, PartSaved, RestoreReady, RestoreRefused
from ftslurm.errors import DataDamaged, FtslurmError
from ftslurm.runtime import fence
from ftslurm.runtime.keys import private_folder

if TYPE_CHECKING:
    from ftslurm.checkpoint.watch import ScanResult, StepFiles, Watcher
    from ftslurm.checkpoint.writers import Writers
    from ftslurm.runtime.spec import AgentSpec

log = logging.getLogger(__name__)

SCAN_S = 0.25
DRAIN_PATIENCE_S = 30.0
SHARED_FILE_SYSTEMS = frozenset(
    {"nfs", "nfs4", "lustre", "gpfs", "beegfs", "ceph", "cifs", "smb3", "afs", "panfs", "pvfs2", "wekafs", "glusterfs"}
)
LOCAL_CANDIDATES = ("SLURM_TMPDIR", "LOCAL_SCRATCH", "LOCALSCRATCH")
LOCAL_PATHS = ("/scratch", "/localscratch", "/local/scratch", "/tmp")  # noqa: S108 - a 0700 folder below is checked


class Saver:
    """The checkpoints of one node."""

    def __init__(
        self, spec: AgentSpec, node: str, report: Callable[[Event], None], ranks: Callable[[int], tuple[int, ...]]
    ) -> None:
        """`report` takes events, `ranks(attempt)` gives the process ids of the attempt's ranks on this node."""
        self._spec = spec
        self._node = node
        self._report = report
        self._ranks = ranks
        self._store = StorePaths(Path(spec.checkpoint.shared))
        base = scratch_of(spec.checkpoint.scratch, os.environ)
        self._scratch = _scratch_paths(base, spec.run_id) if base is not None else None
        self._watcher: Watcher | None = None
        self._attempt = -1
        self._world = 0
        self._pending: set[int] = set()
        self._restored: dict[int, str] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="saver", daemon=True)

    @property
    def folder(self) -> Path:
        """Where the program writes its checkpoints."""
        return self._scratch.write if self._scratch else self._store.write(self._node)

    @property
    def _generations(self) -> Path:
        return self._scratch.generations if self._scratch else self._store.generations

    def restored_path(self, attempt: int) -> str:
        """Return where the attempt's verified checkpoint lies on this node; empty without one."""
        return self._restored.get(attempt, "")

    def start(self) -> None:
        """Begin to watch, where there is anything to watch for."""
        if self._spec.checkpoint.files:
            self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """Stop watching and moving."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def remove_scratch(self) -> None:
        """Delete the run's folder on this node's scratch; what it held is on shared storage."""
        if self._scratch is not None:
            shutil.rmtree(self._scratch.root, ignore_errors=True)

    # ---------------------------------------------------------------------------------------------- watching

    def begin(self, attempt: int, world_size: int) -> None:
        """Watch for an attempt's files; what lies there from before is not the attempt's."""
        from ftslurm.checkpoint.patterns import Marker, Patterns
        from ftslurm.checkpoint.watch import Rules, Watcher

        saved = self._spec.checkpoint
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not saved.files:
            return
        rules = Rules(
            patterns=Patterns.parse(saved.files),
            settle_s=saved.settle_s,
            done_marker=Marker(saved.done_marker.replace("{name}", "{file}")) if saved.done_marker else None,
        )
        with self._lock:
            if attempt == self._attempt:
                return
            if self._watcher is not None:
                self._watcher.close()
            baseline = self._baseline(attempt)
            self._watcher = Watcher(self.folder, rules, baseline)
            self._attempt, self._world, self._pending = attempt, world_size, set()

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

    def _scan(self, watcher: Watcher) -> None:
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

    # ------------------------------------------------------------------------------------------------- moving

    def drain(self, generation: str) -> PartDrained:
        """Copy this node's part to shared storage, verified."""
        from ftslurm.checkpoint.drain import Target, Transport, drain_part

        saved = self._spec.checkpoint
        source = self._generations / generation
        if self._scratch is None:
            return PartDrained(generation=generation, node=self._node)
        target = Target(
            destination=str(self._store.root),
            transport=Transport(saved.drain),
            rate_limit=int(saved.rate_limit),
            patience_s=DRAIN_PATIENCE_S,
        )
        done = drain_part(source, self._node, target, stop=self._stop)
        if done.ok and saved.drain_to:
            self._further_copy(source, generation)
        return PartDrained(generation=generation, node=self._node, took_s=done.took_s, error=done.error)

    def _further_copy(self, source: Path, generation: str) -> None:
        """Copy the part to `drain_to` as well; a failure there does not make the checkpoint less durable."""
        from ftslurm.checkpoint.drain import Target, drain_part

        saved = self._spec.checkpoint
        target = Target(destination=saved.drain_to, rate_limit=int(saved.rate_limit), patience_s=DRAIN_PATIENCE_S)
        done = drain_part(source, self._node, target, stop=self._stop)
        if not done.ok:
            log.error("checkpoint %s cannot be copied to %s: %s", generation, saved.drain_to, done.error)

    def restore(self, generation: str, attempt: int) -> Event:
        """Bring every verified byte of a durable generation to this node."""
        from ftslurm.checkpoint.restore import Sources, materialise
        from ftslurm.checkpoint.store import read_commit

        scratch = self._scratch
        sources = Sources(shared=self._store.root, own=scratch.generations if scratch else None)
        try:
            commit, _ = read_commit(self._store.root, generation)
            done = materialise(commit, sources, scratch.restores if scratch else None)
        except DataDamaged as error:
            return self._refused(generation, attempt, str(error), damaged=True)
        except (FtslurmError, OSError) as error:
            return self._refused(generation, attempt, str(error), damaged=False)
        self._restored[attempt] = str(done.path)
        return RestoreReady(
            generation=generation, node=self._node, attempt=attempt, path=str(done.path), source=str(done.source)
        )

    def _refused(self, generation: str, attempt: int, reason: str, *, damaged: bool) -> RestoreRefused:
        return RestoreRefused(generation=generation, node=self._node, attempt=attempt, reason=reason, damaged=damaged)

    def clean(self, watermark: str) -> None:
        """Let generations up to the watermark leave scratch; the newest ones stay, for a quick restore."""
        from ftslurm.checkpoint.retention import clean_scratch

        if self._scratch is not None:
            clean_scratch(self._scratch, watermark)

    def record_local(self, message: Mapping[str, Any]) -> None:
        """Note that a generation is LOCAL: all its parts lie on the nodes that the message names."""
        log.info("checkpoint %s is local on %s", message["generation"], [part["node"] for part in message["parts"]])


def _scratch_paths(base: Path, run_id: str) -> ScratchPaths:
    own = base / f"ftslurm-{os.getuid()}" / "checkpoints"
    private_folder(own.parent)
    private_folder(own)
    paths = ScratchPaths.of(own, run_id)
    private_folder(paths.root)
    paths.prepare()
    return paths


def scratch_of(wanted: str, environ: Mapping[str, str]) -> Path | None:
    """Return the node-local folder to use; None where there is none, or none is wanted.

    "auto" takes the first of the usual places that can be written and is not a network file system.
    """
    if wanted == "none":
        return None
    if wanted != "auto":
        return Path(wanted)
    named = [environ[name] for name in LOCAL_CANDIDATES if environ.get(name)]
    for text in (*named, *LOCAL_PATHS):
        path = Path(text)
        if path.is_dir() and os.access(path, os.W_OK | os.X_OK) and file_system_of(path) not in SHARED_FILE_SYSTEMS:
            return path
    return None


def file_system_of(path: Path) -> str:
    """Return the type of the file system that holds `path`, after proc_pid_mountinfo(5)."""
    best, kind = "", ""
    real = str(path.resolve())
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        point = left.split()[4].encode().decode("unicode_escape")
        inside = real == point or real.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, right.split()[0]
    return kind
