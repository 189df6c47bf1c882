"""A run's folder on a node's own disk: where it is, and that it is nobody else's."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from ftslurm.checkpoint.layout import ScratchPaths
from ftslurm.runtime.keys import private_folder

SHARED_FILE_SYSTEMS = frozenset(
    {"nfs", "nfs4", "lustre", "gpfs", "beegfs", "ceph", "cifs", "smb3", "afs", "panfs", "pvfs2", "wekafs", "glusterfs"}
)
LOCAL_CANDIDATES = ("SLURM_TMPDIR", "LOCAL_SCRATCH", "LOCALSCRATCH")
LOCAL_PATHS = ("/scratch", "/localscratch", "/local/scratch", "/tmp")  # noqa: S108 - a 0700 folder below is checked


def scratch_paths(base: Path, run_id: str) -> ScratchPaths:
    """Make the run's folder below the site's or user's scratch, for this user alone."""
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
