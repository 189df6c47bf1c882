"""What people do with the generations of a store: name them, find them by name, go back to one.

A name is a tag, `latest`, `best`, a generation, or a step (its newest generation on the live branch). Whatever a
reference says, the COMMIT decides: one whose digest is another's is refused.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ftslurm.checkpoint import disk, refs
from ftslurm.checkpoint.layout import StorePaths
from ftslurm.checkpoint.refs import BEST, LATEST, Ref
from ftslurm.checkpoint.rollback import add_rollback, read_rollbacks
from ftslurm.checkpoint.store import read_commit
from ftslurm.core.branches import Rollback, is_live
from ftslurm.core.manifest import is_generation, parse_generation
from ftslurm.core.retention import Kept, Rules, best
from ftslurm.errors import DataDamaged, StorageError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ftslurm.core.manifest import Commit

_MAX_REASON = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """A durable generation. `live`: it lies on the branch that the training is on."""

    commit: Commit
    digest: str
    live: bool = True
    tags: tuple[str, ...] = ()

    @property
    def generation(self) -> str:
        """Its name."""
        return self.commit.generation


def versions(root: Path) -> tuple[Version, ...]:
    """Every generation with a sound COMMIT, oldest first, with its references. Damaged COMMITs are left out.

    Raises:
        DataDamaged: a tag or the record of rollbacks is damaged.
        StorageError: the store cannot be read.
    """
    found: list[Version] = []
    names = refs.listed(root)
    try:
        rollbacks = read_rollbacks(root)
        listed = filter(is_generation, disk.entries_of(StorePaths(root).generations))
        for generation in sorted(listed, key=parse_generation):
            with contextlib.suppress(DataDamaged, FileNotFoundError):
                commit, digest = read_commit(root, generation)
                tags = tuple(ref.name for ref in names if (ref.generation, ref.digest) == (generation, digest))
                found.append(Version(commit=commit, digest=digest, live=is_live(generation, rollbacks), tags=tags))
    except OSError as error:
        raise StorageError(f"cannot read the checkpoints in {root}: {error.strerror}") from error
    return tuple(found)


def find(root: Path, name: str) -> Version:
    """The generation that a person means.

    Raises:
        UsageError: there is none.
        DataDamaged: its COMMIT is damaged, or not the one that the reference was set to.
        StorageError: it cannot be read.
    """
    try:
        ref = None if name == LATEST else refs.read(root, name)
    except (FileNotFoundError, NotADirectoryError):
        ref = None
    except OSError as error:
        raise StorageError(f"cannot read the reference {name}: {error.strerror}") from error
    generation = ref.generation if ref else _generation_of(root, name)
    try:
        commit, digest = read_commit(root, generation)
        live = is_live(generation, read_rollbacks(root))
    except FileNotFoundError as error:
        raise UsageError(f"{generation} is not durable in {root}", hint="`ftslurm checkpoint ls` lists all") from error
    except OSError as error:
        raise StorageError(f"cannot read {generation}: {error.strerror}") from error
    if ref and ref.digest != digest:
        raise DataDamaged(f"{name} was set to {generation} with digest {ref.digest}, but its COMMIT has {digest}")
    return Version(commit=commit, digest=digest, live=live)


def _generation_of(root: Path, name: str) -> str:
    """The generation of a name that is no reference; `latest` needs none: it is the newest on the live branch."""
    if is_generation(name):
        return name
    if name == LATEST:
        live = [each for each in versions(root) if each.live]
        if not live:
            raise UsageError(f"there is no durable checkpoint in {root}")
        return live[-1].generation
    if name.isascii() and name.isdigit():
        of_step = [each for each in versions(root) if each.commit.step == int(name)]
        of_step.sort(key=lambda each: (each.live, each.commit.attempt))
        if of_step:
            return of_step[-1].generation
        raise UsageError(f"there is no durable checkpoint of step {name}", hint="`ftslurm checkpoint ls` lists all")
    raise UsageError(f"there is no checkpoint {name!r}", hint="a tag, latest, best, a step or a generation names one")


def tag(root: Path, name: str, target: str, now: float, *, move: bool = False) -> Ref:
    """Give a generation a name, durably; it is never deleted then.

    Raises:
        UsageError: not a name for a tag; the tag exists and is not to be moved; no such generation.
        DataDamaged: the generation's COMMIT is damaged.
        StorageError: not possible.
    """
    refs.check_tag(name)
    found = find(root, target)
    ref = Ref(name=name, generation=found.generation, digest=found.digest, at=now)
    try:
        with contextlib.suppress(FileNotFoundError, DataDamaged):
            earlier = refs.read(root, name)
            if earlier.generation != ref.generation and not move:
                raise UsageError(f"{name} names {earlier.generation} already", hint="--move lets it name another one")
        refs.write(root, ref)
        if not StorePaths(root).generation(ref.generation).commit.exists():
            refs.remove(root, name)
            raise UsageError(f"{ref.generation} was deleted in this moment, by the rules of its run")
    except OSError as error:
        raise StorageError(f"cannot write the tag {name}: {error.strerror}") from error
    return ref


def untag(root: Path, name: str) -> None:
    """Take a tag away; its generation is then subject to the rules again.

    Raises:
        UsageError: there is no such tag.
        StorageError: not possible.
    """
    refs.check_tag(name)
    try:
        if not (StorePaths(root).references / name).exists():
            raise UsageError(f"there is no tag {name}", hint="`ftslurm checkpoint log` shows them")
        refs.remove(root, name)
    except OSError as error:
        raise StorageError(f"cannot remove the tag {name}: {error.strerror}") from error


def refresh(root: Path, metric: str, mode: Literal["min", "max"]) -> None:
    """Let `latest` and `best` name what the COMMITs say; lost or damaged ones are made again.

    Raises:
        DataDamaged: as `versions`.
        StorageError: not possible.
    """
    live = [each for each in versions(root) if each.live]
    wanted = {LATEST: live[-1] if live else None, BEST: _best(live, metric, mode)}
    try:
        for name, version in wanted.items():
            if version is None:
                refs.remove(root, name)
            elif name not in version.tags:
                ref = Ref(name=name, generation=version.generation, digest=version.digest, at=version.commit.at)
                refs.write(root, ref)
    except OSError as error:
        raise StorageError(f"cannot write the references in {root}: {error.strerror}") from error


def _best(live: Sequence[Version], metric: str, mode: Literal["min", "max"]) -> Version | None:
    if not metric:
        return None
    known = {each.generation: each for each in live}
    kept = [Kept(generation=each.generation, metrics=each.commit.about.metrics) for each in live if each.commit.about]
    return next((known[each.generation] for each in best(kept, Rules(best=1, metric=metric, mode=mode))), None)


def left_behind(root: Path, target: Version, attempt: int = 0) -> tuple[str, ...]:
    """The durable generations that `roll_back` would abandon, oldest first; raises as it does."""
    rollback = _rollback_to(root, target, attempt, 0.0, "")
    try:
        after = (*read_rollbacks(root), rollback)
    except OSError as error:
        raise StorageError(f"cannot read the rollbacks in {root}: {error.strerror}") from error
    return tuple(each.generation for each in versions(root) if each.live and not is_live(each.generation, after))


def roll_back(root: Path, target: Version, *, attempt: int, now: float, reason: str = "") -> Rollback:
    """Let the training go on from a generation; all others that are newer are abandoned, none is deleted.

    Nothing of the run may be alive. `attempt` is its newest, where that is known; those in the store count anyway. The
    record decides; `latest` follows it, now or at the next commit.

    Raises:
        UsageError: the reason is not one line.
        DataDamaged: the record of earlier rollbacks is damaged.
        StorageError: not possible.
    """
    if not reason.isprintable() or len(reason) > _MAX_REASON:
        raise UsageError(f"the reason must be one line of at most {_MAX_REASON} characters")
    rollback = _rollback_to(root, target, attempt, now, reason)
    ref = Ref(name=LATEST, generation=target.generation, digest=target.digest, at=now)
    try:
        add_rollback(root, rollback)
        refs.write(root, ref)
    except OSError as error:
        raise StorageError(f"cannot roll {root} back: {error.strerror}") from error
    return rollback


def _rollback_to(root: Path, target: Version, attempt: int, now: float, reason: str) -> Rollback:
    """The record, with the highest attempt that anything in the store is of."""
    paths = StorePaths(root)
    try:
        records = (name.removesuffix(".json") for name in disk.entries_of(paths.local_records))
        names = [*disk.entries_of(paths.generations), *disk.entries_of(paths.quarantine), *records]
    except OSError as error:
        raise StorageError(f"cannot read {root}: {error.strerror}") from error
    attempts = [parse_generation(name)[1] for name in names if is_generation(name)]
    highest = max([attempt, *attempts])
    return Rollback(to=target.generation, digest=target.digest, attempt=highest, at=now, reason=reason)
