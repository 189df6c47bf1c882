"""Checkpoints of torch.distributed.checkpoint, and so of torchtitan: a folder with `.metadata` and *.distcp.

The coordinator writes `.metadata` last, to another name first. It says for every piece of every tensor in which file,
where and how long it is; so each file must end where its last piece does.
"""

from __future__ import annotations

import re
from pathlib import Path

from ftslurm.checkpoint import disk
from ftslurm.checkpoint.frameworks import pickled
from ftslurm.checkpoint.frameworks.framework import Found, Framework
from ftslurm.checkpoint.frameworks.tree import checked, files_below, names_in, numbered
from ftslurm.core.strictjson import refuse, safe_name, whole

_FOLDER = re.compile(r"(?:.*[^0-9])?([0-9]{1,15})")
METADATA = ".metadata"
_LIMIT_BYTES = 256 << 20
_LONGEST = 1 << 60
_ALLOWED = re.compile(
    r"torch\.distributed\.checkpoint\."
    r"(metadata\._?[A-Z]\w+|filesystem\._Storage\w+|planner\.[A-Z]\w+(Plan|Item|Data|Type))(\.[A-Z_]+)?"
    r"|torch\.(Size|device|bool|b?float[0-9]\w*|q?u?int[0-9]\w*|complex[0-9]+|bits[0-9]\w*|strided|sparse_\w+)"
    r"|torch\.serialization\._get_layout|collections\.OrderedDict|pathlib\.\w*Path|builtins\.getattr"
    r"|megatron\.core\.dist_checkpointing\.strategies\.torch\.MCore\w+"
)
"""What `.metadata` may name. Programs load it as a common pickle: whatever else is in it would be run there."""


def find(root: Path) -> list[Found]:
    """All folders that end in a number and hold something of such a checkpoint, the newest last."""
    return [
        Found(step=step, name=name, files=files_below(root, name))
        for step, name in sorted(numbered(root, _FOLDER))
        if (root / name).is_symlink() or any(map(_is_part, names_in(root / name)))
    ]


def _is_part(name: str) -> bool:
    return name.startswith(METADATA) or name.endswith(".distcp")


def examine_folder(root: Path, folder: str) -> None:
    """Raises DataDamaged where `.metadata` is unsound, or a file that it names is not there at full size."""
    what = f"{folder}/{METADATA}"
    data = disk.read_small(root, what, _LIMIT_BYTES)
    metadata = pickled.read(data, what, allowed=lambda name: _ALLOWED.fullmatch(name) is not None)
    stored = metadata.part("storage_data") if isinstance(metadata, pickled.Thing) else None
    if not isinstance(stored, dict) or not stored:
        refuse(f"{what} names no file")
    ends: dict[str, int] = {}
    for place in stored.values():
        if not isinstance(place, pickled.Thing):
            refuse(f"{what} is not what torch writes")
        name = safe_name(place.part("relative_path"))
        start = whole(place.part("offset"), f"{what}: offset", _LONGEST)
        ends[name] = max(ends.get(name, 0), start + whole(place.part("length"), f"{what}: length", _LONGEST))
    for name, end in sorted(ends.items()):
        size = disk.plain_size(root, f"{folder}/{name}")
        if size != end:
            refuse(f"{folder}/{name} has {size} bytes, but {METADATA} tells {end}")


def _examine(root: Path, found: Found, world: int | None) -> None:  # noqa: ARG001 - `.metadata` names all files
    examine_folder(root, found.name)


DCP = Framework(
    name="dcp",
    # Every rank reads the pieces that it needs, whoever wrote them.
    reshards=True,
    # Neither torch nor torchtitan listens to a signal: they save at their own intervals.
    save_on="none",
    restore_by="path",
    enforced=True,
    find=find,
    check=checked(_examine),
)
