"""A run's folder on a node's own disk: where it is, and that it is nobody else's.

That a folder is node-local is proven, not believed. Every agent leaves a mark in it before it connects, and looks for
the marks of other nodes when it starts and when the first order comes: then all agents of the attempt have left theirs.
Who meets another node there has no scratch.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ftslurm.checkpoint.layout import ScratchPaths
from ftslurm.errors import FtslurmError
from ftslurm.paths import PRIVATE_FILE
from ftslurm.runtime.keys import private_folder
from ftslurm.slurm import env, nodeset
from ftslurm.slurm.client import SlurmClient

SHARED_FILE_SYSTEMS = frozenset(
    {"nfs", "nfs4", "lustre", "gpfs", "beegfs", "ceph", "cifs", "smb3", "afs", "panfs", "pvfs2", "wekafs", "glusterfs"}
)
LOCAL_CANDIDATES = ("SLURM_TMPDIR", "LOCAL_SCRATCH", "LOCALSCRATCH")
LOCAL_PATHS = ("/scratch", "/localscratch", "/local/scratch", "/tmp")  # noqa: S108 - a 0700 folder below is checked
KEEPS_EXTERN = (23, 2, 6)
"""From this release on a lost node does not end the extern step on the survivors, and with it their private folders."""

LOOK_S, LOOKED_UP = 1.0, 16


def scratch_paths(base: Path, run_id: str) -> ScratchPaths:
    """Make the run's folder below the site's or user's scratch, for this user alone."""
    own = base / f"ftslurm-{os.getuid()}" / "checkpoints"
    private_folder(own.parent)
    private_folder(own)
    paths = ScratchPaths.of(own, run_id)
    private_folder(paths.root)
    paths.prepare()
    return paths


def slurm_release() -> tuple[int, ...]:
    """The release of Slurm's commands on this node; empty where it cannot be told."""
    try:
        return SlurmClient().version()
    except FtslurmError:
        return ()


def scratch_of(
    wanted: str, environ: Mapping[str, str], release: Callable[[], tuple[int, ...]] = slurm_release
) -> Path | None:
    """Return the folder to use as scratch; None where there is none, or none is wanted.

    "auto" takes the first of the usual places that can be written and is not on a network file system. One that is
    private to the job (job_container/tmpfs) goes with the job: it is the last choice, and none before Slurm 23.02.6,
    where it may go with any node that the job loses (M31).
    """
    if wanted == "none":
        return None
    if wanted != "auto":
        return Path(wanted)
    named = [environ[name] for name in LOCAL_CANDIDATES if environ.get(name)]
    private = None
    for text in (*named, *LOCAL_PATHS):
        path = Path(text)
        if not (path.is_dir() and os.access(path, os.W_OK | os.X_OK)):
            continue
        mount = mount_of(path)
        if mount.kind in SHARED_FILE_SYSTEMS:
            continue
        if not mount.is_of_job(environ.get(env.JOB_ID, "")):
            return path
        private = private or path
    return private if private and release() >= KEEPS_EXTERN else None


@dataclass(frozen=True, slots=True)
class Mount:
    """A mount of this process, after proc_pid_mountinfo(5): what of its file system is seen, where, and its type."""

    root: str
    point: str
    kind: str

    def is_of_job(self, job_id: str) -> bool:
        """Whether it is a folder named after the job, as job_container/tmpfs makes them."""
        return bool(job_id) and job_id in self.root.split("/")


def mount_of(path: Path) -> Mount:
    """Return the mount that holds `path`."""
    best = Mount("", "", "")
    real = str(path.resolve())
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines():
        left, _, right = line.partition(" - ")
        root, point = (word.encode().decode("unicode_escape") for word in left.split()[3:5])
        inside = real == point or real.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best.point):
            best = Mount(root, point, right.split()[0])
    return best


def file_system_of(path: Path) -> str:
    """Return the type of the file system that holds `path`."""
    return mount_of(path).kind


# ---------------------------------------------------------------------------------------------------------- the proof


@dataclass(frozen=True, slots=True, kw_only=True)
class Marks:
    """The marks of an incarnation's nodes in a folder that should be of one of them alone."""

    folder: Path
    node: str
    incarnation: str
    others: Sequence[str] = ()

    @classmethod
    def of(cls, folder: Path, node: str, incarnation: str, environ: Mapping[str, str]) -> Marks:
        """The marks of this job; some other nodes of it are looked up by name."""
        names: list[str] = []
        with contextlib.suppress(FtslurmError):
            names = [name for name in nodeset.expand(environ.get(env.JOB_NODELIST, "")) if name != node]
        return cls(folder=folder, node=node, incarnation=incarnation, others=names[:LOOKED_UP])

    def _name(self, node: str) -> str:
        return f"node.{self.incarnation}.{node}"

    def leave(self) -> None:
        """Leave this node's mark. Raises OSError."""
        os.close(os.open(self.folder / self._name(self.node), os.O_WRONLY | os.O_CREAT, PRIVATE_FILE))

    def met(self) -> str:
        """Another node whose mark is here; empty: none is seen, or the folder does not answer in a moment.

        A list may be an old one on a network file system, a name that was never asked for is not.
        """
        found: list[str] = []

        def look() -> None:
            with contextlib.suppress(OSError):
                found.extend(name for name in self.others if (self.folder / self._name(name)).exists())
                begin = self._name("")
                here = [name.removeprefix(begin) for name in os.listdir(self.folder) if name.startswith(begin)]
                found.extend(name for name in here if name != self.node)

        thread = threading.Thread(target=look, name="marks", daemon=True)
        thread.start()
        thread.join(LOOK_S)
        return next(iter(found), "")
