"""All that a program wants kept: gathered into pieces and JSON for a save, and put back after it was read.

In the JSON of every rank's index (`objects`) stand under `common` the values that all ranks share, which count in the
index of rank 0 alone, and under `rank` this rank's own: the states of its random numbers, and what the program has
marked with `PerRank`. Own values are taken up at an equal number of ranks only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ftslurm.checkpoint.objects import Packer, has_state, kind_of
from ftslurm.core.rankindex import Kind
from ftslurm.errors import UsageError
from ftslurm.library import randomness

if TYPE_CHECKING:
    from ftslurm.checkpoint.reader import Counters, Generation
    from ftslurm.checkpoint.stage import Source
    from ftslurm.checkpoint.torchstate import TorchState

COMMON, RANK = "common", "rank"
STATEFUL = ("scheduler", "scaler", "sampler")


@dataclass(slots=True)
class PerRank:
    """A value that each rank has its own of; it is restored on an equal number of ranks only."""

    value: Any


@dataclass(slots=True)
class Parts:
    """What the program has given to `attach`."""

    model: Any = None
    optimizer: Any = None
    scheduler: Any = None
    scaler: Any = None
    sampler: Any = None
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def uses_torch(self) -> bool:
        """Whether anything here is torch's."""
        return self.model is not None or self.optimizer is not None or bool(self.tensors)

    @property
    def tensors(self) -> dict[str, Any]:
        """The tensors of torch in `extra`."""
        return {name: value for name, value in self.extra.items() if kind_of(value) == "torch" and 0 not in value.shape}

    @property
    def arrays(self) -> dict[str, Any]:
        """The NumPy arrays in `extra`, and the boxes of such, by the key under which they are saved."""
        return {f"extra.{name}": value for name, value in self.extra.items() if _is_numpy(value)}

    def values(self) -> Iterator[tuple[str, Any]]:
        """What of `extra` goes into the common JSON: what is neither an array nor a rank's own."""
        for name, value in self.extra.items():
            if name not in self.tensors and not _is_numpy(value) and not isinstance(value, PerRank):
                yield name, value.state_dict() if has_state(value) else value


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """One save's content on this rank."""

    sources: list[Source]
    objects: dict[str, Any]


@dataclass(slots=True, kw_only=True)
class Position:
    """Where the training is; it is saved with the state. `derived_at`: steps at which random numbers began anew."""

    step: int = 0
    seed: int = 0
    best: float | None = None
    since_full: int = 0
    derived_at: list[int] = field(default_factory=list)


def _is_numpy(value: object) -> bool:
    """An array, or what `checkpoint.arrays` makes of one; that is not imported here, because it needs NumPy."""
    wrapped = type(value).__module__ == "ftslurm.checkpoint.arrays"
    return wrapped or (kind_of(value) == "numpy" and 0 not in getattr(value, "shape", ()))


class ProgramState:
    """The parts of a program on this rank."""

    def __init__(self, parts: Parts, rank: int, size: int) -> None:
        """Raises UsageError: a part that cannot be kept."""
        self.parts = parts
        self._rank, self._size = rank, size
        for name in STATEFUL:
            value = getattr(parts, name)
            if value is not None and not has_state(value):
                raise UsageError(f"{name}={type(value).__name__} has no state_dict and load_state_dict")
        self._torch = self._torch_state() if parts.uses_torch else None

    def _torch_state(self) -> TorchState:
        from ftslurm.checkpoint.torchstate import TorchState

        return TorchState(self.parts.model, self.parts.optimizer, self.parts.tensors, (self._rank, self._size))

    def layout(self) -> str:
        """Return a word that must be the same on every rank."""
        return self._torch.layout() if self._torch is not None else ""

    # ----------------------------------------------------------------------------------------------------- saving

    def collect(self, position: Position) -> Collected:
        """Return what this rank has to write now.

        Raises:
            UsageError: something cannot be saved; the message says what and where.
        """
        from ftslurm.library.landing import sources_of

        packer, sources = Packer(), list(self._arrays())
        common: dict[str, Any] = {}
        if self._torch is not None:
            pieces, common["torch"] = self._torch.sources(packer)
            sources += pieces
        for name in STATEFUL:
            value = getattr(self.parts, name)
            if value is not None:
                common[name] = packer.pack(value.state_dict(), name)
        common["extra"] = {name: packer.pack(value, f"extra/{name}") for name, value in self.parts.values()}
        common["position"] = {name: getattr(position, name) for name in Position.__slots__}
        mine = Packer()
        own = {"random": mine.pack(randomness.state(), "rank/random")}
        own["extra"] = {name: mine.pack(value, f"rank/extra/{name}") for name, value in self._own_values()}
        objects: dict[str, Any] = {RANK: own}
        if self._rank == 0:
            objects[COMMON] = common
            sources += sources_of(packer, Kind.REPLICATED)
        return Collected(sources=sources + sources_of(mine, Kind.RANK), objects=objects)

    def settle(self) -> None:
        """Wait until what was copied from a GPU has arrived."""
        if self._torch is not None:
            from ftslurm.checkpoint.torchplan import settle

            settle()

    def _own_values(self) -> Iterator[tuple[str, Any]]:
        for name, value in self.parts.extra.items():
            if isinstance(value, PerRank):
                yield name, value.value.state_dict() if has_state(value.value) else value.value

    def _arrays(self) -> Iterator[Source]:
        """The NumPy arrays of `extra` that fall to this rank."""
        if self.parts.arrays:
            from ftslurm.checkpoint.arrays import sources

            yield from (each for each in sources(self.parts.arrays, self._rank, self._size) if each.nbytes)

    # --------------------------------------------------------------------------------------------------- restoring

    def restore(self, saved: Generation) -> tuple[Position, Counters]:
        """Read everything back and put it into place.

        Raises:
            DataDamaged: the checkpoint is not what was written.
            StorageError: it cannot be read now.
            UsageError: it is that of another program.
        """
        from ftslurm.library.loading import Loading

        return Loading(self.parts, self._torch, saved, (self._rank, self._size)).run()
