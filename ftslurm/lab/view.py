"""What the lab's ordinary user must be able to reach, and which closed folders stand in the way.

The interpreter often lies below a home folder that only its owner may enter (`/root` is 0700). Its permissions are
not touched. Instead the machines of the lab see, in their own mount namespace, a substitute of the closed folder:
an empty one with mode 0755 in which nothing but the needed trees is bound at its old place. The rest of the closed
folder does not exist for the lab's jobs, neither for its user nor for its root.
"""

from __future__ import annotations

import os
import stat
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT_HOME = Path("/root")


@dataclass(frozen=True, slots=True)
class Mask:
    """A folder to be replaced in the lab's view, and the trees that stay visible in it."""

    folder: Path
    keep: tuple[Path, ...]


def needed_trees() -> list[Path]:
    """The virtual environment, its interpreter and the package: what a job of the lab runs."""
    package = Path(__file__).resolve().parents[2]
    found = [Path(sys.prefix).resolve(), Path(sys.base_prefix).resolve(), package]
    return outermost([tree for tree in found if tree != Path("/usr")])


def outermost(trees: list[Path]) -> list[Path]:
    """Leave out trees that lie inside another one."""
    unique = sorted(set(trees))
    return [tree for tree in unique if not any(tree.is_relative_to(other) for other in unique if other != tree)]


def closed_ancestor(tree: Path) -> Path | None:
    """The topmost folder above a tree that strangers may not enter."""
    for folder in reversed(tree.parents):
        if not folder.stat().st_mode & stat.S_IXOTH:
            return folder
    return None


def masks(trees: list[Path]) -> list[Mask]:
    """Every folder to be replaced; /root always is one, because the lab's root has a home of its own."""
    folders: dict[Path, list[Path]] = {ROOT_HOME: []}
    for tree in trees:
        folder = ROOT_HOME if tree.is_relative_to(ROOT_HOME) else closed_ancestor(tree)
        if folder is not None:
            folders.setdefault(folder, []).append(tree)
    return [Mask(folder, tuple(keep)) for folder, keep in sorted(folders.items())]


def unreadable(trees: list[Path]) -> list[Path]:
    """Trees whose own mode forbids strangers; no mount can help there."""
    wanted = stat.S_IXOTH | stat.S_IROTH
    return [tree for tree in trees if os.stat(tree).st_mode & wanted != wanted]  # noqa: PTH116  plain and quick
