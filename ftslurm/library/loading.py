"""Reads a generation into a program: all bytes first, each verified; then the values that are made of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ftslurm.checkpoint.objects import has_state, specs, unpack
from ftslurm.checkpoint.reader import Counters, Generation, Want
from ftslurm.core.strictjson import refuse
from ftslurm.errors import UsageError
from ftslurm.library import randomness
from ftslurm.library.landing import Landing
from ftslurm.library.state import COMMON, RANK, STATEFUL, Parts, PerRank, Position

if TYPE_CHECKING:
    from ftslurm.checkpoint.torchstate import TorchState


class Loading:
    """One restore on this rank."""

    def __init__(self, parts: Parts, torch: TorchState | None, saved: Generation, world: tuple[int, int]) -> None:
        self._parts, self._torch, self._saved = parts, torch, saved
        self._rank, self._size = world
        self._common = _object(saved.objects(0), COMMON)
        self._landing = Landing(self._known, None)
        self._landing.prepare(specs(self._common))
        self._equal = saved.whole.world_size == self._size
        self._mine: dict[str, Any] = {}
        self._own_landing = Landing(self._known_own, self._rank)
        if self._equal:
            self._mine = _object(saved.objects(self._rank), RANK)
            self._own_landing.prepare(specs(self._mine))

    def run(self) -> tuple[Position, Counters]:
        """Read, then put into place; returns the position, and what reading has cost."""
        wants = [*self._landing.wants, *self._own_landing.wants, *self._wants_of_extra()]
        counters = self._saved.read(wants)
        tensors: Mapping[str, Any] = {}
        if self._torch is not None:
            tensors = self._read_tensors(counters)
        common = unpack(self._common, self._landing)
        if self._torch is not None:
            self._torch.finish(tensors, common.get("torch", {}))
        for name in STATEFUL:
            part = getattr(self._parts, name)
            if part is not None:
                if name not in common:
                    raise UsageError(f"the checkpoint has no {name}", hint="leave it out, or use another folder")
                part.load_state_dict(common[name])
        self._take_extra(common.get("extra", {}))
        return self._take_own(_position(common.get("position"))), counters

    def _known(self, key: str) -> tuple[str, tuple[int, ...]] | None:
        tensor = self._saved.whole.tensors.get(key)
        return None if tensor is None else (tensor.dtype, tensor.shape)

    def _known_own(self, key: str) -> tuple[str, tuple[int, ...]] | None:
        entry = self._saved.whole.own[self._rank].get(key)
        return None if entry is None else (entry.dtype, entry.shape)

    def _read_tensors(self, counters: Counters) -> Mapping[str, Any]:
        """Model and optimizer: straight into their memory on the host, through a buffer onto a GPU."""
        from ftslurm.checkpoint import torchplan, torchstate

        assert self._torch is not None  # noqa: S101 - for the type checker: `run` has looked
        prefixes = tuple(f"{name}." for name in (torchstate.MODEL, torchstate.OPTIMIZER))
        extra = {f"extra.{name}" for name in self._parts.tensors}
        saved = {
            key: torchplan.SavedTensor(each.dtype, each.shape, tuple((e.offsets, e.sizes) for _, e in each.pieces))
            for key, each in self._saved.whole.tensors.items()
            if key.startswith(prefixes) or key in extra
        }
        tensors = self._torch.destinations(saved.keys())
        for batch, into in torchplan.landings(torchplan.reads(tensors, saved)):
            pairs = zip(batch, into, strict=True)
            wants = [Want(key=one.key, offsets=one.offsets, sizes=one.sizes, into=array) for one, array in pairs]
            counters.merge(self._saved.read(wants))
        return tensors

    # ------------------------------------------------------------------------------------------------------- extra

    def _wants_of_extra(self) -> list[Want]:
        """NumPy arrays and boxes of them, into the arrays that the program has now."""
        from ftslurm.checkpoint.arrays import wants

        found = wants(self._parts.arrays, self._rank)
        for want in found:
            saved = self._known(want.key) if want.rank is None else self._known_own(want.key)
            dtype = str(want.into.dtype)
            if saved is None or saved[0] != dtype:
                there = "is not in the checkpoint" if saved is None else f"is of {saved[0]} there, of {dtype} here"
                raise UsageError(f"{want.key!r} {there}")
        return [want for want in found if want.into.size and (want.rank is None or self._equal)]

    def _take_extra(self, saved: Mapping[str, Any]) -> None:
        """Values are replaced in the program's dict; objects take up their state."""
        extra = self._parts.extra
        for name, value in saved.items():
            if has_state(extra.get(name)):
                extra[name].load_state_dict(value)
            else:
                extra[name] = value
        for name, _ in self._parts.values():
            if name not in saved:
                raise UsageError(
                    f"extra[{name!r}] is not in the checkpoint", hint="leave it out, or use another folder"
                )

    def _take_own(self, position: Position) -> Position:
        """This rank's own values where there are as many ranks as before; else its random numbers begin anew."""
        if not self._equal:
            randomness.derive(position.seed, position.step, self._rank)
            position.derived_at.append(position.step)
            return position
        mine = unpack(self._mine, self._own_landing)
        for name, value in mine.get("extra", {}).items():
            holder = self._parts.extra.setdefault(name, PerRank(None))
            if isinstance(holder, PerRank) and has_state(holder.value):
                holder.value.load_state_dict(value)
            elif isinstance(holder, PerRank):
                holder.value = value
        randomness.restore(mine.get("random"))
        return position


def _object(objects: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = objects.get(name)
    if not isinstance(found, dict):
        refuse(f"the checkpoint has no {name} values")
    return found


def _position(record: object) -> Position:
    if not isinstance(record, dict) or set(record) != set(Position.__slots__):
        refuse("the checkpoint's position is malformed")
    return Position(**record)
