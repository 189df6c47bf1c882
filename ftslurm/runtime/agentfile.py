"""The small file on a node that tells its ranks where their agent is; whoever comes last is the agent."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path

from ftslurm.paths import PRIVATE_FILE


def write(path: Path, *, port: int, epoch: int, node: str, key: str) -> None:
    """Say where ranks find this agent; the key is in it so that ranks never touch shared storage. Raises OSError."""
    part = path.with_suffix(f".{os.getpid()}")
    handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, PRIVATE_FILE)
    try:
        os.write(handle, json.dumps({"port": port, "epoch": epoch, "node": node, "key": key}).encode())
    finally:
        os.close(handle)
    part.replace(path)


def remove(path: Path, port: int) -> None:
    """Remove it, unless it is another agent's by now."""
    with suppress(FileNotFoundError, ValueError):
        if json.loads(path.read_bytes()).get("port") == port:
            path.unlink()
