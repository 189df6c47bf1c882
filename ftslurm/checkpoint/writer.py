"""Writes what was staged: the data file of a rank, then its index.

All digests are taken of the staged memory, so that whatever happens between memory and disk is found by the reader. A
data file that fails to be written whole is removed, and so is its index; what exists, exists whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ftslurm.checkpoint.background import Background
from ftslurm.checkpoint.stage import Staged
from ftslurm.core.about import About
from ftslurm.core.rankindex import Entry, RankIndex

__all__ = ["Background", "Base", "Header", "WriteOptions", "write_rank"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What stands in the index besides the tensors."""

    run_id: str
    generation: str
    world_size: int
    rank: int
    host: str
    about: About = field(default_factory=About)
    objects: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteOptions:
    """`compression`: "none" or "zstd" (an entry is stored compressed where that is smaller)."""

    compression: str = "none"
    level: int = 1


class Base:
    """What an earlier generation holds, and need not be written again.

    It has to be committed, full, and of the same run, rank and world.
    """

    def __init__(self, index: RankIndex) -> None:
        self.index = index

    def find(self, piece: Entry) -> Entry | None:
        """The same piece with the same bytes."""
        raise NotImplementedError


def write_rank(
    folder: Path, staged: Staged, header: Header, *, base: Base | None = None, options: WriteOptions | None = None
) -> RankIndex:
    """Write `<rank>.bin` and then `<rank>.json` into `folder`, durably; the folder is made where it is missing.

    Raises:
        StorageError: full, read-only, failing. Neither file is there then.
        UsageError: the state cannot be written as it is, or was saved under this name before.
    """
    raise NotImplementedError
