"""A new run begins from a checkpoint of another: incremental training, fine-tuning, a second try with other settings.

The generation becomes the first one of the new store, with its step and attempt 0; where it is differential, its base
comes with it. Data files are linked, or copied where they cannot be, and every byte is verified; the small records are
written anew, since they name the run. The COMMIT says where it came from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ftslurm.checkpoint import disk
from ftslurm.checkpoint.commit import commit_durable, prepare_store
from ftslurm.checkpoint.copying import Copier
from ftslurm.checkpoint.digest import digest_bytes, digests_of
from ftslurm.checkpoint.inplace import read_place
from ftslurm.checkpoint.layout import GenerationPaths, StorePaths, manifest_name
from ftslurm.checkpoint.store import read_commit, read_manifest
from ftslurm.core.about import About, SaveKind
from ftslurm.core.manifest import Commit, FileEntry, NodeManifest, generation_name, is_generation, parse_generation
from ftslurm.core.rankindex import INDEX_LIMIT_BYTES, RankIndex, data_name, index_name
from ftslurm.errors import DataDamaged, StorageError, UsageError

if TYPE_CHECKING:
    from ftslurm.checkpoint.versions import Version
    from ftslurm.core.events import Part

_OWNER = "inherit"


@dataclass(frozen=True, slots=True, kw_only=True)
class Heir:
    """The new run: its store, and its name. `now` is wall-clock seconds."""

    root: Path
    run_id: str
    now: float


def inherit(source: Path, version: Version, heir: Heir) -> str:
    """Let the heir's store begin with a generation of `source`; returns its name there. May be repeated.

    Raises:
        UsageError: the heir's store has checkpoints of its own.
        DataDamaged: the generation is not what was written.
        StorageError: it cannot be read, or the heir's store cannot be written.
    """
    try:
        chain = _chain(source, version.commit)
        names = _names(chain)
        there = set(filter(is_generation, disk.entries_of(StorePaths(heir.root).generations)))
        if there - set(names.values()):
            raise UsageError(f"{heir.root} has checkpoints already", hint="a run begins from another only once")
        prepare_store(heir.root, heir.run_id, heir.now)
        for commit in chain:
            _bring(source, commit, heir, names)
    except FileNotFoundError as error:
        raise DataDamaged(f"{version.generation} in {source}: {error.filename} is missing") from error
    except OSError as error:
        raise StorageError(f"cannot begin from {version.generation}: {error.strerror}: {error.filename}") from error
    return names[version.generation]


def _chain(source: Path, commit: Commit) -> list[Commit]:
    """The generation, after those that it refers to."""
    chain: dict[str, Commit] = {}
    waiting = [commit]
    while waiting:
        each = waiting.pop()
        if each.generation not in chain:
            chain[each.generation] = each
            waiting += [read_commit(source, base)[0] for base in sorted(_bases(source, each))]
    return list(reversed(chain.values()))


def _bases(source: Path, commit: Commit) -> frozenset[str]:
    """What the indexes of a generation refer to."""
    folder = StorePaths(source).generation(commit.generation)
    found: frozenset[str] = frozenset()
    for part in commit.parts:
        manifest = read_manifest(folder.root, part.node, part.manifest_digest)
        for entry in filter(_is_index(manifest), manifest.files):
            found |= _index_of(folder, entry).references()
    return found


def _is_index(manifest: NodeManifest) -> Callable[[FileEntry], bool]:
    """Tell the library's indexes from files that only look like one: its data file stands beside each."""
    names = {entry.name for entry in manifest.files}

    def tell(entry: FileEntry) -> bool:
        return entry.rank is not None and entry.name == index_name(entry.rank) and data_name(entry.rank) in names

    return tell


def _index_of(folder: GenerationPaths, entry: FileEntry) -> RankIndex:
    data = disk.read_small(folder.data, entry.name, INDEX_LIMIT_BYTES)
    if "".join(digests_of(memoryview(data))) != entry.chunks:
        raise DataDamaged(f"{folder.data / entry.name} is not what was written")
    return RankIndex.from_bytes(data)


def _names(chain: list[Commit]) -> dict[str, str]:
    """What the generations are called in the new run: by their steps, with the lowest attempts."""
    names: dict[str, str] = {}
    for commit in chain:
        attempt = sum(parse_generation(each)[0] == commit.step for each in names)
        names[commit.generation] = generation_name(commit.step, attempt)
    return names


def _bring(source: Path, commit: Commit, heir: Heir, names: Mapping[str, str]) -> None:
    """One generation: data, indexes and manifests, then COMMIT."""
    here = StorePaths(source).generation(commit.generation)
    there = StorePaths(heir.root).generation(names[commit.generation])
    for folder in (there.data, there.manifests):
        disk.make_folder(folder)
    about = _about(commit, names, _bases(source, commit))
    renamed = replace(commit, run_id=heir.run_id, generation=there.root.name, about=about, at=heir.now, epoch=0)
    parts = tuple(_bring_part(here, there, part, renamed, names) for part in commit.parts)
    commit_durable(heir.root, replace(renamed, parts=parts), patience_s=0)


def _about(commit: Commit, names: Mapping[str, str], bases: frozenset[str]) -> About:
    """What is said of the save, where it came from, and what it refers to."""
    about = commit.about or About()
    base = names[min(bases)] if bases else ""
    came = f"from run {commit.run_id}, {commit.generation}"
    reason = f"{came}: {about.reason}" if about.reason else came
    kind = SaveKind.DIFF if base else SaveKind.FULL
    return replace(about, parent=commit.generation, kind=kind, base=base, reason=reason[:2000])


def _bring_part(
    here: GenerationPaths, there: GenerationPaths, part: Part, commit: Commit, names: Mapping[str, str]
) -> Part:
    """What one node has written."""
    manifest = read_manifest(here.root, part.node, part.manifest_digest)
    place = read_place(here)
    copier = Copier(source=place.folder if place else here.data, target=there.data, owner=_OWNER, durable=True)
    is_index = _is_index(manifest)
    files: list[FileEntry] = []
    for entry in manifest.files:
        if is_index(entry):
            files.append(_rewrite(here, there, entry, (commit, names)))
            continue
        if place is None:  # a program may write its own files again
            disk.link_over(here.data, there.data, entry.name)
        copier.copy(entry)
        files.append(entry)
    changed = replace(manifest, run_id=commit.run_id, generation=commit.generation, files=tuple(files))
    data = changed.to_bytes()
    disk.write_small(there.root / manifest_name(part.node), data)
    return changed.part(digest_bytes(data))


def _rewrite(
    here: GenerationPaths, there: GenerationPaths, entry: FileEntry, new: tuple[Commit, Mapping[str, str]]
) -> FileEntry:
    """A rank's index, under the new run's and generations' names."""
    commit, names = new
    index = _index_of(here, entry)
    entries = tuple(replace(each, base=names[each.base]) if each.base else each for each in index.entries)
    about = commit.about or index.about
    changed = replace(index, run_id=commit.run_id, generation=commit.generation, entries=entries, about=about)
    data = changed.to_bytes()
    disk.write_small(there.data / entry.name, data)
    return replace(entry, size=len(data), chunks="".join(digests_of(memoryview(data))))
