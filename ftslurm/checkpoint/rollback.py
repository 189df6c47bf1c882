"""The record of rollbacks: one sealed file in the store, replaced as a whole, and always opened by its exact name.

What it means for each generation is said by `ftslurm.core.branches`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ftslurm.checkpoint import disk
from ftslurm.checkpoint.layout import StorePaths
from ftslurm.checkpoint.sealed import open_record, seal_record
from ftslurm.core.branches import Rollback
from ftslurm.core.strictjson import list_of

if TYPE_CHECKING:
    from pathlib import Path

_LIMIT_BYTES = 4 << 20


def read_rollbacks(root: Path) -> tuple[Rollback, ...]:
    """The rollbacks of a store, oldest first.

    Raises:
        DataDamaged: the record is not what was written, so that nobody knows what was abandoned.
        OSError: it cannot be read.
    """
    path = StorePaths(root).rollbacks
    try:
        data = disk.read_small(path.parent, path.name, _LIMIT_BYTES)
    except FileNotFoundError:
        return ()
    record = open_record(data, ("rollbacks",), path.name)
    return tuple(Rollback.from_json(each) for each in list_of(record["rollbacks"], path.name))


def add_rollback(root: Path, rollback: Rollback) -> None:
    """Write one more, durably. Raises as `read_rollbacks`."""
    known = [*read_rollbacks(root), rollback]
    disk.write_small(StorePaths(root).rollbacks, seal_record({"rollbacks": [each.to_json() for each in known]}))
