"""Checkpoints of Lightning: *.ckpt, a file, or a folder where the strategy writes one file a rank.

The file is one of torch.save; the folder one of torch.distributed.checkpoint with meta.pt written last (FSDP, model
parallel), or one of DeepSpeed.
"""

from __future__ import annotations

import re
from pathlib import Path

from ftslurm.checkpoint.frameworks import deepspeed
from ftslurm.checkpoint.frameworks.dcp import examine_folder
from ftslurm.checkpoint.frameworks.framework import Found, Framework
from ftslurm.checkpoint.frameworks.records import same_step
from ftslurm.checkpoint.frameworks.torchfile import peek
from ftslurm.checkpoint.frameworks.tree import checked, files_below, names_in
from ftslurm.core.strictjson import refuse

_STEP = re.compile(r"(?:^|[^a-zA-Z])step[=_-]?([0-9]{1,15})")
_NUMBERS = re.compile(r"[0-9]{1,15}")
_AGAIN = re.compile(r"-v([0-9]{1,6})$")
_META = "meta.pt"
_DEEPSPEED_TAG = "checkpoint"
_DEPTH = 4
"""lightning_logs/version_N/checkpoints/ lies three deep."""


def find(root: Path) -> list[Found]:
    """All *.ckpt whose name tells a step, also in the folders that loggers make; the newest last."""
    found: list[tuple[tuple[int, list[tuple[int, str]]], Found]] = []
    waiting = [("", 0)]
    while waiting:
        place, depth = waiting.pop()
        for entry in names_in(root / place):
            name = f"{place}{entry}"
            if entry.endswith(".ckpt"):
                step = _step_of(entry.removesuffix(".ckpt"))
                if step is not None:
                    found.append(((step, _natural(name)), Found(step=step, name=name, files=files_below(root, name))))
            elif depth < _DEPTH and (root / name).is_dir() and not (root / name).is_symlink():
                waiting.append((f"{name}/", depth + 1))
    return [each for _, each in sorted(found, key=lambda pair: pair[0])]


def _step_of(stem: str) -> int | None:
    """The step that a name tells: after `step`, else its only number; an epoch is no step."""
    stem = _AGAIN.sub("", stem)
    told = _STEP.search(stem)
    if told:
        return int(told[1])
    numbers = _NUMBERS.findall(stem)
    return int(numbers[0]) if len(numbers) == 1 and not re.search(r"epoch|hpc_ckpt", stem) else None


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts version_10 behind version_9, and a name that was used again (-v1) behind the first."""
    return [
        (int(part), "") if part.isdecimal() else (-1, part)
        for part in re.split(r"([0-9]+)", name.removesuffix(".ckpt"))
    ]


def _examine(root: Path, found: Found, world: int | None) -> None:  # noqa: ARG001 - no file of it tells a rank
    if found.files == (found.name,):
        saved = peek(root, found.name)
        if "optimizer_states" not in saved:
            refuse(f"{found.name} has no optimizer states; with save_weights_only training cannot go on from it")
    elif deepspeed.LATEST in names_in(root / found.name):
        saved = deepspeed.examine_tag(root, f"{found.name}/{_DEEPSPEED_TAG}")
    else:
        examine_folder(root, found.name)
        saved = peek(root, f"{found.name}/{_META}")
    same_step(saved.get("global_step"), found.step, f"{found.name}: global_step")


LIGHTNING = Framework(
    name="lightning",
    # True of the file and of FSDP's folder; DeepSpeed's fits one number of ranks.
    reshards=True,
    # At SIGUSR1 Lightning saves *and requeues the job by itself*, unless SLURMEnvironment(auto_requeue=False) is given:
    # then the signal kills it. At SIGTERM it only ends, after a collective call that may never return.
    save_on="none",
    restore_by="path",
    enforced=True,
    find=find,
    check=checked(_examine),
)
