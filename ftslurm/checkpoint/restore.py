"""Brings a generation together on a node, every byte verified *before* the program can see it.

Each file is looked for where it costs least: what an earlier restore has left, this node's own captured copy (hard
linked, not copied), then shared storage (copied, each chunk compared before it is written). A copy that is wrong is
passed over for the next; only when no source has the right bytes is the generation damaged.

Without scratch the files are verified where they lie on shared storage, and the program gets that path.
"""

from __future__ import annotations

import errno
import os
import shutil
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ftslurm.checkpoint import disk
from ftslurm.checkpoint.copying import Copier
from ftslurm.checkpoint.digest import Pace, check_whole, quiet
from ftslurm.checkpoint.layout import GenerationPaths, StorePaths
from ftslurm.checkpoint.store import read_manifest
from ftslurm.core.manifest import FileEntry, NodeManifest, check_against, is_generation, program_path
from ftslurm.errors import DataDamaged, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from pathlib import Path

    from ftslurm.core.manifest import Commit
    from ftslurm.core.events import Part

_RETRY_S = 0.5
_OURS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})
"""Errors of the place that is written to, not of a source."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Where a generation may lie: the store on shared storage, and this node's own captured generations (`gen/`).

    `patience_s`: how long to look again for what another host has just written (NFS caches what was not there).
    """

    shared: Path | None = None
    own: Path | None = None
    patience_s: float = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreResult:
    """What the program may load: `path`, a file or a folder. `source` says how many files came from where."""

    path: Path
    size_bytes: int
    source: str
    took_s: float


def materialise(commit: Commit, sources: Sources, restores: Path | None, *, pace: Pace = quiet) -> RestoreResult:
    """Verify every byte of a generation and put it below `restores` (None: verify it in place on shared storage).

    `commit` is that of COMMIT.json, or the LOCAL record: its digests decide, not what lies in a folder.

    Raises:
        DataDamaged: no source has the right bytes; file, chunk and both digests are named.
        StorageError: a source could not be read, or scratch not written; the generation may be sound.
        TryAgain: `pace` says stop.
    """
    began = time.monotonic()
    gathering = _Gathering(commit=commit, sources=sources, restores=restores, pace=pace)
    try:
        entries = gathering.entries()
        folder = gathering.gather(entries)
    except OSError as error:
        raise StorageError(f"cannot restore {commit.generation}: {error.strerror}: {error.filename}") from error
    return RestoreResult(
        path=folder / program_path(entries, commit.step),
        size_bytes=sum(entry.size for entry in entries),
        source=" ".join(f"{name}={count}" for name, count in sorted(gathering.used.items())),
        took_s=time.monotonic() - began,
    )


def clean_restores(restores: Path, keep: Collection[str]) -> tuple[str, ...]:
    """Remove the restored generations that are not in `keep`; returns their names. Raises StorageError."""
    gone = tuple(name for name in disk.entries_of(restores) if is_generation(name) and name not in keep)
    try:
        for name in gone:
            shutil.rmtree(restores / name)
    except OSError as error:
        raise StorageError(f"cannot clean {restores}: {error.strerror}") from error
    return gone


@dataclass(slots=True, kw_only=True)
class _Gathering:
    """One generation being brought together."""

    commit: Commit
    sources: Sources
    restores: Path | None
    pace: Pace
    used: dict[str, int] = field(default_factory=dict)

    def entries(self) -> tuple[FileEntry, ...]:
        """All files of the generation, by manifests with the digests that the commit names."""
        manifests = {part.node: self._first_of(self._manifest_sources(part)) for part in self.commit.parts}
        return check_against(self.commit, manifests)
