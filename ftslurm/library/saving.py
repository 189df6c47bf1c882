"""Makes the saves of one rank: the short part that training waits for, and the long part beside it.

A save that fails is told, on stderr and to the agent, and training goes on: the checkpoints before it are as good as
they were. What cannot be saved at all is the program's mistake, and an error. One save is in flight at a time; the next
one waits for it, but not for long, and is given up with a word where storage hangs.
"""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ftslurm.beats import phase
from ftslurm.checkpoint.background import Background
from ftslurm.checkpoint.stage import Stage, Staged, staged_bytes
from ftslurm.checkpoint.writer import Base, Header, WriteOptions, write_rank
from ftslurm.core.about import About, SaveKind, split_metrics
from ftslurm.core.rankindex import RankIndex
from ftslurm.core.savepolicy import SavePolicy, kind_of_save
from ftslurm.errors import FtslurmError, StorageError
from ftslurm.library.deciding import Told
from ftslurm.library.places import Place, free_bytes, generation_of
from ftslurm.library.state import Collected, Position, ProgramState

PATIENCE_S = 60.0
"""How long a save that is due waits for the one before."""
CLOSE_S = 600.0
"""How long the end of the program waits for its last save."""
GENERATIONS_KEPT = 2
"""A folder must hold so many at a time: the newest whole one, and the one that is being written."""


def say(text: str) -> None:
    """One line for people."""
    sys.stderr.write(f"ftslurm: {text}\n")
    sys.stderr.flush()


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What has to fit: `ranks` of this node write into `folder`; `copies` are further sets, of a partner node."""

    folder: Path
    ranks: int
    copies: int

    def check(self, own_bytes: int) -> None:
        """Raise StorageError, with the arithmetic, unless it fits."""
        need = own_bytes * self.ranks * (GENERATIONS_KEPT + self.copies)
        free = free_bytes(self.folder)
        if need > free:
            partner = f" + {self.copies} of the partner node" if self.copies else ""
            raise StorageError(
                f"{self.folder} is too small: ({GENERATIONS_KEPT} generations{partner}) x {self.ranks} ranks x "
                f"{own_bytes:,} bytes = {need:,} bytes, {free:,} are free",
                hint="free some, or choose another folder (`checkpoint: {scratch: ...}`, or `folder=` of attach)",
            )


class Saving:
    """The saves of one rank."""

    def __init__(self, state: ProgramState, place: Place, policy: SavePolicy, world: tuple[int, int]) -> None:
        self._state, self._place, self._policy = state, place, policy
        self._rank, self._size = world
        self._stage = Stage(_allocator(pinned=state.parts.uses_torch))
        self._background: Background[RankIndex] = Background(self._finished)
        self._prepared = False
        self._fulls: dict[str, RankIndex] = {}
        self._whole: set[str] = set()
        self._in_flight = ""
        self._began = 0.0
        self.parent = ""
        self.blocked_s = 0.0
        self.took_s = 0.0

    @property
    def busy(self) -> bool:
        """Whether a save is unfinished."""
        return self._background.is_busy

    def prepare(self, room: Room | None, position: Position) -> None:
        """Before the first save: everything can be kept, it fits, and the memory is there.

        Raises:
            UsageError: something cannot be saved.
            StorageError: there is no room for it.
        """
        if not self._prepared:
            needed = staged_bytes(self._state.collect(position).sources)
            if room is not None:
                room.check(needed)
            self._stage.prepare(needed)
            self._prepared = True

    def full_base(self) -> str:
        """The newest full save of this rank that is whole; "" for none, and where nothing would refer to it."""
        for generation in reversed(self._fulls) if self._policy.full_every > 1 else ():
            if generation in self._whole or self._place.is_whole(generation):
                self._whole.add(generation)
                return generation
        return ""

    def save(self, told: Told, position: Position, reason: str, base: str) -> bool:
        """Copy the state, and begin to write it; False where that is not possible now.

        Raises:
            UsageError: something cannot be saved.
        """
        generation = generation_of(self._place, told.step)
        kind, _ = kind_of_save(self._policy, since_full=position.since_full, has_base=bool(base))
        position.since_full = (
            position.since_full + 1 if kind.value != SaveKind.FULL.value else 0
        )  # as on all other ranks
        if not self._background.wait(PATIENCE_S if self._in_flight else 0):
            say(f"no checkpoint at step {told.step}: {self._in_flight} is still being written")
            self._in_flight = ""  # the next one does not wait as long
            return False
        began = time.monotonic()
        with phase("save"):
            collected = self._state.collect(position)
            filling = self._stage.begin(collected.sources)
            header = self._header(generation, collected, self._about(told, reason, base if position.since_full else ""))
            self._in_flight, self._began = generation, began
            started = self._background.submit(lambda: self._write(filling.staged, header))
            filling.copy(self._state.settle)
        self.blocked_s = time.monotonic() - began
        return started

    def close(self) -> None:
        """Wait for the save in flight, for as long as can be afforded at the end of a program."""
        if not self._background.wait(CLOSE_S):
            say(f"rank {self._rank} ends although {self._in_flight} is not written after {CLOSE_S:g} s")

    def _write(self, staged: Staged, header: Header) -> RankIndex:
        """Beside training."""
        full = self._fulls.get(header.about.base)
        base = Base(full) if full is not None else None
        options = WriteOptions(compression=self._policy.compression)
        index = write_rank(self._place.folder(header.generation), staged, header, base=base, options=options)
        self._place.written(index)
        return index

    def _finished(self, index: RankIndex | None, error: Exception | None) -> None:
        self.took_s = time.monotonic() - self._began
        if index is not None:
            self.parent = index.generation
            if index.about.kind is SaveKind.FULL:
                self._fulls = {**dict(list(self._fulls.items())[-1:]), index.generation: index}
            return
        what = str(error) if isinstance(error, FtslurmError) else repr(error)
        say(f"checkpoint {self._in_flight} of rank {self._rank} failed, training goes on: {what}")
        self._place.failed(self._in_flight, what)

    def _header(self, generation: str, collected: Collected, about: About) -> Header:
        return Header(
            run_id=self._place.run_id,
            generation=generation,
            world_size=self._size,
            rank=self._rank,
            host=platform.node().split(".")[0] or "localhost",
            about=about,
            objects=collected.objects,
            versions=about.versions,
        )

    def _about(self, told: Told, reason: str, base: str) -> About:
        metrics, odd = split_metrics(told.metrics)
        samples = getattr(self._state.parts.sampler, "samples", None)
        return About(
            reason=reason,
            epoch=told.epoch,
            samples=samples if isinstance(samples, int) else None,
            metrics=metrics,
            odd=odd,
            kind=SaveKind.DIFF if base else SaveKind.FULL,
            base=base,
            parent=self.parent,
            versions=_versions(),
        )


def _versions() -> Mapping[str, str]:
    """Of what made the state."""
    from ftslurm import __version__

    found = {"python": platform.python_version(), "ftslurm": __version__}
    for name in ("numpy", "torch", "mpi4py"):
        if name in sys.modules:
            found[name] = str(sys.modules[name].__version__)
    return found


def _allocator(*, pinned: bool) -> Callable[[int], memoryview]:
    """Memory that a GPU can copy into at full speed, where the program uses one."""
    from ftslurm.checkpoint.stage import anonymous_memory

    if not pinned:
        return anonymous_memory
    from ftslurm.checkpoint.torchplan import host_memory

    return host_memory
