"""Where the bytes of a file have to go in memory: geometry, no file is touched here.

A piece of a tensor that is contiguous on both sides goes straight from the file to its place (`Run`). Where a tensor is
cut across its rows, the bytes go through a buffer, in slabs of rows (`Slab`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ftslurm.core.manifest import CHUNK_BYTES
from ftslurm.core.rankindex import DTYPES, Entry
from ftslurm.core.tiling import Box

Chunk: TypeAlias = tuple[int, list[memoryview | int]]
"""A chunk's number and where its bytes go, from first to last; a number stands for so many that nobody wants."""

GROUP_CHUNKS = 4
"""Chunks that are read by one call: one at a time costs a third more processor time (measured)."""
SLAB_BYTES = 4 << 20
_MOST_PARTS = 1000
"""The kernel takes 1024 in one call (readv(2), IOV_MAX); a chunk has 512 at most, entries being 4 KiB apart."""
_SHORTEST_RUN = 64 << 10
"""Shorter pieces cost more as calls of their own than through a buffer."""
_COPIED_AS = {1: "u1", 2: "u2", 4: "u4", 8: "u8", 16: "c16"}
"""Elements are moved as these types: NumPy copies raw ones (`V4`) one by one."""


@dataclass(frozen=True, slots=True)
class Run:
    """Contiguous bytes from a place in the file to one in memory."""

    start: int
    view: memoryview

    @property
    def end(self) -> int:
        """The place after the last byte, in the file."""
        return self.start + len(self.view)


@dataclass(frozen=True, slots=True)
class Slab:
    """Elements that lie `strides` bytes apart from the place `start` on, and where they go."""

    start: int
    strides: tuple[int, ...]
    target: npt.NDArray[Any]

    @property
    def end(self) -> int:
        """The place after the last element."""
        steps: int = sum((size - 1) * stride for size, stride in zip(self.target.shape, self.strides, strict=True))
        itemsize: int = self.target.itemsize
        return self.start + steps + itemsize

    def copy(self, source: memoryview) -> None:
        """Take the elements out of the bytes from `start` to `end`."""
        found: npt.NDArray[Any] = np.ndarray(self.target.shape, self.target.dtype, source, strides=self.strides)
        np.copyto(self.target, found)

    def moved(self, distance: int) -> Slab:
        """The same, in a file where everything lies so much further."""
        return Slab(self.start + distance, self.strides, self.target)

    def cut(self) -> Iterator[Slab]:
        """The same elements in slabs that span SLAB_BYTES at most, as far as rows allow."""
        axis = next((at for at, size in enumerate(self.target.shape) if size > 1), None)
        if axis is None or self.end - self.start <= SLAB_BYTES:
            yield self
            return
        rows = max(SLAB_BYTES // self.strides[axis], 1)
        for first in range(0, self.target.shape[axis], rows):
            part = (slice(None),) * axis + (slice(first, first + rows),)
            slab = Slab(self.start + first * self.strides[axis], self.strides, self.target[part])
            if rows > 1:
                yield slab
            else:
                yield from slab.cut()


def slab_of(entry: Entry, wanted: Box, into: npt.NDArray[Any]) -> Slab | None:
    """What an entry has of a wanted box, with places counted from the entry's first byte; None for nothing.

    `into` is where the wanted box goes.
    """
    common = entry.box.overlap(wanted)
    if common is None:
        return None
    itemsize = DTYPES[entry.dtype]
    strides = tuple(itemsize * math.prod(entry.sizes[at + 1 :]) for at in range(len(entry.sizes)))
    start = sum(a * b for a, b in zip(common.seen_from(entry.box).offsets, strides, strict=True))
    place = common.seen_from(wanted)
    part: Any = (*(slice(at, at + size) for at, size in zip(place.offsets, place.sizes, strict=True)), ...)
    elements: npt.NDArray[Any] = into.view(_COPIED_AS[itemsize])
    return Slab(start, strides, elements[part])


def runs_of(slab: Slab) -> list[Run] | None:
    """The slab as contiguous runs that are long enough to be read on their own; None where that cannot be."""
    target = slab.target
    if target.flags.c_contiguous and slab.end - slab.start == target.nbytes:
        return [Run(slab.start, target.reshape(-1).view(np.uint8).data)]
    if not target.ndim or (len(target) > 1 and target[0].nbytes < _SHORTEST_RUN):
        return None
    runs: list[Run] = []
    for row in range(len(target)):
        inner = runs_of(Slab(slab.start + row * slab.strides[0], slab.strides[1:], target[row]))
        if inner is None:
            return None
        runs += inner
    return runs


def slab_of_run(run: Run) -> Slab:
    """The run as a slab."""
    return Slab(run.start, (1,), np.frombuffer(run.view, np.uint8))


def without_overlaps(runs: Sequence[Run]) -> tuple[list[Run], list[Run]]:
    """(in the order of the file and apart from each other; those that want bytes which another one wants too)."""
    apart: list[Run] = []
    again: list[Run] = []
    for run in sorted(runs, key=lambda run: run.start):
        (again if apart and run.start < apart[-1].end else apart).append(run)
    return apart, again


def by_chunk(runs: Sequence[Run], size: int) -> Iterator[Chunk]:
    """Each chunk of a file that has bytes of the runs, which are apart and in order."""
    chunk, parts, at = -1, list[memoryview | int](), 0
    for run in runs:
        done = 0
        while done < len(run.view):
            start = run.start + done
            if start // CHUNK_BYTES != chunk:
                if chunk >= 0:
                    yield chunk, _closed(parts, at, _end_of(chunk, size))
                chunk = start // CHUNK_BYTES
                parts, at = [], chunk * CHUNK_BYTES
            if at < start:
                parts.append(start - at)
            piece = run.view[done : done + _end_of(chunk, size) - start]
            parts.append(piece)
            at, done = start + len(piece), done + len(piece)
    if chunk >= 0:
        yield chunk, _closed(parts, at, _end_of(chunk, size))


def in_groups(chunks: Sequence[Chunk]) -> Iterator[list[Chunk]]:
    """The chunks in groups that one call can read: they follow each other and are not too many, nor their parts."""
    group: list[Chunk] = []
    for chunk in chunks:
        parts = sum(len(parts) for _, parts in (*group, chunk))
        if group and (group[-1][0] + 1 != chunk[0] or len(group) == GROUP_CHUNKS or parts > _MOST_PARTS):
            yield group
            group = []
        group.append(chunk)
    if group:
        yield group


def _end_of(chunk: int, size: int) -> int:
    return min((chunk + 1) * CHUNK_BYTES, size)


def _closed(parts: list[memoryview | int], at: int, end: int) -> list[memoryview | int]:
    return [*parts, end - at] if at < end else parts
