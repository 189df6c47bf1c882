"""Checkpoints of DeepSpeed: global_stepN/ or another tag, and `latest`, which names one of them.

Rank 0 writes `latest` when its own files are written, without waiting for the other ranks; so every file is counted,
too. How many there must be stands in the model's states: `dp_world_size` shards of the optimizer for each of
`mp_world_size` parts of the model.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ftslurm.checkpoint.frameworks.framework import Found, Framework
from ftslurm.checkpoint.frameworks.records import line_of, same_step
from ftslurm.checkpoint.frameworks.torchfile import peek
from ftslurm.checkpoint.frameworks.tree import checked, files_below, names_in, numbered
from ftslurm.core.strictjson import refuse, whole

_TAG = re.compile(r"(?:.*[^0-9])?([0-9]{1,15})")
_MODEL = re.compile(r"(?:zero_pp_rank_[0-9]+_)?mp_rank_[0-9]{2,}_model_states\.pt")
LATEST = "latest"
_STATES = ("_model_states.pt", "_optim_states.pt")
_BESIDE = (LATEST, "zero_to_fp32.py", "zero_to_torch.py")
_MOST_RANKS = 10_000_000


def find(root: Path) -> list[Found]:
    """All tags that end in a number and hold something of such a checkpoint, the newest last."""
    also = tuple(name for name in names_in(root) if name in _BESIDE)
    return [
        Found(step=step, name=name, files=files_below(root, name), also=also)
        for step, name in sorted(numbered(root, _TAG))
        if (root / name).is_symlink() or any(below.endswith(_STATES) for below in names_in(root / name))
    ]


def examine_tag(root: Path, folder: str) -> dict[str, Any]:
    """The states in the first part of the model; raises DataDamaged where a file of any rank is missing."""
    names = names_in(root / folder)
    first = next((name for name in names if _MODEL.fullmatch(name)), None)
    if first is None:
        refuse(f"{folder} has no states of the model")
    saved = peek(root, f"{folder}/{first}")
    shards = whole(saved.get("dp_world_size"), f"{folder}/{first}: dp_world_size", _MOST_RANKS)
    parts = whole(saved.get("mp_world_size"), f"{folder}/{first}: mp_world_size", _MOST_RANKS)
    is_split = first.startswith("zero_pp_rank_")
    sharded = saved.get("optimizer") is None
    for part in range(parts):
        _must_have(folder, names, [f"mp_rank_{part:02d}"] if not is_split else [], "model_states.pt")
        ranks = [f"zero_pp_rank_{rank}_mp_rank_{part:02d}" for rank in range(shards)]
        _must_have(folder, names, ranks if is_split else [], "model_states.pt")
        prefix = "bf16_" if any(name.startswith("bf16_zero_") for name in names) else ""
        _must_have(folder, names, [prefix + rank for rank in ranks] if sharded else [], "optim_states.pt")
    return saved


def _must_have(folder: str, names: list[str], ranks: list[str], kind: str) -> None:
    there = set(names)
    missing = [name for name in (f"{rank}_{kind}" for rank in ranks) if name not in there]
    if missing:
        refuse(f"{folder}/{missing[0]} is missing, and {len(missing) - 1} more of {len(ranks)} such files")


def _examine(root: Path, found: Found, world: int | None) -> None:  # noqa: ARG001 - the files tell their number
    latest = line_of(root, LATEST)
    newest = _TAG.fullmatch(latest)
    if latest != found.name and (newest is None or int(newest[1]) < found.step):
        refuse(f"{LATEST} names {latest}: {found.name} was not finished, or given up")
    saved = examine_tag(root, found.name)
    if found.name.startswith("global_step"):
        same_step(saved.get("global_steps"), found.step, f"{found.name}: global_steps")


DEEPSPEED = Framework(
    name="deepspeed",
    # ZeRO's shards fit the number of ranks that wrote them; the universal form needs a conversion in between.
    reshards=False,
    # DeepSpeed listens to no signal: the program calls save_checkpoint when it likes.
    save_on="none",
    restore_by="tag",
    # load_checkpoint() without a tag follows `latest`, whatever is in it.
    enforced=False,
    find=find,
    check=checked(_examine),
)
