"""Checkpoints of torch.distributed.checkpoint, and so of torchtitan: a folder with `.metadata` and *.distcp."""

from __future__ import annotations

import re
from pathlib import Path

from ftslurm.checkpoint.frameworks.framework import Found, Framework
from ftslurm.checkpoint.frameworks.tree import checked, files_below, names_in, numbered

_FOLDER = re.compile(r"(?:.*[^0-9])?([0-9]{1,15})")
METADATA = ".metadata"


def find(root: Path) -> list[Found]:
    """All folders that end in a number and hold something of such a checkpoint, the newest last."""
    return [
        Found(step=step, name=name, files=files_below(root, name))
        for step, name in sorted(numbered(root, _FOLDER))
        if (root / name).is_symlink() or any(map(_is_part, names_in(root / name)))
    ]


def _is_part(name: str) -> bool:
    return name.startswith(METADATA) or name.endswith(".distcp")


def _examine(root: Path, found: Found, world: int | None) -> None:
    pass


DCP = Framework(
    name="dcp",
    reshards=True,
    save_on="none",
    restore_by="path",
    enforced=True,
    find=find,
    check=checked(_examine),
)
