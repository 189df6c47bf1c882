"""Brings a generation together on a node, every byte verified *before* the program can see it.

Each file is looked for where it costs least: what an earlier restore has left, this node's own captured copy or its
copy of a partner's (hard linked, not copied), other nodes that hold the part, then shared storage (copied, each chunk
compared before it is written). A copy that is wrong is passed over for the next; only when no source has the right
bytes is the generation damaged.

Without scratch the files are verified where they lie on shared storage, and the program gets that path.
"""

from __future__ import annotations

import errno
import os
import shutil
import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from ftslurm.checkpoint import disk
from ftslurm.checkpoint.copying import Copier, Remote
from ftslurm.checkpoint.digest import Pace, check_whole, quiet
from ftslurm.checkpoint.layout import GenerationPaths, StorePaths
from ftslurm.checkpoint.places import Kind, Place, Places
from ftslurm.core.manifest import FileEntry, NodeManifest, check_against, is_generation, program_path
from ftslurm.errors import DataDamaged, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from pathlib import Path

    from ftslurm.core.events import Part
    from ftslurm.core.manifest import Commit

T = TypeVar("T")

_RETRY_S = 0.5
LINKED = (Kind.OWN, Kind.PARTNER)
_OURS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})
"""Errors of the place that is written to, not of a source."""


def _nowhere(generation: str, owner: str) -> tuple[Place, ...]:
    del generation, owner
    return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Where a generation may lie: the store on shared storage, and this node's own captured generations (`gen/`).

    `others`: further places of one owner's part, asked after the own one: partners' copies and other nodes.
    `patience_s`: how long to look again for what another host has just written (NFS caches what was not there).
    """

    shared: Path | None = None
    own: Path | None = None
    others: Places = _nowhere
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
    owners: dict[str, list[str]] = field(default_factory=dict)

    def entries(self) -> tuple[FileEntry, ...]:
        """All files of the generation, by manifests with the digests that the commit names."""
        manifests: dict[str, NodeManifest] = {}
        for part in self.commit.parts:
            what = f"the manifest of {part.node}"
            manifests[part.node] = self._first_of(what, self._manifest_sources(part))
            for entry in manifests[part.node].files:
                self.owners.setdefault(entry.name, []).append(part.node)
        return check_against(self.commit, manifests)

    def gather(self, entries: tuple[FileEntry, ...]) -> Path:
        """Verify every file; returns the folder that holds them all."""
        self.used.clear()
        if self.restores is None:
            return self._in_place(entries)
        folder = self.restores / self.commit.generation
        disk.make_folder(folder)
        _remove_strays(folder, {entry.name for entry in entries})
        for entry in entries:
            self._first_of(entry.name, self._file_sources(entry, folder))
        return folder

    def _in_place(self, entries: tuple[FileEntry, ...]) -> Path:
        if self.sources.shared is None:
            raise StorageError(f"{self.commit.generation}: there is neither scratch nor shared storage to restore from")
        data = StorePaths(self.sources.shared).generation(self.commit.generation).data
        for entry in entries:
            self._first_of(entry.name, {"shared": partial(self._check, data, entry)})
        return data

    def _manifest_sources(self, part: Part) -> dict[str, Callable[[], NodeManifest]]:
        places = self._places((part.node,))
        return {name: partial(self._manifest, place, part) for name, place in places.items()}

    def _manifest(self, place: Place, part: Part) -> NodeManifest:
        return place.manifest(part.node, part.manifest_digest)[1]

    def _file_sources(self, entry: FileEntry, folder: Path) -> dict[str, Callable[[], None]]:
        """Where one file may come from, the cheapest first."""
        ways: dict[str, Callable[[], None]] = {"kept": partial(self._check, folder, entry)}
        for name, place in self._places(self.owners[entry.name]).items():
            if place.kind in LINKED and isinstance(place.at, GenerationPaths):
                ways[name] = partial(self._link, place.at.data, folder, entry)
            else:
                ways[name] = partial(self._copy, place.source, folder, entry)
        return ways

    def _places(self, owners: Sequence[str]) -> dict[str, Place]:
        """By the name under which they are counted; further nodes of one kind have numbers."""
        generation, sources = self.commit.generation, self.sources
        places = {}
        if sources.own is not None:
            places["scratch"] = Place(Kind.OWN, GenerationPaths(sources.own / generation))
        others = [place for owner in owners for place in sources.others(generation, owner)]
        for number, place in enumerate(others):
            places[f"{place.kind}:{number}"] = place
        if sources.shared is not None:
            places["shared"] = Place(Kind.SHARED, StorePaths(sources.shared).generation(generation))
        return places

    def _check(self, folder: Path, entry: FileEntry) -> None:
        with disk.opened(folder, entry.name) as descriptor:
            check_whole(descriptor, entry, where=str(folder), pace=self.pace)

    def _link(self, data: Path, folder: Path, entry: FileEntry) -> None:
        """Verify this node's own copy and give it a second name; a copy where the file system cannot."""
        self._check(data, entry)
        if not disk.link_over(data, folder, entry.name):
            self._copy(data, folder, entry)

    def _copy(self, data: Path | Remote, folder: Path, entry: FileEntry) -> None:
        Copier(source=data, target=folder, owner="restore", durable=False, pace=self.pace).bring(entry)

    def _first_of(self, what: str, ways: Mapping[str, Callable[[], T]]) -> T:
        """The result of the first way that works; what is not there yet is looked for until patience is over."""
        deadline = time.monotonic() + self.sources.patience_s
        while True:
            problems: list[str] = []
            errors: list[str] = []
            missing = False
            for name, way in ways.items():
                try:
                    result = way()
                except FileNotFoundError:
                    missing = missing or name == "shared"
                except DataDamaged as error:
                    problems.append(str(error))
                except OSError as error:
                    if error.errno in _OURS:
                        raise
                    errors.append(f"{name}: {error.strerror}: {error.filename}")
                else:
                    kind = name.partition(":")[0]
                    self.used[kind] = self.used.get(kind, 0) + 1
                    return result
            if not missing or time.monotonic() >= deadline:
                break
            time.sleep(_RETRY_S)
        told = "; ".join(problems + errors) or "it is missing in every place"
        raised = StorageError if errors else DataDamaged
        raise raised(f"{self.commit.generation}: {what}: {told}")


def _remove_strays(folder: Path, wanted: Collection[str]) -> None:
    """Remove what an earlier program or a killed restore has left in the folder; links are not followed."""
    for place, _, names in os.walk(folder):
        for path in (folder / place / name for name in names):
            if str(path.relative_to(folder)) not in wanted:
                path.unlink()
