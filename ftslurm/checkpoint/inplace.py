"""Checkpoints that stay where the program wrote them, on shared storage: digested there, and read there again.

A generation of this kind has no `d/`. Its PLACE.json names the folder and every file with the identity that it had when
the nodes agreed that the checkpoint is complete; the manifests and COMMIT.json are those of any other generation. A
file whose identity differs before it is digested, after it, or when the generation is committed, is not the one that
was seen, and the generation is passed over. Nothing is ever written into the program's folder by this module.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ftslurm.checkpoint import disk
from ftslurm.checkpoint.digest import Pace, check_whole, chunks_of, digest_bytes, quiet
from ftslurm.checkpoint.layout import DATA, PLACE, GenerationPaths, manifest_name
from ftslurm.checkpoint.sealed import open_record, seal_record
from ftslurm.core.manifest import MANIFEST_LIMIT_BYTES, FileEntry, NodeManifest
from ftslurm.core.strictjson import encode, list_of, refuse, safe_name, whole
from ftslurm.errors import DataDamaged

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ftslurm.checkpoint.capture import Author
    from ftslurm.checkpoint.watch import StepFiles

_MOST = 1 << 63


class Changed(DataDamaged):
    """The program has removed or changed a file since it was seen."""


class Look(NamedTuple):
    """A file as every node sees it: two looks that are the same saw the same content, as far as a look can tell."""

    size: int
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, found: os.stat_result) -> Look:
        """From stat(2)."""
        return cls(found.st_size, found.st_mtime_ns, found.st_ino)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the files of a generation lie, and as what they were seen, by their names."""

    folder: Path
    files: dict[str, Look]

    @classmethod
    def seen(cls, folder: Path, found: StepFiles) -> Place:
        """Return what a watcher has seen."""
        looks = {
            file.name: Look(file.identity.size, file.identity.mtime_ns, file.identity.inode) for file in found.files
        }
        return cls(folder=folder, files=looks)

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of each file."""
        return {name: look.size for name, look in self.files.items()}

    @property
    def digest(self) -> str:
        """What nodes have to agree on: names and sizes, in one word."""
        return digest_bytes(encode(self.sizes))

    def to_bytes(self) -> bytes:
        """PLACE.json."""
        return seal_record(
            {"folder": str(self.folder), "files": {name: list(look) for name, look in self.files.items()}}
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Place:
        """Raises DataDamaged for anything that this module cannot have written."""
        record = open_record(data, ("folder", "files"), PLACE)
        folder, files = record["folder"], record["files"]
        if not isinstance(folder, str) or not folder.startswith("/") or "\0" in folder or not isinstance(files, dict):
            refuse(f"{PLACE} names no folder, or no files")
        return cls(folder=Path(folder), files={safe_name(name): _look(look) for name, look in files.items()})


def _look(record: object) -> Look:
    size, mtime_ns, inode = (whole(value, f"look in {PLACE}", _MOST) for value in _three(record))
    return Look(size, mtime_ns, inode)


def _three(record: object) -> Sequence[Any]:
    found = list_of(record, f"look in {PLACE}")
    if len(found) != 3:
        refuse(f"{PLACE}: a look has three numbers")
    return found


def read_place(folder: GenerationPaths) -> Place | None:
    """Where the files of a generation lie, if not in its own folder. Raises DataDamaged, OSError as `disk`."""
    try:
        return Place.from_bytes(disk.read_small(folder.root, PLACE, MANIFEST_LIMIT_BYTES))
    except FileNotFoundError:
        return None


def write_place(folder: GenerationPaths, place: Place) -> None:
    """Note what was seen; again where it has changed since."""
    data = place.to_bytes()
    disk.make_folder(folder.manifests)
    disk.write_small(folder.root / PLACE, data)


def source_of(folder: GenerationPaths) -> tuple[Path, str]:
    """A folder, and what comes before a file's name to find it below: for `disk.opened`, which follows no link."""
    place = read_place(folder)
    return (folder.root, f"{DATA}/") if place is None else (place.folder, "")


# ------------------------------------------------------------------------------------------------------- digesting


def digest_share(
    place: Place, names: Iterable[str], folder: GenerationPaths, author: Author, pace: Pace = quiet
) -> tuple[NodeManifest, str]:
    """Digest these files of a generation and write the manifest of `author.node`; returns it with its digest.

    Raises:
        Changed: a file is not the one that was seen.
        OSError: it cannot be read, or the manifest not written.
        TryAgain: `pace` says stop.
    """
    wanted = sorted(names)
    entries = [_digest(place, name, pace) for name in wanted]
    check_looks(place, wanted)
    manifest = NodeManifest(
        run_id=author.run_id,
        generation=folder.root.name,
        node=author.node,
        world_size=author.world_size,
        files=tuple(entries),
    )
    data = manifest.to_bytes()
    disk.make_folder(folder.manifests)
    disk.write_small(folder.root / manifest_name(author.node), data)
    return manifest, digest_bytes(data)


def _digest(place: Place, name: str, pace: Pace) -> FileEntry:
    try:
        with disk.opened(place.folder, name) as descriptor:
            _compare(place, name, os.fstat(descriptor))
            chunks = chunks_of(descriptor, place.files[name].size, pace)
            _compare(place, name, os.fstat(descriptor))
            os.fsync(descriptor)  # what other nodes have written was flushed when it was read
    except FileNotFoundError as error:
        raise Changed(f"{place.folder / name} is gone") from error
    return FileEntry(name=name, size=place.files[name].size, chunks=chunks)


def check_looks(place: Place, names: Iterable[str] | None = None) -> None:
    """Raise Changed unless these files (None: all) are still those that were seen. A stat alone may be a cached one."""
    for name in place.files if names is None else names:
        try:
            with disk.opened(place.folder, name) as descriptor:
                _compare(place, name, os.fstat(descriptor))
        except FileNotFoundError as error:
            raise Changed(f"{place.folder / name} is gone") from error


def _compare(place: Place, name: str, found: os.stat_result) -> None:
    wanted, now = place.files[name], Look.of(found)
    if now != wanted:
        raise Changed(f"{place.folder / name} was written again: {_words(now)}, was {_words(wanted)}")


def _words(look: Look) -> str:
    return f"{look.size} bytes at {look.mtime_ns} ns in inode {look.inode}"


def check_all_named(place: Place, files: Iterable[FileEntry]) -> None:
    """Raise Changed unless the manifests name exactly the files that were seen, each with its size."""
    named = {entry.name: entry.size for entry in files}
    if named != place.sizes:
        differ = sorted(dict(named.items() ^ place.sizes.items()))
        raise Changed(f"{place.folder / differ[0]} was written after the checkpoint was digested, or is gone")


def check_share(folder: GenerationPaths, entries: Iterable[FileEntry], pace: Pace = quiet) -> int:
    """Read every byte of these files where they lie; returns how many bytes that were.

    Raises:
        DataDamaged: a file is missing, or not what was digested.
        OSError: it cannot be read now.
    """
    root, before = source_of(folder)
    size = 0
    for entry in entries:
        try:
            with disk.opened(root, f"{before}{entry.name}") as descriptor:
                check_whole(descriptor, entry, where=str(root), pace=pace)
        except FileNotFoundError as error:
            raise DataDamaged(f"{root / entry.name} is missing") from error
        size += entry.size
    return size
