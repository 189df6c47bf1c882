"""Checkpoints of the Hugging Face Trainer: checkpoint-N/.

Rank 0 writes the model with its training_args.bin, the optimizer, the scheduler and last trainer_state.json; every rank
its random state at about the same time. With FSDP and DeepSpeed the model and the optimizer are in their folders.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ftslurm.checkpoint import disk
from ftslurm.checkpoint.frameworks import deepspeed
from ftslurm.checkpoint.frameworks.dcp import examine_folder
from ftslurm.checkpoint.frameworks.framework import Found, Framework
from ftslurm.checkpoint.frameworks.pickled import Thing
from ftslurm.checkpoint.frameworks.records import json_object, line_of, same_step
from ftslurm.checkpoint.frameworks.torchfile import peek
from ftslurm.checkpoint.frameworks.tree import checked, files_below, names_in, numbered
from ftslurm.core.strictjson import plain_name, refuse

_FOLDER = re.compile(r"checkpoint-([0-9]{1,15})")
_STATE = "trainer_state.json"
_ARGUMENTS = "training_args.bin"
_SENTINEL = "checkpoint-is-incomplete.txt"
"""Lies there while a Trainer with enable_jit_checkpoint saves after a signal."""
_INDEX = (".safetensors.index.json", ".bin.index.json")
_FSDP = ("pytorch_model_fsdp_0", "optimizer_0")
_WEIGHTS = (
    *("model.safetensors", "pytorch_model.bin", "adapter_model.safetensors", "adapter_model.bin"),
    *("pytorch_model_fsdp.bin", _FSDP[0]),
)
_OPTIMIZERS = ("optimizer.pt", "optimizer.bin", _FSDP[1])
_MOST_RANKS = 10_000_000
_RANDOM = re.compile(r"rng_state_([0-9]{1,7})\.pth")


def find(root: Path) -> list[Found]:
    """All checkpoint-N of an output folder, the newest last."""
    return [
        Found(step=step, name=name, files=files_below(root, name)) for step, name in sorted(numbered(root, _FOLDER))
    ]


def _examine(root: Path, found: Found, world: int | None) -> None:
    names = set(names_in(root / found.name))
    if _SENTINEL in names:
        refuse(f"{found.name}/{_SENTINEL} says so itself")
    records = {name: json_object(root, f"{found.name}/{name}") for name in sorted({_STATE, *filter(_is_json, names)})}
    same_step(records[_STATE].get("global_step"), found.step, f"{found.name}/{_STATE}: global_step")
    by_deepspeed = deepspeed.LATEST in names
    if by_deepspeed:
        tag = line_of(root, f"{found.name}/{deepspeed.LATEST}")
        deepspeed.examine_tag(root, f"{found.name}/{tag}")
    for folder in _FSDP:
        if folder in names:
            examine_folder(root, f"{found.name}/{folder}")
    indexes = {f"{found.name}/{name}": record for name, record in records.items() if name.endswith(_INDEX)}
    if not indexes and not by_deepspeed and not names.intersection(_WEIGHTS):
        refuse(f"{found.name} has no weights")
    for name, index in indexes.items():
        _examine_shards(root, name, index)
    if not by_deepspeed and not names.intersection(_OPTIMIZERS):
        refuse(f"{found.name} has no optimizer state; with save_only_model training cannot go on from it")
    if not by_deepspeed and "scheduler.pt" not in names:
        refuse(f"{found.name}/scheduler.pt is missing")
    _examine_random(found, names, world or _world_of(root, found, names))


def _is_json(name: str) -> bool:
    return name.endswith(".json")


def _examine_shards(root: Path, name: str, index: dict[str, Any]) -> None:
    """Every shard that an index names is there; `tree` has looked at each file."""
    shards = index.get("weight_map")
    if not isinstance(shards, dict) or not shards:
        refuse(f"{name} names no shard")
    for shard in sorted({plain_name(shard, f"{name}: a shard") for shard in shards.values()}):
        if not disk.is_there(root / name.rpartition("/")[0], shard):
            refuse(f"{name} names {shard}, which is missing")


def _world_of(root: Path, found: Found, names: set[str]) -> int | None:
    """How many ranks wrote it, as the Trainer's arguments tell; those of older releases do not."""
    if _ARGUMENTS not in names:
        return None
    processes = peek(root, f"{found.name}/{_ARGUMENTS}").get("distributed_state")
    told = processes.part("num_processes") if isinstance(processes, Thing) else None
    return told if isinstance(told, int) and 0 < told < _MOST_RANKS else None


def _examine_random(found: Found, names: set[str], world: int | None) -> None:
    """One random state for each rank."""
    ranks = {int(match[1]) for name in names if (match := _RANDOM.fullmatch(name))}
    if not ranks and "rng_state.pth" not in names:
        refuse(f"{found.name} has no random state (rng_state*.pth)")
    wanted = max(ranks, default=0) + 1 if world is None else world
    missing = set(range(wanted)) - ranks if ranks or wanted > 1 else set()
    if missing:
        refuse(f"{found.name}/rng_state_{min(missing)}.pth is missing, and {len(missing) - 1} more of {wanted}")


HF = Framework(
    name="hf",
    # The whole model and optimizer are in one place, whatever the world; not so with DeepSpeed.
    reshards=True,
    # The Trainer listens to no signal; with enable_jit_checkpoint it saves 3 s after SIGTERM, and ends.
    save_on="none",
    restore_by="path",
    enforced=True,
    find=find,
    check=checked(_examine),
)
