"""Takes a finished step out of the program's hands: hard links, digests, and this node's manifest.

After `capture` the program may delete its files; it must not write into them again (that is found by the digests, and
this copy is then refused). Order: link, read and digest, look again, fsync the data, then the manifest, last and whole.
A capture that was cut short leaves no manifest, and so does not exist.
"""

from __future__ import annotations

import os
import shutil
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ftslurm.checkpoint import disk
from ftslurm.checkpoint.digest import Pace, chunks_of, digest_bytes, mismatches, stopper
from ftslurm.checkpoint.layout import GenerationPaths, manifest_name
from ftslurm.checkpoint.writers import is_open_for_writing
from ftslurm.core.manifest import MANIFEST_LIMIT_BYTES, FileEntry, NodeManifest, generation_name
from ftslurm.errors import DataDamaged, StorageError

if TYPE_CHECKING:
    from pathlib import Path
    from threading import Event

    from ftslurm.checkpoint.watch import FoundFile, StepFiles

_COPY_BYTES = 1 << 20
_LOOKS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Author:
    """Who wrote the files."""

    run_id: str
    attempt: int
    node: str
    world_size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Captured:
    """A part of a generation that is safe on this node; `digest` is that of the manifest's bytes."""

    manifest: NodeManifest
    digest: str
    folder: Path


def capture(
    found: StepFiles, source: Path, generations: Path, author: Author, *, stop: Event | None = None
) -> Captured:
    """Capture the files of one step, which lie in `source`, as a generation below `generations`.

    Repeating it for what was captured already returns the same again.

    Raises:
        DataDamaged: a file changed while it was captured, or is gone.
        StorageError: scratch is full or broken.
        TryAgain: `stop` was set.
    """
    name = generation_name(found.step, author.attempt)
    target = GenerationPaths(generations / name)
    try:
        earlier = _captured_before(found, target, author)
        if earlier is not None:
            return earlier
        for folder in (target.data, target.manifests):
            disk.make_folder(folder)
        return _capture(found, source, target, author, stopper(stop))
    except FileNotFoundError as error:
        raise DataDamaged(f"step {found.step}: {error.filename} is gone before it was captured") from error
    except OSError as error:
        raise StorageError(f"cannot capture step {found.step} in {target.root}: {error.strerror}") from error


def _capture(found: StepFiles, source: Path, target: GenerationPaths, author: Author, pace: Pace) -> Captured:
    entries: list[FileEntry] = []
    for file in found.files:
        _link(source, target.data, file)
        entries.append(_digest(target.data, file, pace))
    manifest = NodeManifest(
        run_id=author.run_id,
        generation=target.root.name,
        node=author.node,
        world_size=author.world_size,
        files=tuple(entries),
    )
    data = manifest.to_bytes()
    if NodeManifest.from_bytes(data) != manifest:
        raise DataDamaged(f"step {found.step}: the manifest does not survive being written")
    disk.write_small(target.root / manifest_name(author.node), data)
    return Captured(manifest=manifest, digest=digest_bytes(data), folder=target.root)


def _link(source: Path, data: Path, file: FoundFile) -> None:
    """Give the file a second name in the generation; a copy where the file system cannot.

    What lies there under this name (a capture that was cut short) is replaced.
    """
    if disk.link_over(source, data, file.name):
        return
    with disk.opened(source, file.name) as original, disk.folder_of(data, file.name) as (folder, last):
        temporary = f"{os.getpid()}-{threading.get_ident()}.copy.part"
        copy = os.open(
            temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, disk.PRIVATE_FILE, dir_fd=folder
        )
        with os.fdopen(os.dup(original), "rb") as reader, os.fdopen(copy, "wb") as writer:
            shutil.copyfileobj(reader, writer, _COPY_BYTES)
            writer.flush()
            found = os.fstat(original)
            os.utime(copy, ns=(found.st_atime_ns, found.st_mtime_ns))
        os.rename(temporary, last, src_dir_fd=folder, dst_dir_fd=folder)


def _digest(data: Path, file: FoundFile, pace: Pace) -> FileEntry:
    """Digest the captured file, and again where it was touched meanwhile; a content that changes is refused."""
    with disk.opened(data, file.name) as descriptor:
        before = os.fstat(descriptor)
        if (before.st_size, before.st_mtime_ns) != (file.identity.size, file.identity.mtime_ns):
            raise DataDamaged(f"{file.name} changed before it was captured")
        chunks = chunks_of(descriptor, before.st_size, pace)
        for _ in range(_LOOKS):
            after = os.fstat(descriptor)
            if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
                raise DataDamaged(f"{file.name} changed while it was captured")
            if after.st_ctime_ns == before.st_ctime_ns:
                break
            before = after  # its names or rights were touched, or its time was set back: only the bytes can tell
            if chunks_of(descriptor, before.st_size, pace) != chunks:
                raise DataDamaged(f"{file.name} changed while it was captured")
        if is_open_for_writing(descriptor, frozenset()):
            raise DataDamaged(f"{file.name} was opened for writing while it was captured")
        os.fsync(descriptor)
    disk.fsync_way(data, file.name)
    return FileEntry(name=file.name, size=before.st_size, chunks=chunks, rank=file.rank)


def _captured_before(found: StepFiles, target: GenerationPaths, author: Author) -> Captured | None:
    """What an earlier call for the same files has left, if it is whole."""
    try:
        data = disk.read_small(target.root, manifest_name(author.node), MANIFEST_LIMIT_BYTES)
    except FileNotFoundError:
        return None
    manifest = NodeManifest.from_bytes(data)
    listed = [(entry.name, entry.size) for entry in manifest.files]
    if listed != [(file.name, file.identity.size) for file in found.files]:
        raise DataDamaged(f"{target.root.name} was captured already, with other files")
    with disk.opened(target.root, manifest_name(author.node)) as descriptor:
        captured_ns = os.fstat(descriptor).st_mtime_ns
    for file, entry in zip(found.files, manifest.files, strict=True):
        _check_again(file, entry, target.data, captured_ns)
    return Captured(manifest=manifest, digest=digest_bytes(data), folder=target.root)


def _check_again(file: FoundFile, entry: FileEntry, data: Path, captured_ns: int) -> None:
    """The program's file is still the captured one. Its bytes are read only where its time does not prove that."""
    with disk.opened(data, file.name) as descriptor:
        captured = os.fstat(descriptor)
        same_time = captured.st_mtime_ns == file.identity.mtime_ns
        if same_time and captured.st_mtime_ns < captured_ns:
            return
        if not same_time or next(mismatches(descriptor, entry), None) is not None:
            raise DataDamaged(f"{data.parent.name} was captured already, and {file.name} was written again since")
