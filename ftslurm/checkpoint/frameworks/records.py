"""The small files of frameworks, in JSON or plain text, read with distrust but by the frameworks' own rules."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from ftslurm.checkpoint import disk
from ftslurm.core.strictjson import MOST_VALUES, refuse, shortened
from ftslurm.errors import DataDamaged

_LIMIT_BYTES = 256 << 20
"""A Trainer's history of a million steps has 200 MB."""
_LIMIT_LINE_BYTES = 4096


def json_object(root: Path, name: str) -> dict[str, Any]:
    """A JSON object. Unlike our own records it may hold NaN and infinity: losses are sometimes no numbers.

    Raises:
        DataDamaged: it is cut off, too large, or no object.
        OSError: as `disk.opened`.
    """
    data = disk.read_small(root, name, _LIMIT_BYTES)
    if sum(map(data.count, (b",", b"[", b"{"))) > MOST_VALUES:
        refuse(f"{name} has more than {MOST_VALUES} values")
    try:
        record = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataDamaged(f"{name} is cut off or no valid JSON: {shortened(error)}") from error
    if not isinstance(record, dict):
        refuse(f"{name} holds no JSON object")
    return record


def line_of(root: Path, name: str) -> str:
    """The only line of a pointer file, such as Megatron's tracker and DeepSpeed's `latest`; raises as `json_object`."""
    text = disk.read_small(root, name, _LIMIT_LINE_BYTES).decode("utf-8", "replace").strip()
    if not re.fullmatch(r"[\w=+-][\w.=+-]{0,254}", text, re.ASCII):  # no path, and neither . nor ..
        refuse(f"{name} holds {shortened(text)}, which is no name of a checkpoint")
    return text


def same_step(found: object, step: int, what: str) -> None:
    """Refuse a checkpoint that is of another step than its name tells."""
    if found != step or isinstance(found, bool):
        refuse(f"{what} is {shortened(found)}, but the name tells {step}")
