"""Damage to a committed checkpoint, on shared storage and on this node's scratch: what bit rot and lost blocks leave.

Files are changed where they lie, below everything that checks them: a copy on scratch that is a hard link is changed
once. A generation's files are written once and never again, so nobody is disturbed who is writing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftslurm.checkpoint.layout import COMMIT, DATA, MANIFESTS, StorePaths
from ftslurm.errors import UsageError
from ftslurm.faults.deeds import Way
from ftslurm.paths import RunPaths
from ftslurm.runtime.scratch import scratch_of

PAGE = 4096
ASIDE = frozenset({"restore", "quarantine", "trash"})
"""What is being handed over has been verified, and what was set aside is seen by nobody."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which generation, where its copies may lie, and which of its files (the largest, if it is not there)."""

    folders: tuple[Path, ...]
    generation: str
    file: str = ""

    @classmethod
    def of(cls, run_dir: Path, more: Mapping[str, Any]) -> Wanted:
        """The copies on this node's scratch, as the order tells."""
        scratch = scratch_of(str(more.get("scratch") or "auto"), os.environ)
        own = scratch / f"ftslurm-{int(more['uid'])}" / "checkpoints" / run_dir.name if scratch else None
        return cls(
            folders=(own,) if own is not None else (),
            generation=str(more["generation"]),
            file=str(more.get("file") or ""),
        )


def newest(paths: RunPaths) -> Wanted:
    """The newest committed generation on shared storage, and its largest file.

    Raises:
        UsageError: there is none.
    """
    store = StorePaths(paths.checkpoints)
    committed = sorted(path.parent.name for path in store.generations.glob(f"*/{COMMIT}"))
    if not committed:
        raise UsageError(f"run {paths.run_id} has no checkpoint on shared storage yet")
    files = _files(store.generation(committed[-1]).root, DATA)
    file = str(files[0].relative_to(store.generation(committed[-1]).data)) if files else ""
    return Wanted(folders=(paths.checkpoints,), generation=committed[-1], file=file)


def damage(wanted: Wanted, way: Way) -> list[str]:
    """Damage every copy of the generation below the folders; returns what was done, a sentence each.

    Raises:
        UsageError: a copy cannot be damaged in this way.
    """
    told: list[str] = []
    done: set[tuple[int, int]] = set()
    for copy in _copies(wanted):
        for path in _chosen(copy, way, wanted.file):
            with suppress(FileNotFoundError):  # a newer generation has replaced it meanwhile
                about = path.stat()
                if (about.st_dev, about.st_ino) not in done:
                    told.append(_DEEDS[way](path))
                    if path.exists():
                        about = path.stat()
                    done.add((about.st_dev, about.st_ino))
    return told


def _copies(wanted: Wanted) -> Iterator[Path]:
    for folder in wanted.folders:
        for root, names, _ in os.walk(folder):
            names[:] = [name for name in names if name not in ASIDE]
            if Path(root).name == wanted.generation:
                yield Path(root)
                names.clear()


def _chosen(copy: Path, way: Way, file: str) -> list[Path]:
    if way is Way.MANIFEST:
        return sorted((copy / MANIFESTS).glob("*.json"))[:1]
    named = copy / DATA / file
    if file and named.is_file() and not named.is_symlink():
        return [named]
    return _files(copy, DATA)[:1]


def _files(root: Path, part: str) -> list[Path]:
    """The files of a part of a generation, the largest first."""
    found = [path for path in (root / part).rglob("*") if path.is_file() and not path.is_symlink()]
    return sorted(found, key=lambda path: (-path.stat().st_size, str(path)))


@contextmanager
def _writable(path: Path) -> Iterator[int]:
    mode = path.stat().st_mode & 0o7777
    path.chmod(mode | 0o200)
    handle = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    try:
        yield handle
        os.fsync(handle)
    finally:
        os.close(handle)
        path.chmod(mode)


def _flip(path: Path) -> str:
    with _writable(path) as handle:
        place = os.fstat(handle).st_size // 2
        byte = os.pread(handle, 1, place)
        os.pwrite(handle, bytes([byte[0] ^ 1]) if byte else b"\1", place)
    return f"bit 0 of byte {place} of {path} is another one"


def _truncate(path: Path) -> str:
    with _writable(path) as handle:
        length = os.fstat(handle).st_size // 2
        os.ftruncate(handle, length)
    return f"{path} ends after {length} bytes"


def _zero(path: Path) -> str:
    with _writable(path) as handle:
        size = os.fstat(handle).st_size
        place = size // 2 // PAGE * PAGE
        length = min(PAGE, size - place)
        zeros = bytes(length)
        if os.pread(handle, length, place) == zeros:
            zeros = b"\1" * length  # it was zero before
        os.pwrite(handle, zeros, place)
    return f"{length} bytes from {place} of {path} are gone"


def _swap(path: Path) -> str:
    others = [each for each in path.parent.rglob("*") if each.is_file() and each != path and not each.is_symlink()]
    if not others:
        raise UsageError(f"{path.parent} holds one file only: there is none to change places with")
    other = min(others, key=str)
    aside = path.with_name(f".swap-{path.name}")
    path.rename(aside)
    other.rename(path)
    aside.rename(other)
    return f"{path} and {other} have changed places"


def _drop(path: Path) -> str:
    path.unlink()
    return f"{path} is gone"


def _edit(path: Path) -> str:
    with _writable(path) as handle:
        data = bytearray(os.pread(handle, os.fstat(handle).st_size, 0))
        place = next(place for place in range(len(data) - 1, -1, -1) if chr(data[place]).isdigit())
        data[place] = ord("1") if data[place] == ord("0") else ord("0")
        os.pwrite(handle, bytes(data), 0)
    return f"a digit of {path} is another one"


_DEEDS: Mapping[Way, Callable[[Path], str]] = {
    Way.FLIP: _flip,
    Way.TRUNCATE: _truncate,
    Way.ZERO: _zero,
    Way.SWAP: _swap,
    Way.DROP: _drop,
    Way.MANIFEST: _edit,
}
