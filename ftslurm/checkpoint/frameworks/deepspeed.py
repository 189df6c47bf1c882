"""Checkpoints of DeepSpeed: global_stepN/ or another tag, and `latest`, which names one of them."""

from __future__ import annotations

import re
from pathlib import Path

from ftslurm.checkpoint.frameworks.framework import Found, Framework
from ftslurm.checkpoint.frameworks.tree import checked, files_below, names_in, numbered

_TAG = re.compile(r"(?:.*[^0-9])?([0-9]{1,15})")
LATEST = "latest"
_STATES = ("_model_states.pt", "_optim_states.pt")
_BESIDE = (LATEST, "zero_to_fp32.py")


def find(root: Path) -> list[Found]:
    """All tags that end in a number and hold something of such a checkpoint, the newest last."""
    also = tuple(name for name in names_in(root) if name in _BESIDE)
    return [
        Found(step=step, name=name, files=files_below(root, name), also=also)
        for step, name in sorted(numbered(root, _TAG))
        if (root / name).is_symlink() or any(below.endswith(_STATES) for below in names_in(root / name))
    ]


def _examine(root: Path, found: Found, world: int | None) -> None:
    pass


DEEPSPEED = Framework(
    name="deepspeed",
    reshards=False,
    save_on="none",
    restore_by="tag",
    enforced=False,
    find=find,
    check=checked(_examine),
)
