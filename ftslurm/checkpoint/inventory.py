"""All that a store has to show, for people: generations in every state, oldest first."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from ftslurm.checkpoint import disk
from ftslurm.checkpoint.commit import local_records
from ftslurm.checkpoint.layout import StorePaths
from ftslurm.checkpoint.rollback import read_rollbacks
from ftslurm.checkpoint.store import read_stored, scan
from ftslurm.core.manifest import is_generation, parse_generation
from ftslurm.errors import DataDamaged, StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ftslurm.checkpoint.store import Refusal
    from ftslurm.core.manifest import Commit

_REASON_LIMIT_BYTES = 1 << 16


class Standing(StrEnum):
    """What a generation is worth."""

    DURABLE = "DURABLE"
    LOCAL = "LOCAL"
    UNFINISHED = "UNFINISHED"
    UNREADABLE = "UNREADABLE"
    DAMAGED = "DAMAGED"
    QUARANTINED = "QUARANTINED"
    ABANDONED = "ABANDONED"
    GONE = "GONE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One generation. What is not known is None; `at` is wall-clock seconds of the commit."""

    generation: str
    standing: Standing
    size_bytes: int | None = None
    files: int | None = None
    nodes: tuple[str, ...] = ()
    world_size: int | None = None
    at: float | None = None
    reason: str = ""

    @property
    def step(self) -> int:
        """The training step."""
        return parse_generation(self.generation)[0]

    @property
    def attempt(self) -> int:
        """The attempt that wrote it."""
        return parse_generation(self.generation)[1]


def inventory(root: Path) -> tuple[Row, ...]:
    """Everything in the store at `root`. Reads no data, only records and sizes.

    Raises:
        StorageError: the store cannot be read.
    """
    try:
        records = tuple(local_records(root))
        found = scan(root, [record.generation for record in records])
        rows = {each.generation: _row(each.commit, Standing.DURABLE, len(each.files)) for each in found.generations}
        rows |= {refusal.generation: _refused(refusal) for refusal in found.refused}
        rows |= {row.generation: row for row in _abandoned(root, found.abandoned)}
        newest = max((parse_generation(each.generation) for each in found.generations), default=(-1, -1))
        for record in records:
            known = rows.get(record.generation)
            if record.generation in found.abandoned:
                continue
            if known is None and parse_generation(record.generation) < newest:
                continue  # superseded, and cleaned away
            if known is None or known.standing is Standing.UNFINISHED:
                rows[record.generation] = _row(record, Standing.LOCAL, sum(part.files for part in record.parts))
        aside = _set_aside(root)
    except OSError as error:
        raise StorageError(f"cannot read {root}: {error.strerror}") from error
    return tuple(sorted((*rows.values(), *aside), key=lambda row: (row.step, row.attempt, row.standing)))


def _row(commit: Commit, standing: Standing, files: int) -> Row:
    return Row(
        generation=commit.generation,
        standing=standing,
        size_bytes=commit.size_bytes,
        files=files,
        nodes=tuple(part.node for part in commit.parts),
        world_size=commit.world_size,
        at=commit.at,
    )


def _abandoned(root: Path, names: tuple[str, ...]) -> Iterator[Row]:
    """What a rollback has left behind, as far as it is durable."""
    rollbacks = read_rollbacks(root)
    for name in names:
        try:
            stored = read_stored(root, name)
        except DataDamaged as error:
            yield Row(generation=name, standing=Standing.DAMAGED, reason=str(error))
        except FileNotFoundError:
            continue
        else:
            reason = f"rolled back to {rollbacks[-1].to}"
            yield replace(_row(stored.commit, Standing.ABANDONED, len(stored.files)), reason=reason)


def _refused(refusal: Refusal) -> Row:
    standing = Standing.DAMAGED if refusal.damaged else Standing.UNREADABLE
    if refusal.is_unfinished:
        standing = Standing.UNFINISHED
    if refusal.gone:
        standing = Standing.GONE
    return Row(generation=refusal.generation, standing=standing, reason=refusal.reason)


def _set_aside(root: Path) -> list[Row]:
    """What lies in quarantine/, with the reason that was written beside it."""
    folder = StorePaths(root).quarantine
    rows: list[Row] = []
    for name in disk.entries_of(folder):
        generation = name.partition(".")[0]
        if is_generation(generation) and not name.endswith(".json"):
            reason, at = _reason(folder, name)
            rows.append(Row(generation=generation, standing=Standing.QUARANTINED, reason=reason, at=at))
    return rows


def _reason(folder: Path, name: str) -> tuple[str, float | None]:
    try:
        record = json.loads(disk.read_small(folder, f"{name}.json", _REASON_LIMIT_BYTES))
        return str(record["reason"]), float(record["at"])
    except (OSError, ValueError, KeyError, TypeError):
        return "the reason was not written", None
