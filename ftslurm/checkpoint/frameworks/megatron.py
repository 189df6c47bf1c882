"""Checkpoints of Megatron-LM: iter_NNNNNNN/, and a tracker file that says up to which they count.

The tracker is written when all ranks have written theirs. Two forms: one folder for each rank of the model's
parallelism (`--ckpt-format torch`), whose arguments say how many there must be; and those of
torch.distributed.checkpoint with (`torch_dist`) or without (`torch_dcp`, `fsdp_dtensor`) metadata.json and common.pt.
"""

from __future__ import annotations

import re
from pathlib import Path

from ftslurm.checkpoint import disk
from ftslurm.checkpoint.frameworks.dcp import METADATA, examine_folder
from ftslurm.checkpoint.frameworks.framework import Found, Framework
from ftslurm.checkpoint.frameworks.pickled import Thing
from ftslurm.checkpoint.frameworks.records import json_object, line_of, same_step
from ftslurm.checkpoint.frameworks.torchfile import peek
from ftslurm.checkpoint.frameworks.tree import checked, files_below, names_in, numbered
from ftslurm.core.strictjson import refuse, whole

_FOLDER = re.compile(r"iter_([0-9]{7,15})")
_RANK = re.compile(r"mp_rank_([0-9]{2,})(?:_([0-9]{3,}))?(?:_([0-9]{3,}))?")
TRACKER = "latest_checkpointed_iteration.txt"
_STATES = "model_optim_rng.pt"
_OPTIMIZER = "distrib_optim.pt"
_DESCRIPTION = "metadata.json"
_COMMON = "common.pt"
_MOST_RANKS = 10_000_000


def find(root: Path) -> list[Found]:
    """All iter_NNNNNNN of a folder, the newest last."""
    also = (TRACKER,) if TRACKER in names_in(root) else ()
    return [
        Found(step=step, name=name, files=files_below(root, name), also=also)
        for step, name in sorted(numbered(root, _FOLDER))
    ]


def _examine(root: Path, found: Found, world: int | None) -> None:  # noqa: ARG001 - the files tell their number
    tracked = line_of(root, TRACKER)
    if not tracked.isdecimal() or int(tracked) < found.step:
        refuse(f"{TRACKER} says {tracked}: {found.name} was not finished, or given up")
    names = names_in(root / found.name)
    if any(_RANK.fullmatch(name) for name in names):
        _examine_ranks(root, found, names)
        return
    if METADATA not in names or not {_DESCRIPTION, _COMMON}.isdisjoint(names):
        _examine_described(root, found)
    examine_folder(root, found.name)


def _examine_described(root: Path, found: Found) -> None:
    """Megatron's own part of a distributed checkpoint."""
    described = json_object(root, f"{found.name}/{_DESCRIPTION}")
    backend = described.get("sharded_backend")
    if backend not in {"torch_dist", "fsdp_dtensor", "torch_dcp"}:
        refuse(f"{found.name} is of the kind {str(backend)[:40]!r}, which cannot be checked")
    common = peek(root, f"{found.name}/{_COMMON}")
    if "iteration" in common:
        same_step(common["iteration"], found.step, f"{found.name}/{_COMMON}: iteration")


def _examine_ranks(root: Path, found: Found, names: list[str]) -> None:
    """One folder for each rank of the model's parallelism, each with its file."""
    folders = {name: match for name in names if (match := _RANK.fullmatch(name))}
    for name in folders:
        disk.plain_size(root, f"{found.name}/{name}/{_STATES}")
    first = peek(root, f"{found.name}/{min(folders)}/{_STATES}")
    same_step(first.get("iteration"), found.step, f"{found.name}/{min(folders)}: iteration")
    args = first.get("args")
    if not isinstance(args, Thing):
        refuse(f"{found.name} does not say how many ranks wrote it: it has no args")
    tensor, pipeline, expert = (
        whole(args.part(f"{kind}_model_parallel_size") or 1, f"{kind}_model_parallel_size", _MOST_RANKS)
        for kind in ("tensor", "pipeline", "expert")
    )
    if expert > 1:
        _covers(found, folders, tensor)
    elif len(folders) != tensor * pipeline:
        refuse(f"{found.name} has {len(folders)} folders of ranks, not {tensor} x {pipeline}")
    if args.part("use_distributed_optimizer") and not args.part("no_save_optim") and expert == 1:
        for name in folders:
            disk.plain_size(root, f"{found.name}/{name}/{_OPTIMIZER}")


def _covers(found: Found, folders: dict[str, re.Match[str]], tensor: int) -> None:
    """With experts, which pairs of ranks there are depends on more than the sizes: each tensor rank must be there."""
    missing = set(range(tensor)) - {int(match[1]) for match in folders.values()}
    if missing:
        refuse(f"{found.name} has no folder mp_rank_{min(missing):02d}*")


MEGATRON = Framework(
    name="megatron",
    # The form of one folder for each rank fits one parallelism only; torch_dist reshards, but not its data order.
    reshards=False,
    # With --exit-signal-handler Megatron saves at SIGTERM, and ends; without it, it only ends.
    save_on="signal:TERM",
    restore_by="tracker",
    # Megatron follows its tracker file, whatever is there; only --ckpt-step says otherwise.
    enforced=False,
    find=find,
    check=checked(_examine),
)
