"""Makes a generation of the library's ready on a node: a folder that `ftslurm.training` opens (`GenerationPaths`).

It holds COMMIT.json, the manifests of all nodes, the indexes of all ranks (small), and links to those data files of
which this node has a copy; each of these is read whole, and repaired from another copy where it is wrong. Data files
of others are fetched when a rank asks for them: which rank needs what depends on the new world.

The manifests and COMMIT.json are written last: a folder without them was not finished, and is made anew.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from ftslurm.checkpoint import disk
from ftslurm.checkpoint.layout import GenerationPaths, manifest_name
from ftslurm.checkpoint.places import LOCAL, Gatherer, Kind
from ftslurm.checkpoint.store import seal
from ftslurm.core.manifest import Commit, FileEntry, NodeManifest, check_against
from ftslurm.errors import DataDamaged, StorageError


def prepare(commit: Commit, gatherer: Gatherer, restores: Path) -> GenerationPaths:
    """Make the folder below `restores`; returns it. Repeating it starts anew.

    Raises:
        DataDamaged: of something no copy is right.
        StorageError: something cannot be read now, or this node's disk not be written.
    """
    target = GenerationPaths(restores / commit.generation)
    try:
        shutil.rmtree(target.root, ignore_errors=True)
        for folder in (target.data, target.manifests):
            disk.make_folder(folder)
        found = {
            part.node: gatherer.manifest(commit.generation, part.node, part.manifest_digest) for part in commit.parts
        }
        manifests = {node: manifest for node, (_, manifest) in found.items()}
        check_against(commit, manifests)
        for owner, entry in _in_order(manifests):
            _make_ready(commit.generation, owner, entry, gatherer, target)
        for node, (data, _) in found.items():
            disk.write_small(target.root / manifest_name(node), data)
        disk.write_small(target.commit, seal(commit)[0])
    except OSError as error:
        raise StorageError(f"cannot prepare {commit.generation}: {error.strerror}: {error.filename}") from error
    return target


def _in_order(manifests: Mapping[str, NodeManifest]) -> list[tuple[str, FileEntry]]:
    return [(node, entry) for node, manifest in sorted(manifests.items()) for entry in manifest.files]


def _make_ready(generation: str, owner: str, entry: FileEntry, gatherer: Gatherer, target: GenerationPaths) -> None:
    """An index is brought from wherever it is; a data file only where this node has it, or should have."""
    if entry.name.endswith(".json"):
        gatherer.bring(generation, owner, entry, target.data)
        return
    for place in gatherer.places(generation, owner):
        if place.kind not in LOCAL or not isinstance(place.at, GenerationPaths):
            return
        if disk.is_there(place.at.data, entry.name):
            if gatherer.bring(generation, owner, entry, target.data) is not place.kind:
                _heal(place.at, entry, target)
            return


def _heal(at: GenerationPaths, entry: FileEntry, target: GenerationPaths) -> None:
    """The wrong file of this node was set aside, and a right one is at hand now: put it where the wrong one was."""
    if not disk.is_there(at.data, entry.name):
        disk.link_over(target.data, at.data, entry.name)
        disk.fsync_way(at.data, entry.name)


def fetch(folder: GenerationPaths, name: str, commit: Commit, gatherer: Gatherer) -> tuple[Path, Kind]:
    """Bring a data file into a prepared folder; returns where it lies, and where it came from.

    Raises:
        DataDamaged: there is no such file, or no copy of it is right.
        StorageError: it cannot be had now.
    """
    generation = commit.generation
    for part in commit.parts:
        manifest = gatherer.manifest(generation, part.node, part.manifest_digest)[1]
        for entry in manifest.files:
            if entry.name == name:
                kind = gatherer.bring(generation, part.node, entry, folder.data)
                return folder.data / name, kind
    raise DataDamaged(f"{generation} has no file {name!r}")
