"""Reads a committed generation back, on any number of ranks; every chunk is verified before it is used."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from ftslurm.checkpoint.layout import GenerationPaths
from ftslurm.core.manifest import Commit
from ftslurm.core.wholeness import Whole

if TYPE_CHECKING:
    import numpy.typing as npt

Fetch = Callable[[str, str], Path]
"""(generation, name of a data file) -> where it lies now. Raises StorageError or DataDamaged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Want:
    """A box of a tensor, and where it has to go.

    `into` is writable, has the shape `sizes` and elements of the right size; its strides may be any. A key of the kind
    RANK is that of `rank`.
    """

    key: str
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    into: npt.NDArray[Any]
    rank: int | None = None


@dataclass(slots=True, kw_only=True)
class Counters:
    """What reading has cost: bytes read by source ("own", "copy", "fetched"), chunks verified."""

    bytes_read: dict[str, int] = field(default_factory=dict)
    chunks: int = 0


class Generation:
    """A committed generation, opened for reading. A context manager: files are closed at its end."""

    whole: Whole
    commit: Commit

    @classmethod
    def open(
        cls,
        root: GenerationPaths,
        *,
        others: Sequence[GenerationPaths] = (),
        fetch: Fetch | None = None,
        on_damage: Callable[[Path, str], None] | None = None,
    ) -> Self:
        """Check COMMIT.json, the manifests, the rank indexes, and that they make a whole.

        `others` are folders of the same generation, asked in order where the first has no right bytes (a partner's
        copy, shared storage); `fetch` is asked last. Base generations lie beside each folder, under their own names.
        `on_damage` is told (path, reason) of each file that is not what was written.

        Raises:
            DataDamaged: something is missing or not what was written, and no other copy is right.
            StorageError: something cannot be read.
        """
        raise NotImplementedError

    def read(self, wants: Sequence[Want]) -> Counters:
        """Bring the bytes. When this returns, every chunk that was read was verified.

        Raises:
            DataDamaged: a wanted key or box does not exist, or does not fit; a chunk is wrong and no copy is right.
            StorageError: something cannot be read.
        """
        raise NotImplementedError

    def objects(self, rank: int | None = None) -> Mapping[str, Any]:
        """The values that are no tensors: those of a rank, or the common ones (those of rank 0)."""
        return self.whole.objects(rank or 0)

    def close(self) -> None:
        """Close the files."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
