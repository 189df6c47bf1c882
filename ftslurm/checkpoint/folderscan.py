"""What lies in the program's checkpoint folder: files that match, with an identity that changes when they do.

The baseline is what lay there when an attempt began. It is kept in a file, so that an agent that is started again in
the middle of the attempt does not take the attempt's own files for old ones. No clock is compared with a file's time.
"""

from __future__ import annotations

import contextlib
import os
import stat
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from ftslurm.checkpoint import disk
from ftslurm.core.manifest import TEMP_SUFFIXES
from ftslurm.core.strictjson import decode, encode, safe_name
from ftslurm.errors import DataDamaged

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ftslurm.checkpoint.patterns import Match, Patterns

_BASELINE_LIMIT_BYTES = 64 << 20


class Identity(NamedTuple):
    """Two looks at a file that give the same identity saw the same content (as far as a look can tell)."""

    device: int
    inode: int
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, found: os.stat_result) -> Identity:
        """From stat(2)."""
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


@dataclass(frozen=True, slots=True)
class Listing:
    """One look at the folder. `unfinished` are the temporary files on the way to names that may match."""

    files: dict[str, tuple[Match, Identity]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    folders: list[str] = field(default_factory=list)
    unfinished: set[tuple[str, Identity]] = field(default_factory=set)


def listing(folder: Path, patterns: Patterns) -> Listing:
    """Look at the folder and those of its sub-folders that can hold files of the patterns; never through a link."""
    found = Listing()
    waiting = [""]
    while waiting:
        place = waiting.pop()
        try:
            entries = os.scandir(folder / place)
        except (FileNotFoundError, NotADirectoryError):
            continue
        found.folders.append(place)
        with entries:
            for entry in entries:
                name = f"{place}/{entry.name}" if place else entry.name
                if entry.is_dir(follow_symlinks=False):
                    waiting += [name] if patterns.may_hold(name) else []
                else:
                    _note(found, patterns, name, entry)
    return found


def _note(found: Listing, patterns: Patterns, name: str, entry: os.DirEntry[str]) -> None:
    """Put one directory entry where it belongs."""
    match = patterns.match(name)
    temporary = entry.name.endswith(TEMP_SUFFIXES) or entry.name.startswith(".")
    if match is None and not temporary:
        return
    with contextlib.suppress(FileNotFoundError):
        state = entry.stat(follow_symlinks=False)
        if match is None:
            found.unfinished.add((name, Identity.of(state)))
        elif not stat.S_ISREG(state.st_mode):
            found.refused[name] = "it is a link or no regular file"
        else:
            found.files[name] = (match, Identity.of(state))
            with contextlib.suppress(DataDamaged):
                safe_name(name)
                return
            del found.files[name]
            found.refused[name] = "its name has control characters or is not UTF-8"


def identity_of(folder: Path, name: str) -> Identity | None:
    """The identity of a file now; None where it is gone."""
    try:
        return Identity.of(os.stat(folder / name, follow_symlinks=False))  # noqa: PTH116 - called for each file, often
    except (FileNotFoundError, NotADirectoryError):
        return None


def baseline(path: Path, folder: Path, patterns: Patterns) -> dict[str, Identity]:
    """What lay in `folder` when the attempt began: read from `path`, or looked at now and written there."""
    return kept_baseline(
        path, lambda: {name: identity for name, (_, identity) in listing(folder, patterns).files.items()}
    )


def kept_baseline(path: Path, look: Callable[[], dict[str, Identity]]) -> dict[str, Identity]:
    """What was there when the attempt began: read from `path`, or looked at now and written there."""
    try:
        record = decode(disk.read_small(path.parent, path.name, _BASELINE_LIMIT_BYTES), "baseline")
        if isinstance(record, dict):
            return {name: Identity(*values) for name, values in record.items()}
    except (FileNotFoundError, DataDamaged, TypeError):
        pass  # the first agent of this attempt, or a file of a crashed node: look now
    now = look()
    disk.make_folder(path.parent)
    disk.write_small(path, encode(now))
    return now
