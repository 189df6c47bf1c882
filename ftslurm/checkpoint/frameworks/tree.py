"""The names below a folder, and what must hold for every file of a checkpoint whichever framework wrote it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from ftslurm.checkpoint import disk
from ftslurm.checkpoint.frameworks.framework import Check, Found
from ftslurm.checkpoint.soundness import fault_of
from ftslurm.core.manifest import TEMP_SUFFIXES
from ftslurm.core.strictjson import refuse, safe_name
from ftslurm.errors import DataDamaged

_DEPTH = 8
_MOST_FILES = 1_000_000
"""Of one checkpoint. The largest known have one or two for each of some ten thousand ranks."""
_TORCH = (".pt", ".pth", ".ckpt", ".bin")
"""torch.save writes zips since 2020, and a zip ends in its directory. The older form does not show its end."""
_NEVER_EMPTY = (*_TORCH, ".safetensors", ".json", ".pkl")


def numbered(root: Path, pattern: re.Pattern[str]) -> Iterator[tuple[int, str]]:
    """The folders in `root` whose whole name matches, with the number in the first group; none where there is no root.

    Links are among them, so that they are refused and not overlooked.
    """
    for name in names_in(root):
        match = pattern.fullmatch(name)
        if match and ((root / name).is_symlink() or (root / name).is_dir()):
            yield int(match[1]), name


def names_in(folder: Path) -> list[str]:
    """What lies in a folder, sorted; nothing where it is gone or none."""
    try:
        return sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []


def files_below(root: Path, name: str) -> tuple[str, ...]:
    """All that is no folder below `name`, sorted; `name` itself where it is none. Never through a link."""
    if (root / name).is_symlink() or not (root / name).is_dir():
        return (name,)
    found: list[str] = []
    waiting = [(name, 0)]
    while waiting and len(found) <= _MOST_FILES:
        place, depth = waiting.pop()
        try:
            entries = list(os.scandir(root / place))
        except (FileNotFoundError, NotADirectoryError):
            continue  # frameworks delete their old ones
        for entry in entries:
            below = f"{place}/{entry.name}"
            if depth < _DEPTH and entry.is_dir(follow_symlinks=False):
                waiting.append((below, depth + 1))
            else:
                found.append(below)
    return tuple(sorted(found))


def checked(examine: Callable[[Path, Found, int | None], None]) -> Check:
    """A check that first looks at all files alike, then lets `examine` raise DataDamaged for what the layout knows."""

    def check(root: Path, found: Found, world: int | None = None) -> str:
        try:
            _look_at_all(root, found)
            examine(root, found, world)
        except DataDamaged as error:
            return str(error).replace("\n", " ")
        except (FileNotFoundError, NotADirectoryError) as error:
            return f"{found.name}: {error.filename} is missing"
        return ""

    return check


def _look_at_all(root: Path, found: Found) -> None:
    if len(found.files) > _MOST_FILES:
        refuse(f"{found.name} has more than {_MOST_FILES} files")
    for name in (*found.files, *found.also):
        safe_name(name)
        if name.endswith(TEMP_SUFFIXES):
            refuse(f"{name} is still being written, or was left half-written")
        with disk.opened(root, name) as descriptor:
            _look_at(descriptor, root / name, name)


def _look_at(descriptor: int, path: Path, name: str) -> None:
    """One file: not empty where its kind never is, and whole as far as it tells."""
    if disk.size_of(descriptor) == 0:
        if name.endswith(_NEVER_EMPTY):
            refuse(f"{name} is empty")
        return
    if name.endswith(_TORCH) and os.pread(descriptor, 4, 0) != b"PK\x03\x04":
        refuse(f"{name} does not begin as torch.save begins a file")
    fault = fault_of(descriptor, path)
    if fault:
        refuse(f"{name}: {fault}")
