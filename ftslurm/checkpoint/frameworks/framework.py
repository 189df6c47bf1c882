"""What is known about a framework's own checkpoints, and one such checkpoint.

`find` looks at names only, and may be called every few seconds. `check` reads headers and indexes. Neither ever runs a
pickle, follows a link or leaves the folder that it was given: whatever lies there is distrusted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

RestoreBy = Literal["path", "tag", "tracker"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A checkpoint, complete or not.

    `name` is its folder or its only file, `files` all files of it, sorted; `also` are those outside `name` that the
    framework needs, too, and which it writes anew for every checkpoint. All names are relative to the folder that was
    searched, and distrusted until `check` has passed them.
    """

    step: int
    name: str
    files: tuple[str, ...]
    also: tuple[str, ...] = ()


class Check(Protocol):
    """Says what is wrong with a checkpoint."""

    def __call__(self, root: Path, found: Found, world: int | None = None) -> str:
        """Return "" where it is complete and sound, else the reason, in one line.

        Args:
            root: The folder that was searched.
            found: What `find` returned.
            world: How many ranks wrote it; None where that is not known. Frameworks that write a file for each rank
                do not always say in the files how many there were: then the last ones are missed only if this is given.

        Raises:
            OSError: something cannot be read; that is no damage, and may pass.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Framework:
    """One row of the table of layouts.

    `reshards`: whether ranks of another number may load it. `save_on`: how the program is asked to save where the
    configuration does not say it, as in `checkpoint.save_on`. `restore_by`: what the framework is given, the *path* of
    the checkpoint, its name under the folder (*tag*), or a small file that it reads itself (*tracker*). `enforced`:
    whether a refused checkpoint is kept from being loaded by that alone.
    """

    name: str
    reshards: bool
    save_on: str
    restore_by: RestoreBy
    enforced: bool
    find: Callable[[Path], list[Found]]
    check: Check
