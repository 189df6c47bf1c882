"""What a file of torch.save says about itself: its pickle, read as data. The tensors are not looked at."""

from __future__ import annotations

import os
import struct
import zipfile
from pathlib import Path
from typing import Any

from ftslurm.checkpoint import disk
from ftslurm.checkpoint.frameworks import pickled
from ftslurm.core.strictjson import refuse, shortened
from ftslurm.errors import DataDamaged

_LIMIT_BYTES = 256 << 20


def peek(root: Path, name: str) -> dict[str, Any]:
    """The dict that was given to torch.save; anything in it may be of any kind.

    Raises:
        DataDamaged: it is no such file, or not sound.
        OSError: as `disk.opened`.
    """
    with disk.opened(root, name) as descriptor:
        data = _pickle_of(descriptor, name)
    saved = pickled.read(data, f"the pickle in {name}")
    if isinstance(saved, pickled.Thing):
        saved = saved.state
    if not isinstance(saved, dict):
        refuse(f"{name} holds no dict")
    return saved


def _pickle_of(descriptor: int, name: str) -> bytes:
    try:
        with os.fdopen(os.dup(descriptor), "rb") as file, zipfile.ZipFile(file) as archive:
            entries = [entry for entry in archive.infolist() if entry.filename.endswith("data.pkl")]
            if len(entries) != 1 or entries[0].file_size > _LIMIT_BYTES or entries[0].compress_type:
                refuse(f"{name} is not what torch.save writes: no data.pkl, or too large a one")
            return archive.read(entries[0])
    except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error, EOFError) as error:
        raise DataDamaged(f"{name}: the zip is unsound: {shortened(error)}") from error
