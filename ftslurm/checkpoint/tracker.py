"""The small files by which some frameworks know their newest checkpoint: `latest`, `latest_checkpointed_iteration.txt`.

In a folder that ftslurm has made for a restart they are written, as the framework would have. In the program's own
folder one is rewritten only with `checkpoint: manage: true`, as a whole, and what stood there is kept elsewhere.
"""

from __future__ import annotations

import contextlib
import os
import threading
from typing import TYPE_CHECKING

from ftslurm.checkpoint import disk
from ftslurm.checkpoint.frameworks.deepspeed import DEEPSPEED, LATEST
from ftslurm.checkpoint.frameworks.megatron import MEGATRON, TRACKER
from ftslurm.errors import DataDamaged

if TYPE_CHECKING:
    from pathlib import Path

    from ftslurm.checkpoint.frameworks.framework import Framework

_LIMIT_BYTES = 1 << 16


def name_of(framework: Framework) -> str:
    """Return the name of the framework's file; empty where it has none."""
    return {MEGATRON.name: TRACKER, DEEPSPEED.name: LATEST}.get(framework.name, "")


def _content(framework: Framework, checkpoint: str, step: int) -> bytes:
    return (str(step) if framework.name == MEGATRON.name else checkpoint).encode()


def write_new(root: Path, framework: Framework, checkpoint: str, step: int) -> None:
    """Let the framework find `checkpoint` in a folder that ftslurm has made. Raises OSError."""
    if name_of(framework):
        disk.write_small(root / name_of(framework), _content(framework, checkpoint, step))


def together(framework: Framework, root: Path, step: int, world: int) -> Path:
    """Return what a program is given of a step whose files, of all nodes, were brought together in a folder of ours.

    Raises:
        DataDamaged: they make no complete checkpoint.
        OSError: as the system says.
    """
    found = [each for each in framework.find(root) if each.step == step]
    if not found:
        raise DataDamaged(f"{root} holds no checkpoint of step {step} in the {framework.name} layout")
    write_new(root, framework, found[-1].name, step)
    fault = framework.check(root, found[-1], world)
    if fault:
        raise DataDamaged(f"all nodes' files together are no complete checkpoint: {fault}")
    return root / found[-1].name


def rewrite(root: Path, framework: Framework, checkpoint: str, step: int, kept: Path) -> bool:
    """Let the framework find `checkpoint` in the program's own folder; what it named before is written into `kept`.

    Returns whether anything had to be changed.

    Raises:
        DataDamaged: the file is a link, or larger than such a file can be.
        OSError: as the system says.
    """
    name, wanted = name_of(framework), _content(framework, checkpoint, step)
    if not name:
        return False
    try:
        with disk.opened(root, name) as descriptor:
            mode = os.fstat(descriptor).st_mode & 0o777
        before = disk.read_small(root, name, _LIMIT_BYTES)
    except FileNotFoundError:
        mode, before = 0o644, b""
    if before.strip() == wanted:
        return False
    if before:
        disk.make_folder(kept)
        disk.write_small(kept / f"{name}-before-{step}", before)
    part = root / f".{name}.{os.getpid()}-{threading.get_ident()}.part"
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
        try:
            os.fchmod(descriptor, mode)
            disk.write_all(descriptor, wanted)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        part.rename(root / name)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise
    disk.fsync_folder(root)
    return True
