"""The part of a save that training waits for: copying the state into kept memory.

The memory is laid out exactly as the data file will be (`ftslurm.core.rankindex`) and begins at a page's border, so
that it can be digested and written as it stands. It is allocated once: memory that is touched for the first time costs
ten times the copy (measured). While a save is being written from it, nothing else may be filled in: `Background` allows
one save at a time.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ftslurm.core.rankindex import DTYPES, Kind, aligned
from ftslurm.core.tiling import Box
from ftslurm.errors import UsageError


class Source(Protocol):
    """One local piece of the state, wherever it lives; the fields are those of `ftslurm.core.rankindex.Entry`."""

    @property
    def key(self) -> str:
        """The tensor's name."""

    @property
    def kind(self) -> Kind:
        """How it is spread."""

    @property
    def dtype(self) -> str:
        """One of `ftslurm.core.rankindex.DTYPES`."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the whole tensor."""

    @property
    def offsets(self) -> tuple[int, ...]:
        """Where the piece begins."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """Of the piece."""

    @property
    def nbytes(self) -> int:
        """Of the piece."""

    def copy_to(self, target: memoryview) -> None:
        """Write `nbytes` raw bytes: C order, little endian. `target` has exactly that many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """A piece in the staged memory: `length` bytes at `offset`; what lies between pieces is zero."""

    key: str
    kind: Kind
    dtype: str
    shape: tuple[int, ...]
    box: Box
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Staged:
    """A copy of the state at one moment. Valid until the stage is filled again."""

    memory: memoryview
    pieces: tuple[Placed, ...]

    def bytes_of(self, piece: Placed) -> memoryview:
        """The raw bytes of a piece."""
        return self.memory[piece.offset : piece.offset + piece.length]


def anonymous_memory(size: int) -> memoryview:
    """`size` bytes of this process alone, from a page's border on; in huge pages where the kernel has them."""
    pages = mmap.mmap(-1, max(size, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        try:
            pages.madvise(mmap.MADV_HUGEPAGE)
        except OSError:
            return memoryview(pages)[:size]  # a kernel without them: small pages serve as well
    return memoryview(pages)[:size]


class Stage:
    """The kept memory. `allocate` returns page-aligned, writable memory of so many bytes (pinned, for a GPU)."""

    def __init__(self, allocate: Callable[[int], memoryview] = anonymous_memory) -> None:
        self._allocate = allocate
        self._memory = memoryview(bytearray())

    @property
    def size_bytes(self) -> int:
        """How much memory is kept."""
        return len(self._memory)

    def prepare(self, nbytes: int) -> None:
        """Have at least this much memory, touched, so that the first save is as fast as the others."""
        if nbytes <= len(self._memory):
            return
        self._memory = memoryview(bytearray())
        memory = self._allocate(aligned(nbytes))
        pages = np.frombuffer(memory, dtype=np.uint8)
        if pages.ctypes.data % mmap.PAGESIZE:
            raise UsageError("the staging memory does not begin at a page's border")
        pages[:: mmap.PAGESIZE] = 0
        self._memory = memory

    def fill(self, sources: Sequence[Source]) -> Staged:
        """Copy the sources: the time that training waits.

        Raises:
            UsageError: two sources are the same piece, or one does not have the bytes that its sizes say.
        """
        placed: list[Placed] = []
        ordered = sorted(sources, key=_place)
        end = 0
        for source in ordered:
            piece = _placed(source, end)
            if placed and (placed[-1].key, placed[-1].box) == (piece.key, piece.box):
                raise UsageError(f"the state has {piece.key!r} {piece.box} twice")
            placed.append(piece)
            end += aligned(piece.length)
        self.prepare(end)
        for source, piece in zip(ordered, placed, strict=True):
            stop = piece.offset + piece.length
            source.copy_to(self._memory[piece.offset : stop])
            self._memory[stop : aligned(stop)] = bytes(aligned(stop) - stop)
        return Staged(self._memory[:end], tuple(placed))


def staged_bytes(sources: Sequence[Source]) -> int:
    """How much memory `fill` will need for these."""
    return sum(aligned(source.nbytes) for source in sources)


def _place(source: Source) -> tuple[str, Box]:
    return source.key, Box(tuple(source.offsets), tuple(source.sizes))


def _placed(source: Source, offset: int) -> Placed:
    piece = Placed(
        key=source.key,
        kind=source.kind,
        dtype=source.dtype,
        shape=tuple(source.shape),
        box=Box(tuple(source.offsets), tuple(source.sizes)),
        offset=offset,
        length=source.nbytes,
    )
    itemsize = DTYPES.get(piece.dtype)
    if itemsize is None:
        raise UsageError(f"{piece.key!r} is of the type {piece.dtype!r}, which cannot be saved")
    if not piece.box.within(piece.shape) or piece.length != piece.box.volume * itemsize:
        told = f"{piece.length} bytes at {piece.box} of {piece.shape}"
        raise UsageError(f"{piece.key!r} says that it has {told}, which cannot be")
    return piece
