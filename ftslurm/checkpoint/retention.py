"""What may be deleted, and in which order, so that a crash in between never leaves a half checkpoint that looks whole.

On shared storage: COMMIT.json first (from then on the generation does not exist), then the folder goes to `trash/`,
then its content. Only durable generations count (`ftslurm.core.retention` says which stay), by number, never by text.
What has a reference is never touched, nor what the caller protects: generations on their way, or being restored.
Damaged ones are not deleted here: they are set aside (`commit.quarantine`). One process at a time deletes: the
supervisor of a run that is alive, or a person's command where none is.

On scratch the supervisor's watermark decides: a generation at or below it is durable or superseded by one that is.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from ftslurm.checkpoint import disk, managing, refs
from ftslurm.checkpoint.digest import mismatches
from ftslurm.checkpoint.layout import MANIFESTS, GenerationPaths, ScratchPaths, StorePaths
from ftslurm.checkpoint.rollback import read_rollbacks
from ftslurm.checkpoint.store import read_commit, unseal
from ftslurm.core.branches import is_live
from ftslurm.core.manifest import (
    COMMIT_LIMIT_BYTES,
    MANIFEST_LIMIT_BYTES,
    Commit,
    NodeManifest,
    is_generation,
    parse_generation,
)
from ftslurm.core.retention import Kept, Rules, stay
from ftslurm.errors import DataDamaged, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from pathlib import Path

    from ftslurm.core.manifest import FileEntry


class State(StrEnum):
    """What a generation without a usable commit is."""

    UNFINISHED = "unfinished"
    DAMAGED = "damaged"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruning:
    """What stays, by generation, with the reason; and what goes, oldest first. `freed_bytes` are those that go."""

    stay: Mapping[str, str]
    go: tuple[str, ...]
    freed_bytes: int = 0


def foresee(root: Path, rules: Rules, protected: Collection[str], now: float) -> Pruning:
    """Say what `apply` would delete. `now` is wall-clock seconds.

    What was never committed and is older than the newest durable generation goes with the durable ones that no rule
    keeps, unless protected.

    Raises:
        DataDamaged: a tag, or the record of rollbacks, is damaged: nobody knows what it protects.
        StorageError: the store cannot be read.
    """
    paths = StorePaths(root)
    try:
        names = _generations(paths.generations)
        rollbacks = read_rollbacks(root)
        states = {name: _state(root, name) for name in names}
    except OSError as error:
        raise StorageError(f"cannot read the checkpoints in {root}: {error.strerror}: {error.filename}") from error
    live = {name for name in names if is_live(name, rollbacks)}
    durable = [_kept(commit, live=name in live) for name, commit in states.items() if isinstance(commit, Commit)]
    guarded = dict.fromkeys(protected, "in use")
    for ref in refs.listed(root):
        guarded.setdefault(ref.generation, f"tagged {ref.name}")
    reasons = stay(durable, rules, guarded, now)
    newest = max((each.order for each in durable if each.live), default=(-1, -1))
    unfinished = [name for name in names if states[name] is State.UNFINISHED and name not in guarded]
    going = [each.generation for each in durable if each.generation not in reasons]
    going += [name for name in unfinished if name in live and parse_generation(name) < newest]
    going += [name for name in unfinished if name not in live and not rules.abandoned]
    freed = sum(commit.size_bytes for name in going if isinstance(commit := states[name], Commit))
    return Pruning(stay=reasons, go=tuple(sorted(going, key=parse_generation)), freed_bytes=freed)


def apply(
    root: Path, rules: Rules, protected: Collection[str] = (), *, now: float, manage: bool = False
) -> tuple[str, ...]:
    """Delete what `foresee` says; returns the names of the deleted. What is tagged meanwhile stays.

    Of a generation that lies where a program wrote it the records go; with `manage` its files, too.

    Raises:
        DataDamaged: as `foresee`; nothing was deleted.
        StorageError: the store cannot be read or changed.
    """
    return carry_out(root, foresee(root, rules, protected, now).go, manage=manage)


def carry_out(
    root: Path, doomed: Sequence[str], *, manage: bool = False, count: Callable[[int, int], None] = lambda *_: None
) -> tuple[str, ...]:
    """Delete what was foreseen; `count` hears how many of how many are done. As `apply`.

    Raises:
        DataDamaged: as `foresee`.
        StorageError: the store cannot be read or changed.
    """
    paths = StorePaths(root)
    gone: list[str] = []
    try:
        for done, name in enumerate(doomed):
            count(done, len(doomed))
            if name not in {ref.generation for ref in refs.listed(root)}:
                if manage and paths.generation(name).commit.exists():
                    managing.remove(root, name)
                delete(paths, name)
                gone.append(name)
        for name in disk.entries_of(paths.trash):
            shutil.rmtree(paths.trash / name)
    except OSError as error:
        raise StorageError(f"cannot delete old checkpoints in {root}: {error.strerror}: {error.filename}") from error
    return tuple(gone)


def clean_scratch(
    scratch: ScratchPaths, watermark: str, keep: int = 2, protected: Collection[str] = ()
) -> tuple[str, ...]:
    """Delete captured generations at or below `watermark`, except the newest `keep` of all; returns their names.

    `protected` stay as well, and what those that stay build upon (their LOCAL records say so).

    With a generation go the program's own files of it in `write/`, but only those that are byte for byte what was
    captured: a file that was written again, or never captured, stays.

    Raises:
        DataDamaged: `watermark` is not the name of a generation.
        StorageError: scratch cannot be read or changed.
    """
    limit = parse_generation(watermark)
    try:
        names = _generations(scratch.generations)
        doomed = [
            name
            for name in names[: max(0, len(names) - keep)]
            if parse_generation(name) <= limit and name not in protected
        ]
        bases = {_base_of(scratch, name) for name in names if name not in doomed}
        doomed = [name for name in doomed if name not in bases]
        for name in doomed:
            _clean(scratch, scratch.generation(name))
    except OSError as error:
        raise StorageError(f"cannot clean {scratch.root}: {error.strerror}: {error.filename}") from error
    return tuple(doomed)


def clean_partners(scratch: ScratchPaths, watermark: str, keep: int = 2, protected: Collection[str] = ()) -> None:
    """As `clean_scratch`, for the copies of other nodes' parts; what stays is decided by what all of them are.

    Raises:
        DataDamaged: `watermark` is not the name of a generation.
        StorageError: scratch cannot be read or changed.
    """
    limit = parse_generation(watermark)
    try:
        held = [
            (name, scratch.partner(node))
            for node in disk.entries_of(scratch.partners)
            for name in _generations(scratch.partner(node).generations)
        ]
        newest = sorted({name for name, _ in held}, key=parse_generation)[-keep:]
        stay = {name for name, _ in held if parse_generation(name) > limit} | set(newest) | set(protected)
        stay |= {_base_of(scratch, name) for name in stay}
        for name, copies in held:
            if name not in stay:
                shutil.rmtree(copies.generation(name).root)
    except OSError as error:
        raise StorageError(f"cannot clean {scratch.partners}: {error.strerror}: {error.filename}") from error


def _base_of(scratch: ScratchPaths, name: str) -> str:
    """What a generation builds upon; "" for nothing, or where nobody knows."""
    try:
        data = disk.read_small(scratch.local_records, f"{name}.json", COMMIT_LIMIT_BYTES)
        about = unseal(data, name)[0].about
    except (FileNotFoundError, DataDamaged):
        return ""
    return about.base if about else ""


def _generations(folder: Path) -> list[str]:
    """The generations in a folder, oldest first."""
    return sorted(filter(is_generation, disk.entries_of(folder)), key=parse_generation)


def _state(root: Path, name: str) -> Commit | State:
    """Its commit, or why there is none. One that cannot be read now raises OSError: nothing is decided then."""
    try:
        return read_commit(root, name)[0]
    except FileNotFoundError:
        return State.UNFINISHED
    except DataDamaged:
        return State.DAMAGED


def _kept(commit: Commit, *, live: bool) -> Kept:
    """A durable generation as the rules look at it."""
    about = commit.about
    if about is None:
        return Kept(generation=commit.generation, at=commit.at, live=live)
    return Kept(generation=commit.generation, at=commit.at, metrics=about.metrics, base=about.base, live=live)


def delete(paths: StorePaths, name: str) -> None:
    """Delete a generation: COMMIT first, then the name, then the content. Raises OSError."""
    generation = paths.generation(name)
    with contextlib.suppress(FileNotFoundError):
        generation.commit.unlink()
        disk.fsync_folder(generation.root)
    disk.make_folder(paths.trash)
    target = paths.trash / name
    if target.exists():
        shutil.rmtree(target)
    generation.root.rename(target)
    disk.fsync_folder(paths.generations)
    shutil.rmtree(target)


def _clean(scratch: ScratchPaths, generation: GenerationPaths) -> None:
    """The program's files first: the captured manifest is what says that they may go."""
    for name in disk.entries_of(generation.manifests):
        with contextlib.suppress(DataDamaged, FileNotFoundError):
            with disk.opened(generation.root, f"{MANIFESTS}/{name}") as descriptor:
                captured_ns = os.fstat(descriptor).st_mtime_ns
            data = disk.read_small(generation.root, f"{MANIFESTS}/{name}", MANIFEST_LIMIT_BYTES)
            for entry in NodeManifest.from_bytes(data).files:
                if _is_as_captured(scratch.write, generation, entry, captured_ns):
                    _delete_file(scratch.write, entry.name)
    shutil.rmtree(generation.root)


def _is_as_captured(write: Path, generation: GenerationPaths, entry: FileEntry, captured_ns: int) -> bool:
    """Whether the program's file is byte for byte the captured one: the same file, untouched since; or read again."""
    try:
        with disk.opened(write, entry.name) as ours, disk.opened(generation.data, entry.name) as captured:
            here, there = os.fstat(ours), os.fstat(captured)
            if os.path.samestat(here, there) and here.st_mtime_ns < captured_ns and here.st_size == entry.size:
                return True
            return next(mismatches(ours, entry), None) is None
    except (FileNotFoundError, DataDamaged):
        return False


def _delete_file(folder: Path, name: str) -> None:
    """Delete a file, and the folders that this empties."""
    path = folder / name
    path.unlink()
    for parent in path.parents:
        if parent == folder:
            break
        with contextlib.suppress(OSError):  # not empty
            parent.rmdir()
