"""Checkpoints of the Hugging Face Trainer: checkpoint-N/."""

from __future__ import annotations

import re
from pathlib import Path

from ftslurm.checkpoint.frameworks.framework import Found, Framework
from ftslurm.checkpoint.frameworks.tree import checked, files_below, numbered

_FOLDER = re.compile(r"checkpoint-([0-9]{1,15})")


def find(root: Path) -> list[Found]:
    """All checkpoint-N of an output folder, the newest last."""
    return [
        Found(step=step, name=name, files=files_below(root, name)) for step, name in sorted(numbered(root, _FOLDER))
    ]


def _examine(root: Path, found: Found, world: int | None) -> None:
    pass


HF = Framework(
    name="hf",
    reshards=True,
    save_on="none",
    restore_by="path",
    enforced=True,
    find=find,
    check=checked(_examine),
)
