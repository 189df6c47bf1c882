"""The part of a save that training waits for: copying the state into kept memory.

The memory is laid out exactly as the data file will be (`ftslurm.core.rankindex`) and begins at a page's border, so
that it can be digested and written as it stands. It is allocated once: memory that is touched for the first time costs
ten times the copy (measured). While a save is being written from it, nothing else may be filled in: `Background` allows
one save at a time. The writer need not wait for the whole copy: it follows close behind (`Arrival`).
"""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ftslurm.checkpoint.pages import anonymous_memory
from ftslurm.core.rankindex import DTYPES, Kind, aligned
from ftslurm.core.tiling import Box
from ftslurm.errors import UsageError

_COPY_BYTES = 4 << 20
_COPY_S = 600.0
"""Longer than any copy in memory takes."""
_MOST_THREADS = 4
"""More do not copy faster: memory is what limits them."""


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

    @property
    def memory(self) -> npt.NDArray[np.uint8] | None:
        """The raw bytes, where they lie in the host's memory as they are to be written: C order, little endian."""

    def copy_to(self, target: memoryview) -> None:
        """Write `nbytes` raw bytes. `target` has exactly that many; a device may still be sending them afterwards."""


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


class Arrival:
    """How many bytes have been copied, told by the thread that copies, for the one that writes them."""

    def __init__(self, reached: int = 0) -> None:
        self._reached = reached
        self._given_up = False
        self._changed = threading.Condition()

    def reach(self, end: int) -> None:
        """All bytes before `end` are there."""
        with self._changed:
            self._reached = end
            self._changed.notify_all()

    def give_up(self) -> None:
        """The copy has failed: whoever waits is told."""
        with self._changed:
            self._given_up = True
            self._changed.notify_all()

    def wait(self, end: int) -> None:
        """Wait for the bytes before `end`. Raises UsageError: they will never come."""
        with self._changed:
            self._changed.wait_for(lambda: self._reached >= end or self._given_up, _COPY_S)
            if self._reached < end:
                raise UsageError("the state could not be copied")


@dataclass(frozen=True, slots=True)
class Staged:
    """A copy of the state at one moment, as far as it has arrived. Valid until the stage is filled again."""

    memory: memoryview
    pieces: tuple[Placed, ...]
    arrival: Arrival = field(default_factory=Arrival, compare=False)

    def bytes_of(self, piece: Placed) -> memoryview:
        """The raw bytes of a piece."""
        return self.memory[piece.offset : piece.offset + piece.length]


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

    def begin(self, sources: Sequence[Source]) -> Filling:
        """Lay the sources out; nothing is copied yet.

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
        return Filling(Staged(self._memory[:end], tuple(placed)), tuple(ordered))

    def fill(self, sources: Sequence[Source]) -> Staged:
        """Copy the sources; raises as `begin`."""
        filling = self.begin(sources)
        filling.copy()
        return filling.staged


@dataclass(frozen=True, slots=True)
class Filling:
    """A copy that is to be made: the time that training waits. `staged` can be written while it is being made."""

    staged: Staged
    sources: tuple[Source, ...]

    def copy(self, settle: Callable[[], None] = lambda: None) -> None:
        """Copy everything; `settle` waits for what a device still sends."""
        memory, arrival = self.staged.memory, self.staged.arrival
        blocks: list[_Block] = []
        begun = len(memory)
        try:
            for source, piece in zip(self.sources, self.staged.pieces, strict=True):
                stop, found = piece.offset + piece.length, source.memory
                if found is None:
                    source.copy_to(memory[piece.offset : stop])
                    begun = min(begun, piece.offset)
                else:
                    starts = range(0, piece.length, _COPY_BYTES)
                    blocks += [(piece.offset + at, found[at : at + _COPY_BYTES]) for at in starts]
                memory[stop : aligned(stop)] = bytes(aligned(stop) - stop)
            _Copiers(memory, blocks, arrival, begun).run()
            settle()
        except BaseException:
            arrival.give_up()
            raise
        arrival.reach(len(memory))


_Block = tuple[int, npt.NDArray[np.uint8]]
"""Where some bytes go, and the bytes: pieces of the sources that keep several threads busy."""


class _Copiers:
    """Copies blocks in several threads, none of which waits for another before the end.

    A library that has all its threads copy one tensor after the other, together, waits for the slowest at each: where
    data loaders keep the cores busy, that took four to ten times as long (measured).
    """

    def __init__(self, memory: memoryview, blocks: Sequence[_Block], arrival: Arrival, until: int) -> None:
        """`blocks` are in order; from `until` on a device may still be sending."""
        self._target = np.frombuffer(memory, dtype=np.uint8)
        self._blocks = iter(blocks)
        self._arrival = arrival
        self._until = until
        self._lock = threading.Lock()
        self._unfinished: set[int] = set()

    def run(self) -> None:
        """Return when all is copied."""
        threads = min(len(os.sched_getaffinity(0)), _MOST_THREADS)
        with ThreadPoolExecutor(threads, "ftslurm-copy") as pool:
            others = [pool.submit(self._work) for _ in range(threads - 1)]
            self._work()
            for other in others:
                other.result()

    def _work(self) -> None:
        block = self._next(None)
        while block is not None:
            at, source = block
            np.copyto(self._target[at : at + len(source)], source)
            block = self._next(at)

    def _next(self, done: int | None) -> _Block | None:
        """Note that a block is done, and take another; all bytes before those that are unfinished have arrived."""
        with self._lock:
            block = next(self._blocks, None)
            if block is not None:
                self._unfinished.add(block[0])
            if done is not None:
                self._unfinished.remove(done)
                if self._unfinished:
                    self._arrival.reach(min(self._until, *self._unfinished))
        return block


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
