"""Checkpoints of Megatron-LM: iter_NNNNNNN/, and a tracker file that says up to which they count."""

from __future__ import annotations

import re
from pathlib import Path

from ftslurm.checkpoint.frameworks.framework import Found, Framework
from ftslurm.checkpoint.frameworks.tree import checked, files_below, names_in, numbered

_FOLDER = re.compile(r"iter_([0-9]{7,15})")
TRACKER = "latest_checkpointed_iteration.txt"


def find(root: Path) -> list[Found]:
    """All iter_NNNNNNN of a folder, the newest last."""
    also = (TRACKER,) if TRACKER in names_in(root) else ()
    return [
        Found(step=step, name=name, files=files_below(root, name), also=also)
        for step, name in sorted(numbered(root, _FOLDER))
    ]


def _examine(root: Path, found: Found, world: int | None) -> None:
    pass


MEGATRON = Framework(
    name="megatron",
    reshards=False,
    save_on="signal:TERM",
    restore_by="tracker",
    enforced=False,
    find=find,
    check=checked(_examine),
)
