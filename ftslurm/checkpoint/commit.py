"""Changes what exists on shared storage: commits a generation, sets a damaged one aside, points to the newest.

COMMIT.json is written once, last, by the supervisor, after every manifest that it names was found with the digest that
the node reported and every file with its size. A crash at any moment leaves the generation committed or not, never
half.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from ftslurm.checkpoint import disk, refs
from ftslurm.checkpoint.inplace import check_all_named, check_looks, read_place
from ftslurm.checkpoint.layout import StorePaths
from ftslurm.checkpoint.store import check_sizes, read_commit, read_files, read_latest, seal, unseal
from ftslurm.core.manifest import COMMIT_LIMIT_BYTES, Commit, FileEntry, is_generation, parse_generation
from ftslurm.core.strictjson import encode
from ftslurm.errors import DataDamaged, StorageError, TryAgain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from threading import Event

RUN_FORMAT = "ftslurm-checkpoints/1"
_RETRY_S = 0.5


def prepare_store(root: Path, run_id: str, now: float) -> None:
    """Create the store's folders and RUN.json; may be repeated. `now` is wall-clock seconds.

    Raises:
        StorageError: not possible.
    """
    paths = StorePaths(root)
    try:
        for folder in (paths.generations, paths.local_records, paths.quarantine, paths.trash):
            disk.make_folder(folder)
        if not paths.run_file.exists():
            disk.write_small(paths.run_file, encode({"format": RUN_FORMAT, "run_id": run_id, "created": now}))
    except OSError as error:
        raise StorageError(f"cannot create the checkpoint store {root}: {error.strerror}") from error


def commit_durable(
    root: Path,
    commit: Commit,
    *,
    patience_s: float = 70.0,
    stop: Event | None = None,
    may_write: Callable[[], bool] = lambda: True,
) -> str:
    """Write COMMIT.json, last, after checking all that it stands for; returns the digest that names the checkpoint.

    Files that other hosts have just written may stay unseen for as long as a folder's attributes are cached (60 s by
    default: nfs(5), acdirmax), so what is missing is looked for until `patience_s` is over. Repeating a commit is
    harmless.

    Raises:
        DataDamaged: a manifest or file is not what was reported; or another commit of this name exists.
        StorageError: writing failed, or something is still missing after `patience_s`.
        TryAgain: `stop` was set, or `may_write`, asked last of all, says no: the run may belong to another supervisor.
    """
    folder = StorePaths(root).generation(commit.generation)
    data, digest = seal(commit)
    try:
        earlier = _committed_before(root, commit)
        if not earlier:
            _all_there(root, commit, patience_s, stop)
            for place in (*([] if read_place(folder) else [folder.data]), folder.manifests, folder.root):
                disk.fsync_folder(place)
            if not may_write():
                raise TryAgain(f"{commit.generation} is not committed: this supervisor may not act now")
            disk.write_small(folder.commit, data)
        for place in (folder.root, folder.root.parent):
            disk.fsync_folder(place)
    except OSError as error:
        raise StorageError(f"cannot commit {commit.generation}: {error.strerror} ({error.filename})") from error
    with contextlib.suppress(OSError):
        _write_latest(root, commit, earlier or digest)
    return earlier or digest


def _committed_before(root: Path, commit: Commit) -> str:
    """The digest of the same commit, made before; "" for none."""
    try:
        earlier, digest = read_commit(root, commit.generation)
    except FileNotFoundError:
        return ""
    if sorted(earlier.parts, key=lambda part: part.node) != sorted(commit.parts, key=lambda part: part.node):
        if read_place(StorePaths(root).generation(commit.generation)) is not None:
            return ""  # the program has written more into its folder since, and all nodes have seen it
        raise DataDamaged(f"{commit.generation} was committed before, with other parts")
    return digest


def _all_there(root: Path, commit: Commit, patience_s: float, stop: Event | None) -> tuple[FileEntry, ...]:
    """Wait until every manifest and file of the commit can be seen, and is as told."""
    folder = StorePaths(root).generation(commit.generation)
    deadline = time.monotonic() + patience_s
    while True:
        try:
            files, place = read_files(folder.root, commit), read_place(folder)
            if place is None:
                check_sizes(folder, files)
            else:
                check_all_named(place, files)
                check_looks(place)
        except FileNotFoundError:
            if time.monotonic() >= deadline:
                raise
        else:
            return files
        if stop is not None and stop.is_set():
            raise TryAgain(f"the commit of {commit.generation} was stopped")
        time.sleep(_RETRY_S)


def _write_latest(root: Path, commit: Commit, digest: str) -> None:
    """Name the newest durable generation, unless a newer one is named already."""
    earlier = read_latest(root)
    if earlier and parse_generation(earlier) > parse_generation(commit.generation):
        return
    refs.write(root, refs.Ref(name=refs.LATEST, generation=commit.generation, digest=digest, at=commit.at))


def write_local_record(root: Path, commit: Commit) -> None:
    """Let people see on shared storage that a generation is whole on the nodes. Raises StorageError."""
    path = StorePaths(root).local_records / f"{commit.generation}.json"
    try:
        disk.make_folder(path.parent)
        disk.write_small(path, seal(commit)[0])
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}") from error


def local_records(root: Path) -> Iterator[Commit]:
    """What `write_local_record` has written, as far as it can be read; oldest first."""
    folder = StorePaths(root).local_records
    names = [name.removesuffix(".json") for name in disk.entries_of(folder)]
    for name in sorted(filter(is_generation, names), key=parse_generation):
        with contextlib.suppress(OSError, DataDamaged):
            yield unseal(disk.read_small(folder, f"{name}.json", COMMIT_LIMIT_BYTES), name)[0]


def quarantine(root: Path, generation: str, reason: str, now: float) -> Path:
    """Set a generation aside, with the reason beside it; returns where it lies now. Nothing is deleted.

    `now` is wall-clock seconds. A generation that is gone already (another one set it aside) is no error.

    Raises:
        DataDamaged: not the name of a generation.
        StorageError: not possible.
    """
    parse_generation(generation)
    paths = StorePaths(root)
    try:
        disk.make_folder(paths.quarantine)
        target = paths.quarantine / generation
        count = 1
        while target.exists():
            count += 1
            target = paths.quarantine / f"{generation}.{count}"
        record = {"generation": generation, "reason": reason[:4000], "at": now}
        disk.write_small(target.with_name(f"{target.name}.json"), encode(record))
        with contextlib.suppress(FileNotFoundError):
            (paths.generations / generation).rename(target)
        disk.fsync_folder(paths.generations)
        disk.fsync_folder(paths.quarantine)
    except OSError as error:
        raise StorageError(f"cannot set {generation} aside in {paths.quarantine}: {error.strerror}") from error
    return target
