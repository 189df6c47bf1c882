"""References: names for generations, each a small sealed file `refs/<name>` that holds the digest of the COMMIT.

`latest` and `best` are moved by ftslurm, all others (tags) by people. A reference proves nothing by itself: whoever
follows one compares the digest with that of the COMMIT (`ftslurm.checkpoint.versions`). Losing `latest` and `best`
loses nothing: they are made again from the COMMITs. A generation with a reference is never deleted.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ftslurm.checkpoint import disk
from ftslurm.checkpoint.layout import StorePaths
from ftslurm.checkpoint.sealed import open_record, seal_record
from ftslurm.core.manifest import DIGEST, TEMP_SUFFIXES, generation_of, is_generation
from ftslurm.core.strictjson import matching, refuse
from ftslurm.errors import DataDamaged, StorageError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

LATEST = "latest"
BEST = "best"
AUTOMATIC = (LATEST, BEST)
_RESERVED = (*AUTOMATIC, "local")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,63}")
_LIMIT_BYTES = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Ref:
    """A name, the generation and the digest of its COMMIT; `at` is when it was set, in wall-clock seconds."""

    name: str
    generation: str
    digest: str
    at: float


def read(root: Path, name: str) -> Ref:
    """A reference.

    Raises:
        DataDamaged: it is not what was written.
        OSError: it cannot be read; FileNotFoundError where there is none.
    """
    if not _NAME.fullmatch(name):
        raise FileNotFoundError(f"{name!r} cannot name a reference")
    what = f"refs/{name}"
    data = disk.read_small(StorePaths(root).references, name, _LIMIT_BYTES)
    record = open_record(data, ("name", "generation", "digest", "at"), what)
    if record["name"] != name:
        refuse(f"{what} is {record['name']!r} under another name")
    at = record["at"]
    if isinstance(at, bool) or not isinstance(at, int | float):
        refuse(f"{what}: at={at!r} is not a time")
    digest = matching(record["digest"], DIGEST, f"digest in {what}")
    return Ref(name=name, generation=generation_of(record["generation"]), digest=digest, at=float(at))


def write(root: Path, ref: Ref) -> None:
    """Set a reference, durably; it replaces one of the same name. Raises OSError."""
    path = StorePaths(root).references / ref.name
    disk.make_folder(path.parent)
    record = {"name": ref.name, "generation": ref.generation, "digest": ref.digest, "at": ref.at}
    disk.write_small(path, seal_record(record))


def remove(root: Path, name: str) -> None:
    """Remove a reference, durably; one that does not exist is no error. Raises OSError."""
    folder = StorePaths(root).references
    try:
        (folder / name).unlink()
    except FileNotFoundError:
        return
    disk.fsync_folder(folder)


def listed(root: Path) -> tuple[Ref, ...]:
    """All references, sorted by name. A damaged `latest` or `best` is left out: they can be made again.

    Raises:
        DataDamaged: a tag is damaged, so that nobody knows what it protects.
        StorageError: they cannot be read.
    """
    found: list[Ref] = []
    try:
        for name in disk.entries_of(StorePaths(root).references):
            if not _NAME.fullmatch(name) or name == "local" or name.endswith(TEMP_SUFFIXES):
                continue
            try:
                found.append(read(root, name))
            except DataDamaged as error:
                if name not in AUTOMATIC:
                    hint = f"`ftslurm checkpoint untag RUN {name}` removes it"
                    raise DataDamaged(f"the tag {name} cannot be used: {error}", hint=hint) from error
    except OSError as error:
        raise StorageError(f"cannot read the references in {root}: {error.strerror}") from error
    return tuple(found)


def check_tag(name: str) -> str:
    """`name` itself where people may use it as a tag. Raises UsageError."""
    if name in _RESERVED:
        raise UsageError(f"{name} is not a tag of yours: ftslurm sets it itself")
    if not _NAME.fullmatch(name) or name.endswith(TEMP_SUFFIXES) or is_generation(name):
        raise UsageError(
            f"{name!r} cannot be a tag", hint="up to 64 letters, digits, '.', '_' and '-', beginning with a letter"
        )
    return name
