"""The committed generations on shared storage: finding and checking them.

COMMIT.json is the only thing that makes a generation exist; it is sealed by its own digest, which is the checkpoint's
identity, and names the digest of every manifest. Folders are listed to *find* generations; what belongs to one is
always opened by its exact name. `ftslurm.checkpoint.commit` writes here.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ftslurm.checkpoint import disk, refs
from ftslurm.checkpoint.digest import Mismatch, Pace, digest_bytes, mismatches, quiet, wrong_size
from ftslurm.checkpoint.inplace import check_all_named, read_place, source_of
from ftslurm.checkpoint.layout import COMMIT, GenerationPaths, StorePaths, manifest_name
from ftslurm.checkpoint.rollback import read_rollbacks
from ftslurm.core.branches import abandoned
from ftslurm.core.manifest import (
    COMMIT_LIMIT_BYTES,
    MANIFEST_LIMIT_BYTES,
    Commit,
    FileEntry,
    NodeManifest,
    check_against,
    is_generation,
    parse_generation,
)
from ftslurm.core.strictjson import decode, encode, fields_of, shortened
from ftslurm.errors import DataDamaged, StorageError

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A committed generation."""

    commit: Commit
    digest: str
    files: tuple[FileEntry, ...]

    @property
    def generation(self) -> str:
        """Its name."""
        return self.commit.generation


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A generation that cannot be used: `damaged`, or `is_unfinished` (it has no commit), or it cannot be read now.

    `gone`: it lay where the program wrote it, and the program has removed all of it.
    """

    generation: str
    reason: str
    damaged: bool = False
    is_unfinished: bool = False
    gone: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """What lies in the store, oldest first. `abandoned` are the names that a rollback has left behind."""

    generations: tuple[Stored, ...]
    refused: tuple[Refusal, ...]
    abandoned: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What reading every byte of a generation has shown."""

    generation: str
    problems: tuple[Mismatch, ...]
    size_bytes: int
    took_s: float

    @property
    def ok(self) -> bool:
        """Whether every byte is the one that was written."""
        return not self.problems


# --------------------------------------------------------------------------------------------------------- reading


def read_commit(root: Path, generation: str) -> tuple[Commit, str]:
    """The commit of a generation and its digest.

    Raises:
        DataDamaged: it is not what was written, or that of another generation.
        OSError: it cannot be read; FileNotFoundError where there is none.
    """
    return unseal(disk.read_small(StorePaths(root).generation(generation).root, COMMIT, COMMIT_LIMIT_BYTES), generation)


def unseal(data: bytes, generation: str) -> tuple[Commit, str]:
    """The commit in these bytes and its digest; raises DataDamaged unless they are, byte for byte, what was sealed."""
    fields = fields_of(decode(data, "COMMIT.json"), ("commit", "digest"), "COMMIT.json")
    commit = Commit.from_json(fields["commit"])
    sealed, digest = seal(commit)
    if fields["digest"] != digest:
        raise DataDamaged(
            f"COMMIT.json of {generation} was changed: digest {digest}, sealed as {shortened(fields['digest'])}"
        )
    if data != sealed:
        raise DataDamaged(f"COMMIT.json of {generation} was changed: it is not spelled as it was sealed")
    if commit.generation != generation:
        raise DataDamaged(f"COMMIT.json of {generation} is that of {commit.generation}")
    return commit, digest


def seal(commit: Commit) -> tuple[bytes, str]:
    """The bytes of COMMIT.json, and the digest that names the checkpoint."""
    digest = digest_bytes(commit.body_bytes())
    return encode({"commit": commit.body(), "digest": digest}), digest


def read_manifest(folder: Path, node: str, digest: str) -> NodeManifest:
    """The manifest of a node in a generation's folder; raises DataDamaged unless its bytes have this digest."""
    data = disk.read_small(folder, manifest_name(node), MANIFEST_LIMIT_BYTES)
    found = digest_bytes(data)
    if found != digest:
        raise DataDamaged(f"the manifest of {node} was changed: digest {found}, committed as {digest}")
    return NodeManifest.from_bytes(data)


def read_files(folder: Path, commit: Commit) -> tuple[FileEntry, ...]:
    """All files of a generation, from manifests in `folder` that are those the commit names; raises as they do."""
    manifests = {part.node: read_manifest(folder, part.node, part.manifest_digest) for part in commit.parts}
    return check_against(commit, manifests)


def read_stored(root: Path, generation: str) -> Stored:
    """A committed generation, with the cheap checks: seal, manifests' digests, files' sizes.

    Raises:
        DataDamaged: something is missing or changed.
        OSError: something could not be read; FileNotFoundError where there is no COMMIT.json.
    """
    commit, digest = read_commit(root, generation)
    folder = StorePaths(root).generation(generation)
    try:
        files, place = read_files(folder.root, commit), read_place(folder)
        if place is not None:
            check_all_named(place, files)
        check_sizes(folder, files)
    except FileNotFoundError as error:
        raise DataDamaged(f"{generation}: {_missing(error)}") from error
    return Stored(commit=commit, digest=digest, files=files)


def read_latest(root: Path) -> str:
    """The generation that refs/latest names; "" where it names none. A hint: only its COMMIT.json proves it."""
    try:
        return refs.read(root, refs.LATEST).generation
    except (OSError, DataDamaged):
        return ""


def check_sizes(folder: GenerationPaths, files: tuple[FileEntry, ...]) -> None:
    """Raise FileNotFoundError for a missing file, DataDamaged for one of another kind or size than is written."""
    root, before = source_of(folder)
    for entry in files:
        size = disk.plain_size(root, f"{before}{entry.name}")
        if size != entry.size:
            raise DataDamaged(f"{folder.root.name}: {wrong_size(entry, size)}")


def scan(root: Path, known: Collection[str] = ()) -> Scan:
    """All generations on shared storage: those that are committed and pass the cheap checks, and why not the others.

    An NFS client's listing may be old: `known` generations, and the one that refs/latest names, are looked for by name.
    Those on abandoned branches are named, not read.

    Raises:
        DataDamaged: the record of rollbacks is damaged.
        StorageError: the store itself cannot be read.
    """
    paths = StorePaths(root)
    try:
        listed = set(filter(is_generation, disk.entries_of(paths.generations)))
        rollbacks = read_rollbacks(root)
    except OSError as error:
        raise StorageError(f"cannot read {paths.generations}: {error.strerror}") from error
    names = sorted({*listed, *known, *filter(None, [read_latest(root)])}, key=parse_generation)
    left = abandoned(names, rollbacks)
    stored: list[Stored] = []
    refused: list[Refusal] = []
    for name in (name for name in names if name not in left):
        found = _looked_at(root, name, is_listed=name in listed)
        if isinstance(found, Stored):
            stored.append(found)
        elif found is not None:
            refused.append(found)
    return Scan(
        generations=tuple(stored),
        refused=tuple(refused),
        abandoned=tuple(name for name in names if name in left),
    )


def _looked_at(root: Path, name: str, *, is_listed: bool) -> Stored | Refusal | None:
    """A generation, or why it does not count; None where there is nothing of this name."""
    try:
        return read_stored(root, name)
    except DataDamaged as error:
        gone = _is_gone(StorePaths(root).generation(name))
        return Refusal(generation=name, reason=_GONE if gone else str(error), damaged=not gone, gone=gone)
    except FileNotFoundError:
        reason = "no COMMIT.json: it was never finished"
        return Refusal(generation=name, reason=reason, is_unfinished=True) if is_listed else None
    except OSError as error:
        return Refusal(generation=name, reason=f"cannot be read: {error.strerror}")


_GONE = "the program has removed it"


def _is_gone(folder: GenerationPaths) -> bool:
    """Whether a program has removed all the files of a generation that lay in its own folder."""
    try:
        place = read_place(folder)
        return place is not None and not any(disk.is_there(place.folder, name) for name in place.files)
    except FileNotFoundError:
        return True
    except (OSError, DataDamaged):
        return False


def verify(root: Path, generation: str, pace: Pace = quiet) -> Verdict:
    """Read every byte of a committed generation and compare it.

    Raises:
        DataDamaged: its commit or a manifest is wrong, so that there is nothing to compare with.
        StorageError: it cannot be read.
    """
    began = time.monotonic()
    folder = StorePaths(root).generation(generation)
    problems: list[Mismatch] = []
    try:
        commit, _ = read_commit(root, generation)
        files, source = read_files(folder.root, commit), source_of(folder)
        for entry in files:
            problems += _problems(source, entry, pace)
    except FileNotFoundError as error:
        raise DataDamaged(f"{generation}: {_missing(error)}") from error
    except OSError as error:
        raise StorageError(f"cannot read {folder.root}: {error.strerror}") from error
    return Verdict(
        generation=generation,
        problems=tuple(problems),
        size_bytes=sum(entry.size for entry in files),
        took_s=time.monotonic() - began,
    )


def _missing(error: FileNotFoundError) -> str:
    return f"{error.filename} is missing"


def _problems(source: tuple[Path, str], entry: FileEntry, pace: Pace) -> list[Mismatch]:
    try:
        with disk.opened(source[0], f"{source[1]}{entry.name}") as descriptor:
            return list(mismatches(descriptor, entry, pace))
    except FileNotFoundError:
        what = "the file is missing"
    except DataDamaged as error:
        what = str(error)
    return [Mismatch(name=entry.name, chunk=0, wanted=entry.chunk(0), found="", what=what)]
